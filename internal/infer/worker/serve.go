package worker

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/akidb/akidbd/internal/infer"
)

// Load loads the native library and gives its version and what opens a model with it.
type Load func(library string, log *slog.Logger) (version string, open infer.Open, err error)

// socketFD is where a worker finds its socket.
const socketFD = 3

// Main is a worker. It returns when its host closed it or went away; the process must then exit, runs may still
// compute. Only a Host can start one.
func Main(load Load) error {
	f := os.NewFile(socketFD, "socket")
	conn, err := net.FileConn(f)
	if err != nil {
		return errors.New("a worker is started by akidbd serve, not by hand: it has no socket")
	}
	_ = f.Close()
	level := &slog.LevelVar{}
	s := &server{
		conn: conn, out: frameWriter{w: conn}, load: load, level: level,
		log:  slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
		runs: map[uint64]context.CancelFunc{},
	}
	// Service managers signal every process of a service: a worker must go on while its host drains. It obeys
	// SIGTERM once it was told to close.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	go func() {
		for sig := range signals {
			if sig == syscall.SIGTERM && s.closing.Load() {
				s.log.Warn("a worker ends with runs in flight")
				os.Exit(1)
			}
		}
	}()
	return s.serve()
}

// server is the worker's end of the socket.
type server struct {
	conn  net.Conn
	out   frameWriter
	load  Load
	log   *slog.Logger
	level *slog.LevelVar

	closing atomic.Bool

	mu      sync.Mutex
	open    infer.Open
	opening bool
	backend infer.Backend
	limit   int // bytes of a run
	runs    map[uint64]context.CancelFunc
	running sync.WaitGroup
}

// maxRuns bounds the runs in flight: a host sends no more than it has lanes, and a canary.
const maxRuns = 4096

func (s *server) serve() error {
	go s.beat()
	ended := make(chan error, 1)
	go func() { ended <- s.read(ended) }()
	return <-ended
}

// read takes frames. EOF is the end of the host: there is nobody to finish anything for.
func (s *server) read(ended chan<- error) error {
	r := bufio.NewReaderSize(s.conn, 64<<10)
	for {
		h, err := readHeader(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		limit := 0
		switch h.kind {
		case kindHello, kindOpen:
			limit = maxJSON
		case kindRun:
			s.mu.Lock()
			limit = s.limit
			s.mu.Unlock()
		case kindCancel, kindClose:
		default:
			return fmt.Errorf("a frame of kind %d", h.kind)
		}
		data, err := readPayload(r, h, limit)
		if err != nil {
			return err
		}
		switch h.kind {
		case kindHello:
			err = s.hello(data)
		case kindOpen:
			err = s.openModel(data, ended)
		case kindRun:
			err = s.start(h.id, data)
		case kindCancel:
			s.mu.Lock()
			if cancel := s.runs[h.id]; cancel != nil {
				cancel()
			}
			s.mu.Unlock()
		case kindClose:
			s.closing.Store(true)
			go func() { ended <- s.close() }()
		}
		if err != nil {
			return err
		}
	}
}

func (s *server) hello(data []byte) error {
	var h hello
	if err := json.Unmarshal(data, &h); err != nil {
		return err
	}
	if h.Debug {
		s.level.Set(slog.LevelDebug)
	}
	if err := setOOMScore(h.OOM); err != nil {
		s.log.Debug("oom_score_adj cannot be raised: out of memory, the kernel may not take a worker first", "err", err)
	}
	if err := confine(); err != nil {
		s.log.Debug("a worker is not kept from the network", "err", err)
	}
	version, open, err := s.load(h.Library, s.log)
	if err != nil {
		return s.fail(0, false, err)
	}
	s.mu.Lock()
	s.open = open
	s.mu.Unlock()
	return s.out.sendJSON(kindReady, ready{version}, maxMessage)
}

// openModel opens the model beside the reader: the host may go away meanwhile.
func (s *server) openModel(data []byte, ended chan<- error) error {
	var o open
	if err := json.Unmarshal(data, &o); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil || s.opening {
		return errors.New("open comes once, after hello")
	}
	s.opening = true
	go func() {
		b, err := s.open(context.Background(), o.Artifact, o.Options)
		if err != nil {
			_ = s.fail(0, false, err)
			return
		}
		caps := b.Caps()
		if err := checkCaps(caps); err != nil {
			_ = s.fail(0, false, err)
			return
		}
		s.mu.Lock()
		s.backend, s.limit = b, runLimit(caps)
		s.mu.Unlock()
		_ = s.out.sendJSON(kindOpened, caps, maxMessage)
		<-b.Done()
		if !s.closing.Load() {
			ended <- errors.New("the backend was lost")
		}
	}()
	return nil
}

func (s *server) start(id uint64, data []byte) error {
	batch, err := parseBatch(data)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.backend == nil || s.runs[id] != nil || len(s.runs) >= maxRuns || id == 0 {
		return fmt.Errorf("run %d cannot be taken", id)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.runs[id] = cancel
	b := s.backend
	s.running.Go(func() {
		defer cancel()
		out, err := infer.SafeRun(ctx, b, batch)
		s.mu.Lock()
		delete(s.runs, id)
		s.mu.Unlock()
		if err != nil {
			_ = s.fail(id, ctx.Err() != nil, err)
			return
		}
		dims := b.Caps().Dimensions
		_ = s.out.send(kindVectors, id, func(buf []byte) []byte { return appendVectors(buf, out.Vectors, dims) })
	})
	return nil
}

func (s *server) close() error {
	s.running.Wait()
	s.mu.Lock()
	b := s.backend
	s.mu.Unlock()
	if b == nil {
		return nil
	}
	return b.Close()
}

// beat tells the host that this process lives, whatever it computes.
func (s *server) beat() {
	const rssEvery = 10 // beats
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	rss := uint64(0)
	for n := 0; ; n++ {
		if n%rssEvery == 0 {
			rss = residentBytes()
		}
		if s.out.send(kindBeat, 0, func(buf []byte) []byte { return binary.LittleEndian.AppendUint64(buf, rss) }) != nil {
			return
		}
		<-tick.C
	}
}

func (s *server) fail(id uint64, canceled bool, err error) error {
	text := err.Error()
	text = text[:min(len(text), maxMessage-1)]
	flag := byte(0)
	if canceled {
		flag = 1
	}
	return s.out.send(kindFailed, id, func(buf []byte) []byte { return append(append(buf, flag), text...) })
}
