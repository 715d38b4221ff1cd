package api

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/akidb/akidbd/internal/embedding"
)

// ServeHTTP is what every request passes: id, route, key, panic, metrics, log.
func (a *surface) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	found := false
	c := &call{ResponseWriter: w, api: a, start: time.Now(), id: requestID(r)}
	c.route, found = a.routes.find(r.URL.Path)
	a.metrics.inflight.Inc()
	defer a.metrics.inflight.Dec()
	w.Header()[headerRequestID] = []string{c.id}

	ctx := r.Context()
	if len(r.Header["Traceparent"]) > 0 {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(r.Header))
	}
	if c.route.family == familyRPC {
		ctx = context.WithValue(ctx, callKey{}, c)
	}
	switch {
	case c.route.streams && c.route.embeds: // bounds its own time and ends itself in a drain
	case c.route.streams:
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(drainingOf(ctx), func() {
			cancel()
			c.setReadDeadline(time.Now())
		})()
	default:
		c.setReadDeadline(c.start.Add(a.cfg.BodyTimeout))
		if c.route.embeds {
			var span trace.Span
			ctx, span = a.startSpan(ctx)
			defer span.End()
		}
	}
	r = r.WithContext(ctx)
	if !c.route.streams { // a stream is bounded by its window, and would never give back
		r.Body = &meter{r.Body, c}
	}
	defer c.release()
	defer a.finish(c, r)
	defer a.recover(c, r)
	a.dispatch(c, r, found)
}

func (a *surface) dispatch(c *call, r *http.Request, found bool) {
	if !found || !c.route.allows(r.Method) {
		a.serveUnknown(c, r, found)
		return
	}
	if !c.route.public {
		if err := a.authenticate(c, r); err != nil {
			if c.route.embeds {
				a.metrics.embed(embedding.CodeUnauthenticated)
			}
			if a.isRPC(c, r) {
				a.failRPC(c, r, embedding.AsError(err))
				return
			}
			c.fail(err)
			return
		}
	}
	c.route.serve(c, r)
}

// recover answers a panic with an internal error, if nothing was answered yet, and breaks the connection
// otherwise, for half an answer must not look like a whole one.
func (a *surface) recover(c *call, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		c.code = embedding.CodeCanceled
		panic(p)
	}
	e := a.panicked(p)
	if c.status != 0 {
		c.note(e)
		panic(http.ErrAbortHandler)
	}
	if a.isRPC(c, r) {
		a.failRPC(c, r, e)
		return
	}
	c.fail(e)
}

// finish counts and logs a request that was answered.
func (a *surface) finish(c *call, r *http.Request) {
	seconds := time.Since(c.start).Seconds()
	if c.code == "" {
		c.code = codeOK
		if c.route.family == familyRPC {
			c.code = rpcCode(c)
		}
	}
	a.metrics.requests.WithLabelValues(c.route.name, string(c.code)).Inc()
	observe(r.Context(), a.metrics.seconds.WithLabelValues(c.route.name), seconds)

	level := slog.LevelDebug
	if row := codeTable(c.code); c.code != codeOK && row.status >= 500 && c.route.family != familyPlain {
		level = slog.LevelInfo
	}
	if !a.log.Enabled(r.Context(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("request_id", c.id),
		slog.String("method", r.Method),
		slog.String("route", c.route.name),
		slog.String("code", string(c.code)),
		slog.Int("status", c.status),
		slog.Float64("duration_seconds", seconds),
		slog.Int64("response_bytes", c.bytes),
		slog.String("remote", r.RemoteAddr),
	}
	if c.route.embeds {
		attrs = append(attrs, slog.Int64("inputs", c.inputs.Load()), slog.Int64("tokens", c.tokens.Load()))
	}
	if c.keyName != "" {
		attrs = append(attrs, slog.String("key_name", c.keyName))
	}
	if c.cause != nil {
		attrs = append(attrs, slog.String("error", c.cause.Error()))
	}
	a.log.LogAttrs(r.Context(), level, "request", attrs...)
}

// observe adds the trace id of a sampled request as an exemplar.
func observe(ctx context.Context, h prometheus.Observer, seconds float64) {
	span := trace.SpanContextFromContext(ctx)
	if x, ok := h.(prometheus.ExemplarObserver); ok && span.IsSampled() {
		x.ObserveWithExemplar(seconds, prometheus.Labels{"trace_id": span.TraceID().String()})
		return
	}
	h.Observe(seconds)
}

// requestID takes the client's x-request-id, if it is fit for a header and a log, or makes one.
func requestID(r *http.Request) string {
	const maxID = 128
	if ids := r.Header[headerRequestID]; len(ids) == 1 && len(ids[0]) > 0 && len(ids[0]) <= maxID && isToken(ids[0]) {
		return ids[0]
	}
	const hex = "0123456789abcdef"
	var id [32]byte
	for i := 0; i < len(id); i += 16 {
		n := rand.Uint64()
		for j := range 16 {
			id[i+j] = hex[n>>(4*j)&15]
		}
	}
	return string(id[:])
}

func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' || c == ':') {
			return false
		}
	}
	return true
}
