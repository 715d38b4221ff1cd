// Package telemetry makes what the rest of the daemon reports through: one logger, one metrics registry, one
// tracer provider. It knows no word of the domain; every other package is handed these as constructor
// arguments.
package telemetry

import (
	"context"
	"io"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Config says how to report. The zero value logs JSON from info up.
type Config struct {
	Level  slog.Level // least severe level that is logged; LevelInfo is the zero value
	Format string     // "json" or "text"; anything else counts as json
	Build  Build      // what akidb_build_info says
}

// Telemetry is what a daemon reports through. Its fields are set once and safe for concurrent use.
type Telemetry struct {
	Logger *slog.Logger
	// Level may be set at any time and holds from the next record on, for Logger and all derived from it.
	Level *slog.LevelVar
	// Registry starts with the Go runtime's and the process's metrics and akidb_build_info.
	Registry *prometheus.Registry
	// TracerProvider makes no spans before StartTracing, but passes on the span contexts it is given.
	TracerProvider trace.TracerProvider

	shutdown func(context.Context) error
}

// New logs to w, one Write a record.
func New(cfg Config, w io.Writer) *Telemetry {
	level := new(slog.LevelVar)
	level.Set(cfg.Level)
	t := &Telemetry{
		Logger:         slog.New(newHandler(w, cfg.Format, level)),
		Level:          level,
		Registry:       prometheus.NewRegistry(),
		TracerProvider: noop.NewTracerProvider(),
		shutdown:       func(context.Context) error { return nil },
	}
	t.Registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		newBuildInfo(cfg.Build),
	)
	return t
}

// Shutdown hands over the spans that are still held back, as long as ctx lasts. Records went to w at once.
func (t *Telemetry) Shutdown(ctx context.Context) error { return t.shutdown(ctx) }
