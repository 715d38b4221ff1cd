// Package infer is the engine: it turns texts into vectors on this machine. It reads model directories,
// tokenizes, queues, batches, runs and watches Backends, and swaps model versions without a dropped request.
// It knows nothing of HTTP, peers or S3.
//
// A request lives like this: Embed tokenizes in the caller's goroutine, puts one item per distinct input into
// the model's queue, and waits. dispatch, called whenever an item comes or a run ends, starts runs while lanes
// are free. There is no timer: batches form because the lanes are busy.
package infer

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/akidb/akidbd/internal/embedding"
)

// WideMode says when a run may use all cores.
type WideMode string

// Modes of Config.Wide.
const (
	WideAuto   WideMode = "auto"   // while the cores are not busy: cores.go
	WideAlways WideMode = "always" // every run, one after the other: for comparison
	WideNever  WideMode = "never"  // one core per run
)

// Config has the engine's knobs. The zero value of a field means its default.
type Config struct {
	Open    Open    // opens a model; required
	Options Options // given to Open; Options.Threads 0 becomes the number of usable cores

	// BatchTokens is the padded tokens one run on the CPU may hold. Default 256: larger ones only add latency
	// (docs/benchmarks.md). On a GPU a run holds what the backend takes.
	BatchTokens int
	// QueueTokens is how many tokens may wait. While that many wait, new requests are refused as overloaded; one
	// request may overshoot it. Default 65,536: about ten seconds of MiniLM on two cores.
	QueueTokens int
	Wide        WideMode      // default auto
	RunTimeout  time.Duration // one run; then it is aborted and, if it will not end, the backend is given up. Default 30 s
	LoadTimeout time.Duration // opening and warming one model; a native build is not interrupted. Default 10 min
	// Linger is how long a replaced version still answers requests that pin its digest; only the last one does.
	// Default 10 s, one request deadline.
	Linger time.Duration
	// Hold is how long requests for a model whose backend was lost wait for it to be opened again, those whose run
	// was lost included; then they fail as unavailable, and another node may be asked. Default 1.5 s; negative: not
	// at all. A backend that is lost again and again is not waited for.
	Hold time.Duration
	// Unload ends the serving version of a model before its successor is opened: for machines that do not hold
	// both. Requests are held meanwhile, and the version before is opened again when the new one fails.
	Unload bool

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

func (c *Config) setDefaults() error {
	if c.Open == nil {
		return errors.New("infer: Config.Open is required")
	}
	if c.Options.Threads <= 0 {
		c.Options.Threads = runtime.GOMAXPROCS(0) // cgroup- and affinity-aware since Go 1.25
	}
	c.BatchTokens = cmp.Or(c.BatchTokens, 256)
	c.QueueTokens = cmp.Or(c.QueueTokens, 65536)
	c.Wide = cmp.Or(c.Wide, WideAuto)
	c.RunTimeout = cmp.Or(c.RunTimeout, 30*time.Second)
	c.LoadTimeout = cmp.Or(c.LoadTimeout, 10*time.Minute)
	c.Linger = cmp.Or(c.Linger, 10*time.Second)
	c.Hold = cmp.Or(c.Hold, 1500*time.Millisecond)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Engine serves the models that were installed into it. It is safe for concurrent use.
type Engine struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics

	ctx        context.Context // ends when Run ends; every goroutine below belongs to it
	cancel     context.CancelFunc
	wg         sync.WaitGroup
	tokenizing chan struct{} // a place for each core
	wake       chan struct{} // tells supervise that an instance needs a look
	beat       atomic.Int64  // Unix nanoseconds of the last round of supervise

	loadsMu sync.Mutex // of its own: whether a load is overdue is asked when the engine hangs
	loads   map[*load]struct{}

	mu        sync.Mutex
	closed    bool
	entries   map[string]*entry // by model name
	aliases   map[string]string // alias to model name
	instances []*instance       // every open version: current, retired, lost
	runs      map[*run]struct{}
	suspects  map[suspectKey]suspicion // inputs on which backends were lost
	cores     int                      // cores that runs on the CPU occupy now
	wide      int                      // wide runs among them
	arrived   workload                 // on the CPU
	vtime     uint64                   // virtual time of fair queueing, in tokens of one request (queue.go)
	calls     int                      // requests that wait for an answer
	seq       uint64
	queued    int // tokens waiting over all queues
}

// entry is a configured model name: what serves it now, or why nothing does.
type entry struct {
	name     string
	settings Settings
	current  *instance // nil until the first install succeeded
	state    embedding.ModelState
	reason   string
	reopens  int         // consecutive, for the back-off
	restarts int         // times that a lost version was opened again
	losses   []time.Time // of the last lossWindow
	loss     string      // why the last one happened
}

// New makes an engine without models. Run must be running for it to serve.
func New(cfg Config) (*Engine, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	e := &Engine{
		cfg: cfg, log: cfg.Logger, metrics: newMetrics(cfg.Registerer),
		ctx: ctx, cancel: cancel, wake: make(chan struct{}, 1), tokenizing: make(chan struct{}, cfg.Options.Threads),
		entries: map[string]*entry{}, aliases: map[string]string{}, runs: map[*run]struct{}{},
		suspects: map[suspectKey]suspicion{}, loads: map[*load]struct{}{},
	}
	e.beat.Store(time.Now().UnixNano())
	return e, nil
}

// Heartbeat is when the engine last looked after itself: at most a quarter of a second ago while it is well,
// whatever it computes.
func (e *Engine) Heartbeat() time.Time { return time.Unix(0, e.beat.Load()) }

// Run watches the backends until ctx ends, then fails what waits as unavailable, aborts what runs and closes
// every backend. The caller drains first if requests are to be answered.
func (e *Engine) Run(ctx context.Context) error {
	e.supervise(ctx)

	e.mu.Lock()
	e.closed = true
	for _, in := range e.instances {
		e.failQueue(in)
	}
	instances := e.instances
	e.instances = nil
	e.mu.Unlock()

	e.cancel()
	e.wg.Wait()
	var errs []error
	for _, in := range instances {
		errs = append(errs, in.backend.Close())
	}
	return errors.Join(errs...)
}

// Load is how much waits for a model.
type Load struct {
	Inputs int           // waiting or running
	Tokens int           // waiting
	Delay  time.Duration // estimated wait of a request that comes now; 0 until a run has been measured
}

// Loads reports how much waits now, by model name.
func (e *Engine) Loads() map[string]Load {
	e.mu.Lock()
	defer e.mu.Unlock()
	loads := make(map[string]Load, len(e.entries))
	for _, in := range e.instances {
		l := loads[in.artifact.Model.Name]
		l.Inputs += len(in.queue.byLen)
		l.Tokens += in.queue.tokens
		l.Delay += e.drainTime(in, in.queue.tokens)
		loads[in.artifact.Model.Name] = l
	}
	for r := range e.runs {
		l := loads[r.in.artifact.Model.Name]
		l.Inputs += len(r.items)
		loads[r.in.artifact.Model.Name] = l
	}
	return loads
}

// Models lists the models that were announced or installed, sorted by name.
func (e *Engine) Models() []embedding.ModelInfo {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.modelInfos()
}
