package telemetry

import (
	"context"
	"io"
	"log/slog"

	"go.opentelemetry.io/otel/trace"
)

// handler adds trace_id and span_id to the records of a context that has a span.
type handler struct {
	next slog.Handler // everything applied
	// The ids belong at the top, but an open group takes in every attribute that a record is given. So top
	// stays outside all groups, and inside holds what came since, to be applied again after the ids.
	top    slog.Handler
	inside []func(slog.Handler) slog.Handler
}

func newHandler(w io.Writer, format string, level slog.Leveler) *handler {
	opts := &slog.HandlerOptions{Level: level}
	var h slog.Handler = slog.NewJSONHandler(w, opts)
	if format == "text" {
		h = slog.NewTextHandler(w, opts)
	}
	return &handler{next: h, top: h}
}

func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	span := trace.SpanContextFromContext(ctx)
	if !span.IsValid() {
		return h.next.Handle(ctx, r)
	}
	ids := []slog.Attr{
		slog.String("trace_id", span.TraceID().String()),
		slog.String("span_id", span.SpanID().String()),
	}
	if len(h.inside) == 0 {
		r = r.Clone() // others may hold its attributes too
		r.AddAttrs(ids...)
		return h.next.Handle(ctx, r)
	}
	next := h.top.WithAttrs(ids)
	for _, apply := range h.inside {
		next = apply(next)
	}
	return next.Handle(ctx, r)
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(attrs) == 0 {
		return h
	}
	next := h.next.WithAttrs(attrs)
	if len(h.inside) == 0 {
		return &handler{next: next, top: next}
	}
	return h.within(next, func(n slog.Handler) slog.Handler { return n.WithAttrs(attrs) })
}

func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return h.within(h.next.WithGroup(name), func(n slog.Handler) slog.Handler { return n.WithGroup(name) })
}

func (h *handler) within(next slog.Handler, apply func(slog.Handler) slog.Handler) *handler {
	inside := append(h.inside[:len(h.inside):len(h.inside)], apply)
	return &handler{next: next, top: h.top, inside: inside}
}
