package api

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// ServerConfig tunes a Server. The zero value serves plain HTTP/1.1 and h2c with the defaults named here.
type ServerConfig struct {
	// TLS turns TLS on, with HTTP/2 by ALPN. Default: none; HTTP/2 then is h2c with prior knowledge.
	TLS *tls.Config

	// ReadHeaderTimeout is how long a request's headers may take. Default 5 s.
	ReadHeaderTimeout time.Duration
	// IdleTimeout is how long a connection may wait for its next request. Default 120 s: longer than the
	// pools of common clients and load balancers (60 to 90 s), so that they close first.
	IdleTimeout time.Duration
	// MaxHeaderBytes bounds a request's line and headers. Default 64 KiB.
	MaxHeaderBytes int
	// MaxStreams is how many requests one HTTP/2 connection may have at once. Default 256.
	MaxStreams int

	// DrainDelay is how long a drain still takes connections and answers as ever, but with
	// "Connection: close" (GOAWAY in HTTP/2): load balancers see readiness fail and clients leave by
	// themselves, none finding its connection closed under its hands. Default 0: shutdown at once.
	DrainDelay time.Duration
	// Grace is how long accepted requests may take to finish after that. Then their connections are closed.
	// Default 15 s.
	Grace time.Duration

	// Logger gets net/http's complaints (debug) and requests cut off by the end of the grace (warn).
	// Default: discarded.
	Logger *slog.Logger
}

// Server serves a handler on listeners and drains without losing an accepted request.
type Server struct {
	cfg      ServerConfig
	http     *http.Server
	drain    chan struct{} // closed: Drain was called
	once     sync.Once
	done     chan struct{} // closed: Run has returned
	draining context.Context
	leave    context.CancelFunc // ends draining
	closing  context.Context
	shut     context.CancelFunc // ends closing: streams must go
	delay    atomic.Int64       // DrainDelay, ns
	grace    atomic.Int64       // Grace, ns
}

// NewServer makes a Server of h. It serves once.
func NewServer(cfg ServerConfig, h http.Handler) *Server {
	cfg.ReadHeaderTimeout = cmp.Or(cfg.ReadHeaderTimeout, 5*time.Second)
	cfg.IdleTimeout = cmp.Or(cfg.IdleTimeout, 120*time.Second)
	cfg.MaxHeaderBytes = cmp.Or(cfg.MaxHeaderBytes, 64<<10)
	cfg.MaxStreams = cmp.Or(cfg.MaxStreams, 256)
	cfg.Grace = cmp.Or(cfg.Grace, 15*time.Second)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, drain: make(chan struct{}), done: make(chan struct{})}
	s.draining, s.leave = context.WithCancel(context.Background())
	s.closing, s.shut = context.WithCancel(context.Background())
	s.SetDrain(cfg.DrainDelay, cfg.Grace)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(cfg.TLS != nil)
	protocols.SetUnencryptedHTTP2(cfg.TLS == nil)
	s.http = &http.Server{
		Handler:           s.wrap(h),
		ConnState:         connState,
		Protocols:         protocols,
		TLSConfig:         cfg.TLS,
		ReadHeaderTimeout: cfg.ReadHeaderTimeout,
		IdleTimeout:       cfg.IdleTimeout,
		MaxHeaderBytes:    cfg.MaxHeaderBytes,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: cfg.MaxStreams,
			SendPingTimeout:      30 * time.Second, // finds clients that vanished under an idle stream
			PingTimeout:          15 * time.Second,
			WriteByteTimeout:     30 * time.Second,
		},
		ErrorLog: slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
	}
	return s
}

// wrap asks clients to leave while the server drains. It says so when the handler has written its answer's
// head, not when the request came: what started before the drain says it too.
func (s *Server) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := context.WithValue(r.Context(), drainKey{}, s.closing)
		l := &leaving{ResponseWriter: w, server: s}
		h.ServeHTTP(l, r.WithContext(ctx))
		l.head()
	})
}

// leaving adds "Connection: close" to the answers of a draining server. net/http turns it into GOAWAY in
// HTTP/2.
type leaving struct {
	http.ResponseWriter
	server *Server
	headed bool
}

func (l *leaving) head() {
	if !l.headed {
		l.headed = true
		if l.server.draining.Err() != nil {
			l.Header().Set("Connection", "close")
		}
	}
}

func (l *leaving) WriteHeader(status int) {
	if status >= 200 {
		l.head()
	}
	l.ResponseWriter.WriteHeader(status)
}

func (l *leaving) Write(p []byte) (int, error) {
	l.head()
	return l.ResponseWriter.Write(p)
}

func (l *leaving) Flush() {
	l.head()
	_ = http.NewResponseController(l.ResponseWriter).Flush()
}

func (l *leaving) Unwrap() http.ResponseWriter { return l.ResponseWriter }

type drainKey struct{}

// drainingOf gives a context that ends when the Server that serves ctx wants long streams to end; it never
// does where there is none.
func drainingOf(ctx context.Context) context.Context {
	if closing, ok := ctx.Value(drainKey{}).(context.Context); ok {
		return closing
	}
	return context.Background()
}

// Run serves on the listeners until ctx ends or Drain is called, drains and returns: nil when no request was
// cut off, else an error that says how it ended. A listener that fails ends all. Run closes the listeners.
func (s *Server) Run(ctx context.Context, listeners ...net.Listener) error {
	defer close(s.done)
	defer s.shut()
	defer s.leave()
	failed := make(chan error, len(listeners))
	gates := make([]*gate, len(listeners))
	var serving sync.WaitGroup
	for i, ln := range listeners {
		gates[i] = newGate(ln)
		serving.Go(func() {
			err := s.serve(gates[i])
			if !errors.Is(err, http.ErrServerClosed) && s.draining.Err() == nil {
				failed <- fmt.Errorf("serve on %s: %w", ln.Addr(), err)
			}
		})
	}
	defer serving.Wait()
	select {
	case <-ctx.Done():
	case <-s.drain:
	case err := <-failed:
		return errors.Join(err, s.http.Close())
	}

	s.leave()
	sleep(time.Duration(s.delay.Load()))
	limit := time.Duration(s.grace.Load())
	grace, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := s.shutdown(grace, gates, &serving); err != nil {
		s.cfg.Logger.Warn("drain ran out of time: open connections are cut off", "grace_seconds", limit.Seconds())
		err = errors.Join(fmt.Errorf("drain: requests were cut off after %s: %w", limit, err), s.http.Close())
		for _, g := range gates {
			for _, c := range g.open() {
				_ = c.Conn.Close()
			}
		}
		return err
	}
	return nil
}

// shutdown ends the listeners and the connections. What http.Server.Shutdown would close under a client's
// hands is gone, or spared, when it is called.
func (s *Server) shutdown(grace context.Context, gates []*gate, serving *sync.WaitGroup) error {
	for _, g := range gates {
		serving.Go(g.shut)
	}
	for _, g := range gates {
		g.wait()
		if err := g.Close(); err != nil {
			return err
		}
	}
	s.shut()
	if err := until(grace, gates, func(c *gateConn) bool { return !c.end() }); err != nil {
		return err
	}
	for _, g := range gates {
		for _, c := range g.open() {
			c.endH2()
		}
	}
	if err := s.http.Shutdown(grace); err != nil {
		return err
	}
	return until(grace, gates, func(*gateConn) bool { return false })
}

// until waits until done says so of every open connection. It looks every 10 ms: nothing tells when a
// connection has waited for linger.
func until(ctx context.Context, gates []*gate, done func(*gateConn) bool) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		all := true
		for _, g := range gates {
			for _, c := range g.open() {
				all = done(c) && all
			}
		}
		if all {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (s *Server) serve(ln net.Listener) error {
	if s.cfg.TLS != nil {
		return s.http.ServeTLS(ln, "", "")
	}
	return s.http.Serve(ln)
}

// SetDrain changes DrainDelay and Grace; it counts for a drain that begins later.
func (s *Server) SetDrain(delay, grace time.Duration) {
	s.delay.Store(int64(delay))
	s.grace.Store(int64(grace))
}

// Leave asks clients to leave from now on, as in a drain's delay, and goes on serving: for who has a delay of
// its own before the drain.
func (s *Server) Leave() { s.leave() }

// Drain starts the drain and waits until Run has returned or ctx ends.
func (s *Server) Drain(ctx context.Context) error {
	s.once.Do(func() { close(s.drain) })
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain: %w", ctx.Err())
	}
}

func sleep(d time.Duration) {
	if d > 0 {
		t := time.NewTimer(d)
		<-t.C
	}
}
