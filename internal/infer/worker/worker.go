// Package worker runs an infer.Backend in a process of its own: a crash of ONNX Runtime, a GPU driver that hangs or a
// model that eats the memory takes a worker, not the node.
//
// One worker serves one opened model. The process ends when the model is closed, so its memory goes back to the
// system, whatever the native library keeps. Host starts workers and is an infer.Open for the engine; Main is the
// other end, what `akidbd worker` runs. Between them is one socketpair with frames (frame.go): vectors are small, so
// there is no shared memory.
//
// A worker lives no longer than its host: it has a parent death signal and ends when its socket does. Host ends one
// that does not beat (process.go).
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/akidb/akidbd/internal/infer"
)

// Config has a Host's knobs.
type Config struct {
	// Command is the program that calls Main, with its arguments. Default: this program's own file, even if it was
	// replaced on disk since, with the argument "worker".
	Command []string
	Name    string // what the process calls itself, argv[0]; default that of this one
	// Environment is added to what a worker inherits, which is little: see environment.
	Environment []string
	Library     string // given to the Load of Main; its words are Load's own
	Logger      *slog.Logger
	Registerer  prometheus.Registerer
}

// Host starts and watches workers. It is safe for concurrent use.
type Host struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	starts  chan func() // run by the one thread that all workers call their parent
	starter sync.WaitGroup

	mu     sync.Mutex
	closed bool
	spare  *process // started by Start and without a model yet
	all    map[*process]struct{}
}

// NewHost makes a Host without workers. Close ends it.
func NewHost(cfg Config) *Host {
	if len(cfg.Command) == 0 {
		cfg.Command = []string{"/proc/self/exe", "worker"}
	}
	if cfg.Name == "" {
		cfg.Name = os.Args[0]
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Host{cfg: cfg, log: cfg.Logger, starts: make(chan func()), all: map[*process]struct{}{}}
	h.metrics = newMetrics(cfg.Registerer, h.rss)
	// The parent death signal comes when the thread that forked ends, not the process: one thread forks all.
	h.starter.Go(func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for start := range h.starts {
			start()
		}
	})
	return h
}

// Start starts a first worker, so that a library which does not load is told before anything is served, and gives
// the library's version. That worker takes the first model.
func (h *Host) Start(ctx context.Context) (version string, err error) {
	p, err := h.ready(ctx)
	if err != nil {
		return "", err
	}
	h.mu.Lock()
	before := h.spare
	h.spare = p
	h.mu.Unlock()
	if before != nil {
		return p.version, before.close()
	}
	return p.version, nil
}

// Open is an infer.Open: a worker that serves the artifact. When ctx ends the worker does too, whatever it was
// building.
func (h *Host) Open(ctx context.Context, a infer.Artifact, opt infer.Options) (infer.Backend, error) {
	h.mu.Lock()
	p := h.spare
	h.spare = nil
	h.mu.Unlock()
	if p != nil && p.isDead() {
		p = nil
	}
	if p == nil {
		var err error
		if p, err = h.ready(ctx); err != nil {
			return nil, err
		}
	}
	caps, err := p.open(ctx, a, opt)
	if err != nil {
		p.discard()
		return nil, err
	}
	h.log.Debug("worker serves", "model", a.Model, "worker_pid", p.pid())
	return &backend{process: p, caps: caps}, nil
}

// Close ends the workers that are left. Backends should have been closed before.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	left := slices.Collect(maps.Keys(h.all))
	h.mu.Unlock()
	var errs []error
	for _, p := range left {
		errs = append(errs, p.close())
	}
	close(h.starts)
	h.starter.Wait()
	return errors.Join(errs...)
}

// ready starts a worker and waits until its library is loaded.
func (h *Host) ready(ctx context.Context) (*process, error) {
	p, err := h.start()
	if err != nil {
		return nil, fmt.Errorf("worker process: %w", err)
	}
	if err := p.hello(ctx, hello{Library: h.cfg.Library, Debug: h.log.Enabled(ctx, slog.LevelDebug), OOM: oomScore(os.Getpid()) + oomAbove}); err != nil {
		p.discard()
		return nil, err
	}
	return p, nil
}

func (h *Host) start() (*process, error) {
	var p *process
	var err error
	started := make(chan struct{})
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, errors.New("the host is closed")
	}
	h.starts <- func() {
		defer close(started)
		p, err = spawn(h)
	}
	<-started
	if err != nil {
		return nil, err
	}
	h.all[p] = struct{}{}
	p.watch()
	return p, nil
}

func (h *Host) forget(p *process) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.all, p)
}

// rss is the resident memory of all workers.
func (h *Host) rss() float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	sum := uint64(0)
	for p := range h.all {
		sum += p.rss.Load()
	}
	return float64(sum)
}

// How a worker is watched and ended.
const (
	beatEvery   = 100 * time.Millisecond // a worker's beats, from a goroutine that computes nothing
	lookEvery   = 200 * time.Millisecond // the host's looks
	missedLooks = 4                      // looks without a frame before a worker counts as hung
	// missedStopped is the same for one that the system says is stopped: no load of the machine explains that.
	missedStopped = 2
	// missedWhileLoading is the same before it serves: reading gigabytes may stall a process.
	missedWhileLoading = 50
	// missedEnding is the same once its socket ended: nothing can come any more, only its end.
	missedEnding = 5
	// abortGrace is how long an aborted run may go on before its worker is ended: ONNX Runtime looks between two
	// nodes of a graph, which takes milliseconds.
	abortGrace = 5 * time.Second
	closeGrace = 5 * time.Second // from the close frame to SIGTERM
	termGrace  = 2 * time.Second // from SIGTERM to SIGKILL
	killGrace  = 10 * time.Second
	oomAbove   = 300 // by how much a worker's oom_score_adj is above the host's: the kernel takes it first
)
