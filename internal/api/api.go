// Package api is the door of a node: the HTTP and gRPC surface over one Embedder. It owns request decoding,
// limits, API keys, the table of status codes, health documents and the drain of connections, and knows
// nothing of what is behind the Embedder.
//
// Routes, all on one port, HTTP/1.1 and HTTP/2:
//
//	POST /api/v1/embed, GET /api/v1/models       native JSON
//	POST /v1/embeddings, GET /v1/models[/{id}]   OpenAI's
//	akidb.v1.EmbeddingService                    gRPC, gRPC-Web and Connect, with reflection
//	grpc.health.v1.Health
//	GET /health, /livez, /readyz, /metrics, /
package api

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/akidb/akidbd/internal/embedding"
)

// Embedder answers embedding requests: the engine of this node or a router over many.
type Embedder interface {
	Embed(ctx context.Context, req embedding.Request) (embedding.Result, error)
}

// Config tunes an API. The zero value serves with the defaults named here, without keys and metrics.
type Config struct {
	// NodeName is this node's name in x-akidb-node and in health documents when the Result or Health names
	// none. Default "unknown".
	NodeName string
	// Region is this node's region, likewise, and the region label of akidb_embed_requests_total. Default
	// "unknown".
	Region string

	// MaxBodyBytes is the largest request body or gRPC message, in bytes. Default 8 MiB, at most 1 GiB.
	MaxBodyBytes int64
	// MaxInputs is how many inputs one request may carry. Default 2048, OpenAI's limit.
	MaxInputs int
	// MaxInputBytes is the longest single text, in bytes; a token-id input may have a quarter as many ids.
	// Default MaxBodyBytes, so that it limits nothing of its own.
	MaxInputBytes int
	// MaxInflight is how many embed requests are computed at once; more are answered overloaded. Default 1024.
	MaxInflight int
	// MaxMemory is how many bytes of bodies and answers may be in progress at once, those of streams apart; what
	// goes beyond is answered overloaded. Default 512 MiB; at least MaxBodyBytes.
	MaxMemory int64
	// StreamWindow is how many requests of one EmbedStream are computed at once. Default 8, at most 256.
	StreamWindow int

	// Deadline is how long an embed request may take from its headers to its answer. A client may ask for
	// less with "x-akidb-timeout: 250ms" (a Go duration, or a whole number of milliseconds), grpc-timeout or
	// connect-timeout-ms, never for more. Default 10 s.
	Deadline time.Duration
	// BodyTimeout is how long reading a request body may take. Default 30 s.
	BodyTimeout time.Duration
	// WriteTimeout is how long writing one answer to a slow client may take. Default 30 s.
	WriteTimeout time.Duration
	// RetryAfter is what overloaded and unavailable answers ask a client to wait; whole seconds, rounded up.
	// Default 1 s.
	RetryAfter time.Duration

	// TokenIDs lets clients send token ids instead of texts. Off by default: LangChain sends the ids of
	// another model's tokenizer unless told otherwise, which would give garbage with a 200.
	TokenIDs bool

	// KeysFile holds the API keys, see LoadKeys. Empty: no key is asked for.
	KeysFile string
	// RequireKeyForMetrics asks for a key on /metrics too. Health routes never need one.
	RequireKeyForMetrics bool

	// Version is shown by GET / and in /health when Health has none.
	Version string

	// Logger gets one line per request: info for server errors, debug otherwise. Default: discarded.
	Logger *slog.Logger
	// Registerer takes this package's metrics. Default: a registry of its own, which nobody sees.
	Registerer prometheus.Registerer
	// Gatherer is what GET /metrics shows. Default: /metrics answers 404.
	Gatherer prometheus.Gatherer
	// Tracer makes one span "embed_request" per embed request, child of the client's traceparent. Default:
	// none are made.
	Tracer trace.Tracer
}

func (c Config) withDefaults() (Config, error) {
	c.NodeName = cmp.Or(c.NodeName, "unknown")
	c.Region = cmp.Or(c.Region, "unknown")
	c.MaxBodyBytes = cmp.Or(c.MaxBodyBytes, 8<<20)
	c.MaxInputs = cmp.Or(c.MaxInputs, 2048)
	c.MaxInputBytes = cmp.Or(c.MaxInputBytes, int(c.MaxBodyBytes))
	c.MaxInflight = cmp.Or(c.MaxInflight, 1024)
	c.MaxMemory = max(cmp.Or(c.MaxMemory, 512<<20), c.MaxBodyBytes)
	c.StreamWindow = cmp.Or(c.StreamWindow, 8)
	c.Deadline = cmp.Or(c.Deadline, 10*time.Second)
	c.BodyTimeout = cmp.Or(c.BodyTimeout, 30*time.Second)
	c.WriteTimeout = cmp.Or(c.WriteTimeout, 30*time.Second)
	c.RetryAfter = cmp.Or(c.RetryAfter, time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Registerer == nil {
		c.Registerer = prometheus.NewRegistry()
	}
	if c.Tracer == nil {
		c.Tracer = noop.NewTracerProvider().Tracer("")
	}
	for _, limit := range []struct {
		name           string
		value, lo, top int64
	}{
		{"max body bytes", c.MaxBodyBytes, 1, 1 << 30},
		{"max inputs", int64(c.MaxInputs), 1, 1 << 20},
		{"max input bytes", int64(c.MaxInputBytes), 1, 1 << 30},
		{"max inflight", int64(c.MaxInflight), 1, 1 << 20},
		{"stream window", int64(c.StreamWindow), 1, 256},
		{"deadline in ms", c.Deadline.Milliseconds(), 1, 3600_000},
		{"body timeout in ms", c.BodyTimeout.Milliseconds(), 1, 3600_000},
		{"write timeout in ms", c.WriteTimeout.Milliseconds(), 1, 3600_000},
		{"retry after in ms", c.RetryAfter.Milliseconds(), 1, 3600_000},
	} {
		if limit.value < limit.lo || limit.value > limit.top {
			return c, fmt.Errorf("api: %s must be between %d and %d, got %d", limit.name, limit.lo, limit.top, limit.value)
		}
	}
	return c, nil
}

// API serves the routes. Make it with New; it is safe for concurrent use.
type API struct {
	log      *slog.Logger
	embedder Embedder
	node     Node
	metrics  *metrics
	keys     atomic.Pointer[Keys] // nil: no key is asked for
	inflight atomic.Int64         // embed requests
	held     atomic.Int64         // bytes of bodies and answers in progress
	bodies   bodies
	current  atomic.Pointer[surface]
	rewatch  chan struct{} // tells Run that KeysFile is another one
}

// surface is the API as one Config makes it. A request stays with the surface it began on, so that a reload in
// its middle does not change its rules.
type surface struct {
	*API
	cfg        Config
	retryAfter string // header value
	routes     *routing
	rpcErrors  *connect.ErrorWriter
}

// New builds an API. It reads the keys file, when there is one, and fails when it cannot be used.
func New(cfg Config, embedder Embedder, node Node) (*API, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	a := &API{log: cfg.Logger, embedder: embedder, node: node, rewatch: make(chan struct{}, 1)}
	keys, err := loadKeys(cfg.KeysFile)
	if err != nil {
		return nil, err
	}
	s := a.surface(cfg)
	if a.metrics, err = newMetrics(cfg.Registerer, cfg.Region, s.routes.all()); err != nil {
		return nil, fmt.Errorf("api: register metrics: %w", err)
	}
	a.current.Store(s)
	a.SetKeys(keys)
	a.warnAboutKeys(keys, cfg.KeysFile)
	return a, nil
}

func (a *API) surface(cfg Config) *surface {
	s := &surface{
		API: a,
		cfg: cfg,
		// Whole seconds are all that Retry-After has.
		retryAfter: fmt.Sprint(int64((cfg.RetryAfter + time.Second - 1) / time.Second)),
	}
	s.routes = s.makeRoutes()
	return s
}

// Reload puts cfg in force for the requests that come from now on: limits, times, TokenIDs, keys file and
// RequireKeyForMetrics. NodeName, Region, Version, Logger, Registerer, Gatherer and Tracer stay as New had
// them. When it fails, nothing has changed.
func (a *API) Reload(cfg Config) error {
	old := a.current.Load().cfg
	cfg.NodeName, cfg.Region, cfg.Version = old.NodeName, old.Region, old.Version
	cfg.Logger, cfg.Registerer, cfg.Gatherer, cfg.Tracer = old.Logger, old.Registerer, old.Gatherer, old.Tracer
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	keys, err := loadKeys(cfg.KeysFile)
	if err != nil {
		a.metrics.keysFailed.Inc()
		return err
	}
	a.SetKeys(keys)
	a.current.Store(a.surface(cfg))
	a.warnAboutKeys(keys, cfg.KeysFile)
	if cfg.KeysFile != old.KeysFile {
		select {
		case a.rewatch <- struct{}{}:
		default: // Run was told already
		}
	}
	return nil
}

// Handler serves all routes.
func (a *API) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.current.Load().ServeHTTP(w, r)
	})
}
