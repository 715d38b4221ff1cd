package api

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/akidb/akidbd/internal/embedding"
)

// Headers of answers, and of requests where it says so.
const (
	headerNode      = "X-Akidb-Node"
	headerRegion    = "X-Akidb-Region"
	headerRoute     = "X-Akidb-Route"     // "local" or "forwarded"
	headerModel     = "X-Akidb-Model"     // name@digest, 12 hex digits
	headerTruncated = "X-Akidb-Truncated" // number of inputs cut, only when there are any
	headerCode      = "X-Akidb-Code"      // the code of an error
	headerTiming    = "Server-Timing"     // tokenize, queue, run, total in milliseconds
	headerRequestID = "X-Request-Id"      // of requests too
	headerTimeout   = "X-Akidb-Timeout"   // of requests: how long the client waits
)

// embed answers one request of any protocol: it checks limits, bounds the time, traces and counts. field is
// what the protocol calls the inputs; count is how many there were, which may be more than req carries.
func (a *surface) embed(ctx context.Context, req embedding.Request, field string, count int) (embedding.Result, error) {
	res, err := a.tryEmbed(ctx, req, field, count)
	if err != nil {
		e := embedding.AsError(err)
		a.metrics.embed(e.Code)
		return embedding.Result{}, e
	}
	a.metrics.embed(codeOK)
	a.metrics.inputs.Add(float64(len(req.Inputs)))
	if n := truncatedInputs(res); n > 0 {
		a.metrics.truncated.Add(float64(n))
	}
	return res, nil
}

func (a *surface) tryEmbed(ctx context.Context, req embedding.Request, field string, count int) (res embedding.Result, err error) {
	if n := a.inflight.Add(1); n > int64(a.cfg.MaxInflight) {
		a.inflight.Add(-1)
		return res, embedding.Errorf(embedding.CodeOverloaded,
			"this node answers %d requests at once at most, got one more: try again later", a.cfg.MaxInflight)
	}
	defer a.inflight.Add(-1)
	if err := a.check(req, field, count); err != nil {
		return res, err
	}
	length := 0
	for _, in := range req.Inputs {
		length += len(in.Text)
	}
	span := trace.SpanFromContext(ctx)
	if span.IsRecording() {
		span.SetAttributes(attribute.Int("text_length", length), attribute.Int("inputs", len(req.Inputs)),
			attribute.String("model", req.Model), attribute.String("region", a.cfg.Region))
	}
	res, err = a.callEmbedder(ctx, req)
	if err == nil {
		err = checkResult(res, len(req.Inputs))
	}
	if err != nil {
		e := embedding.AsError(err)
		span.SetAttributes(attribute.String("code", string(e.Code)))
		span.SetStatus(codes.Error, e.Message)
		return res, e
	}
	if res.Origin.Node == "" {
		res.Origin.Node = a.cfg.NodeName
	}
	if res.Origin.Region == "" {
		res.Origin.Region = a.cfg.Region
	}
	return res, nil
}

// startSpan starts the span of one request. tryEmbed fills it.
func (a *surface) startSpan(ctx context.Context) (context.Context, trace.Span) {
	return a.cfg.Tracer.Start(ctx, "embed_request", trace.WithSpanKind(trace.SpanKindServer))
}

// callEmbedder turns a panic into an error: a stream computes outside of the handler's goroutine, where
// nothing else would catch it.
func (a *surface) callEmbedder(ctx context.Context, req embedding.Request) (res embedding.Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = a.panicked(p)
		}
	}()
	return a.embedder.Embed(ctx, req)
}

// panicked counts a panic and makes the error for it. Its caller runs in the deferred function that recovered.
func (a *surface) panicked(p any) *embedding.Error {
	a.metrics.panics.Inc()
	return &embedding.Error{Code: embedding.CodeInternal, Message: "internal error",
		Err: fmt.Errorf("panic: %v\n%s", p, debug.Stack())}
}

// check refuses a request that no Embedder should see.
func (a *surface) check(req embedding.Request, field string, count int) error {
	fail := func(code embedding.Code, format string, args ...any) error {
		e := embedding.Errorf(code, format, args...)
		e.Param = field
		return e
	}
	if count == 0 {
		return fail(embedding.CodeInvalid, "%q is empty: at least 1 input is needed, got 0", field)
	}
	if count > a.cfg.MaxInputs {
		return fail(embedding.CodeUnprocessable, "%q may have %d inputs at most, got %d", field, a.cfg.MaxInputs, count)
	}
	for i, in := range req.Inputs {
		switch {
		case in.Tokens != nil && !a.cfg.TokenIDs:
			return fail(embedding.CodeInvalid, "%q holds token ids, but this server takes texts: ids of another model's "+
				"tokenizer give vectors that mean nothing (LangChain: set check_embedding_ctx_length=False; the "+
				"server allows ids with api.token_ids: true)", field)
		case in.Tokens != nil && len(in.Tokens) == 0:
			return fail(embedding.CodeInvalid, "%s[%d] has no token ids: at least 1 is needed, got 0", field, i)
		case len(in.Tokens) > a.cfg.MaxInputBytes/4:
			return fail(embedding.CodeUnprocessable, "%s[%d] may have %d token ids at most, got %d", field, i,
				a.cfg.MaxInputBytes/4, len(in.Tokens))
		case in.Tokens == nil && in.Text == "":
			return fail(embedding.CodeInvalid, "%s[%d] is an empty string: every input needs at least 1 byte, got 0", field, i)
		case len(in.Text) > a.cfg.MaxInputBytes:
			return fail(embedding.CodeUnprocessable, "%s[%d] may have %d bytes at most, got %d", field, i, a.cfg.MaxInputBytes, len(in.Text))
		}
	}
	return nil
}

// checkResult refuses what an Embedder must never give, before it reaches a client as a broken document.
func checkResult(res embedding.Result, inputs int) error {
	if len(res.Vectors) != inputs || len(res.Tokens) != inputs {
		return &embedding.Error{Code: embedding.CodeInternal, Message: "internal error",
			Err: fmt.Errorf("%d inputs gave %d vectors and %d token counts", inputs, len(res.Vectors), len(res.Tokens))}
	}
	const exponent = 0x7f800000 // all ones in NaN and infinity only
	for i, v := range res.Vectors {
		if len(v) == 0 || len(v) != len(res.Vectors[0]) {
			return &embedding.Error{Code: embedding.CodeInternal, Message: "internal error",
				Err: fmt.Errorf("vector %d has %d dimensions, vector 0 has %d", i, len(v), len(res.Vectors[0]))}
		}
		for _, f := range v {
			if math.Float32bits(f)&exponent == exponent {
				return embedding.Errorf(embedding.CodeInternal, "the model gave a vector that is not finite for input %d", i)
			}
		}
	}
	return nil
}

func truncatedInputs(res embedding.Result) int {
	n := 0
	for _, t := range res.Truncated {
		if t > 0 {
			n++
		}
	}
	return n
}

func routeName(o embedding.Origin) string {
	if o.Forwarded {
		return "forwarded"
	}
	return "local"
}

// setResultHeaders says in headers who answered, with what and how long it took.
func setResultHeaders(h http.Header, res embedding.Result, start time.Time) {
	h.Set(headerNode, res.Origin.Node)
	h.Set(headerRegion, res.Origin.Region)
	h.Set(headerRoute, routeName(res.Origin))
	h.Set(headerModel, res.Model.String())
	if n := truncatedInputs(res); n > 0 {
		h.Set(headerTruncated, strconv.Itoa(n))
	}
	b := make([]byte, 0, 96)
	for i, part := range [...]struct {
		name string
		d    time.Duration
	}{
		{"tokenize;dur=", res.Timing.Tokenize}, {"queue;dur=", res.Timing.Queue}, {"run;dur=", res.Timing.Run},
		{"total;dur=", time.Since(start)},
	} {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, part.name...)
		b = strconv.AppendFloat(b, float64(part.d.Microseconds())/1000, 'f', 3, 64)
	}
	h.Set(headerTiming, string(b))
}

// deadline gives the context an embed request runs under: the server's deadline, counted from start, or what
// the client asked for if that is less.
func (a *surface) deadline(ctx context.Context, h http.Header, start time.Time) (context.Context, context.CancelFunc, error) {
	limit := a.cfg.Deadline
	if asked := h.Get(headerTimeout); asked != "" {
		d, err := parseTimeout(asked)
		if err != nil {
			return nil, nil, err
		}
		limit = min(limit, d)
	}
	ctx, cancel := context.WithDeadline(ctx, start.Add(limit))
	return ctx, cancel, nil
}

func parseTimeout(asked string) (time.Duration, error) {
	d, err := time.ParseDuration(asked)
	if ms, msErr := strconv.ParseUint(asked, 10, 31); msErr == nil {
		d, err = time.Duration(ms)*time.Millisecond, nil
	}
	if err != nil || d <= 0 {
		return 0, embedding.Errorf(embedding.CodeInvalid,
			"header x-akidb-timeout must be a duration above 0 like 250ms, or whole milliseconds, got %.40q", asked)
	}
	return d, nil
}
