package peer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/akidb/akidbd/internal/embedding"
)

func one(text string) embedding.Request {
	return embedding.Request{Model: "m", Inputs: []embedding.Input{{Text: text}}}
}

// value is a metric of a node, by name and label values in any order.
func (n *testNode) value(name string, labels ...string) float64 {
	n.t.Helper()
	families, err := n.reg.Gather()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			found := len(m.GetLabel()) == len(labels)
			for _, p := range m.GetLabel() {
				found = found && slices.Contains(labels, p.GetValue())
			}
			if found {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	n.t.Fatalf("no metric %s%v", name, labels)
	return 0
}

func code(err error) embedding.Code {
	if err == nil {
		return "ok"
	}
	return embedding.AsError(err).Code
}

func TestErrorsKeepTheirCode(t *testing.T) {
	a, b := pair(t, nil)
	for _, c := range embedding.Codes() {
		b.engine.set(func(context.Context, embedding.Request) (embedding.Result, error) {
			return embedding.Result{}, &embedding.Error{Code: c, Message: "limit 5, got 6", Param: "inputs[3]", Err: errors.New("secret")}
		})
		_, err := a.Embed(t.Context(), b.info(), one("x"))
		e := embedding.AsError(err)
		if e == nil || e.Code != c || e.Message != "limit 5, got 6" || e.Param != "inputs[3]" || strings.Contains(fmt.Sprint(err), "secret") {
			t.Errorf("%s became %v", c, err)
		}
		if a.value("akidb_peer_requests_total", "out", string(c)) != 1 || b.value("akidb_peer_requests_total", "in", string(c)) != 1 {
			t.Errorf("%s is not counted", c)
		}
	}
	b.engine.set(func(context.Context, embedding.Request) (embedding.Result, error) { panic("boom") })
	if _, err := a.Embed(t.Context(), b.info(), one("x")); code(err) != embedding.CodeInternal || strings.Contains(err.Error(), "boom") {
		t.Errorf("a panic became %v", err)
	}
	if !strings.Contains(b.logs.String(), "boom") {
		t.Error("the panic is not in the log")
	}
	b.engine.set(func(_ context.Context, req embedding.Request) (embedding.Result, error) {
		res := lengths(req)
		res.Vectors = res.Vectors[1:]
		return res, nil
	})
	if _, err := a.Embed(t.Context(), b.info(), one("x")); code(err) != embedding.CodeInternal {
		t.Errorf("too few vectors became %v", err)
	}
}

func TestCancelReachesTheEngine(t *testing.T) {
	a, b := pair(t, nil)
	begun, ended := make(chan struct{}), make(chan error, 1)
	b.engine.set(func(ctx context.Context, _ embedding.Request) (embedding.Result, error) {
		close(begun)
		<-ctx.Done()
		ended <- ctx.Err()
		return embedding.Result{}, ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	if _, err := a.Embed(ctx, b.info(), one("x")); code(err) != embedding.CodeCanceled {
		t.Errorf("got %v", err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the engine saw %v", err)
	}
}

func TestDeadlineIsEnforcedThere(t *testing.T) {
	a, b := pair(t, func(c *Config) { c.MaxDeadline = time.Hour })
	left := make(chan time.Duration, 1)
	b.engine.set(func(ctx context.Context, _ embedding.Request) (embedding.Result, error) {
		at, _ := ctx.Deadline()
		left <- time.Until(at)
		return lengths(one("x")), nil
	})
	for _, want := range []time.Duration{0, 30 * time.Second} {
		ctx := t.Context()
		if want > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, want)
			defer cancel()
		} else {
			want = time.Hour
		}
		if _, err := a.Embed(ctx, b.info(), one("x")); err != nil {
			t.Fatal(err)
		}
		if got := <-left; got > want || got < want-5*time.Second {
			t.Errorf("the engine had %v of %v", got, want)
		}
	}
	// The server keeps the deadline by itself: this frame says 20 ms, its sender waits on.
	b.engine.set(func(ctx context.Context, _ embedding.Request) (embedding.Result, error) {
		<-ctx.Done()
		return embedding.Result{}, ctx.Err()
	})
	f, err := requestFrameOf(t.Context(), one("x"), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	f.deadline = 20 * time.Millisecond
	st, err := (*a.table.Load())["b"].conn.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	if _, failure, err := a.roundTrip(st, f, 1); err != nil || failure == nil || failure.Code != embedding.CodeDeadline {
		t.Errorf("got %v, %v", failure, err)
	}
}

func TestTraceTravels(t *testing.T) {
	a, b := pair(t, nil)
	state, err := trace.ParseTraceState("vendor=x")
	if err != nil {
		t.Fatal(err)
	}
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, 2}, SpanID: trace.SpanID{3}, TraceFlags: trace.FlagsSampled, TraceState: state})
	seen := make(chan trace.SpanContext, 2)
	b.engine.set(func(ctx context.Context, req embedding.Request) (embedding.Result, error) {
		seen <- trace.SpanContextFromContext(ctx)
		return lengths(req), nil
	})
	if _, err := a.Embed(trace.ContextWithSpanContext(t.Context(), span), b.info(), one("x")); err != nil {
		t.Fatal(err)
	}
	got := <-seen
	if got.TraceID() != span.TraceID() || got.SpanID() != span.SpanID() || !got.IsSampled() || got.TraceState().Get("vendor") != "x" || !got.IsRemote() {
		t.Errorf("the engine saw %+v", got)
	}
	if _, err := a.Embed(t.Context(), b.info(), one("x")); err != nil {
		t.Fatal(err)
	}
	if got := <-seen; got.IsValid() {
		t.Errorf("a trace from nowhere: %+v", got)
	}
}

func TestLargeRequest(t *testing.T) {
	a, b := pair(t, nil)
	b.engine.set(func(_ context.Context, req embedding.Request) (embedding.Result, error) { return lengths(req), nil })
	req := embedding.Request{Model: "m", Inputs: make([]embedding.Input, 2048)}
	for i := range req.Inputs {
		req.Inputs[i].Text = strings.Repeat("é\xff", (8<<20)/2048/3) // not even UTF-8
	}
	res, err := a.Embed(t.Context(), b.info(), req)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range res.Vectors {
		if int(v[0]) != len(req.Inputs[0].Text) || int(v[2]) != i {
			t.Fatalf("input %d: %v", i, v)
		}
	}
	req.Inputs = make([]embedding.Input, 20000)
	if _, err := a.Embed(t.Context(), b.info(), req); code(err) != embedding.CodeTooLarge {
		t.Errorf("20000 inputs: %v", err)
	}
	if _, err := a.Embed(t.Context(), b.info(), one(strings.Repeat("x", 33<<20))); code(err) != embedding.CodeTooLarge {
		t.Errorf("33 MiB: %v", err)
	}
}

func TestVectorsAreBitExact(t *testing.T) {
	a, b := pair(t, nil)
	rng := rand.New(rand.NewPCG(1, 2))
	const n, dim = 5000, 384
	want := make([][]float32, n)
	for i := range want {
		want[i] = make([]float32, dim)
		for j := range want[i] {
			want[i][j] = math.Float32frombits(rng.Uint32()) // NaN, infinities and denormals among them
		}
	}
	b.engine.set(func(_ context.Context, req embedding.Request) (embedding.Result, error) {
		res := embedding.Result{Model: embedding.Model{Name: "m", Precision: "fp32"}, Vectors: want, Tokens: make([]int, n), Truncated: make([]int, n),
			Timing: embedding.Timing{Tokenize: 1, Queue: 2, Run: 3}}
		res.Truncated[7] = 9
		return res, nil
	})
	res, err := a.Embed(t.Context(), b.info(), embedding.Request{Inputs: make([]embedding.Input, n)})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Vectors) != n || res.Truncated[7] != 9 || len(res.Tokens) != n || res.Timing != (embedding.Timing{Tokenize: 1, Queue: 2, Run: 3}) {
		t.Fatalf("%d vectors, %d tokens, %+v", len(res.Vectors), len(res.Tokens), res.Timing)
	}
	for i := range want {
		for j := range want[i] {
			if math.Float32bits(want[i][j]) != math.Float32bits(res.Vectors[i][j]) {
				t.Fatalf("vector %d[%d]: %x became %x", i, j, math.Float32bits(want[i][j]), math.Float32bits(res.Vectors[i][j]))
			}
		}
	}
}

func TestAdmission(t *testing.T) {
	var refuse atomic.Bool
	a, b := pair(t, func(c *Config) {
		c.MaxRequests = 1
		c.Admit = func() error {
			if refuse.Load() {
				return embedding.Errorf(embedding.CodeOverloaded, "over 70 %% of the queue")
			}
			return nil
		}
	})
	refuse.Store(true)
	big := one(strings.Repeat("x", 8<<20)) // refused before it is read: the answer must arrive all the same
	for _, req := range []embedding.Request{one("x"), big} {
		_, err := a.Embed(t.Context(), b.info(), req)
		if code(err) != embedding.CodeOverloaded || !strings.Contains(err.Error(), "70 %") {
			t.Errorf("got %v", err)
		}
	}
	if b.engine.calls.Load() != 0 || b.value("akidb_peer_refused_total", refusedAdmission) != 2 {
		t.Error("the engine was asked, or the refusal is not counted")
	}
	refuse.Store(false)

	begun, release := make(chan struct{}), make(chan struct{})
	b.engine.set(func(_ context.Context, req embedding.Request) (embedding.Result, error) {
		close(begun)
		<-release
		return lengths(req), nil
	})
	done := make(chan error, 1)
	go func() {
		_, err := a.Embed(context.Background(), b.info(), one("x"))
		done <- err
	}()
	<-begun
	if _, err := a.Embed(t.Context(), b.info(), one("x")); code(err) != embedding.CodeOverloaded {
		t.Errorf("a second request: %v", err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if b.value("akidb_peer_refused_total", refusedConcurrency) != 1 {
		t.Error("the refusal is not counted")
	}
}

// TestSlotsAreFreed: more requests than a connection has streams, each ended in another way.
func TestSlotsAreFreed(t *testing.T) {
	a, b := pair(t, nil)
	b.engine.set(func(ctx context.Context, req embedding.Request) (embedding.Result, error) {
		switch len(req.Inputs[0].Text) % 3 {
		case 0:
			return lengths(req), nil
		case 1:
			return embedding.Result{}, embedding.Errorf(embedding.CodeInvalid, "no")
		}
		<-ctx.Done()
		return embedding.Result{}, ctx.Err()
	})
	for i := range 1500 {
		ctx, cancel := context.WithCancel(t.Context())
		if i%3 == 2 {
			ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
		}
		_, err := a.Embed(ctx, b.info(), one(strings.Repeat("x", i%3)))
		cancel()
		if want := []embedding.Code{"ok", embedding.CodeInvalid, embedding.CodeDeadline}[i%3]; code(err) != want {
			t.Fatalf("request %d: %v", i, err)
		}
	}
}

func TestEmbedNeverDials(t *testing.T) {
	ca := newTestCA(t)
	a, b := startNode(t, ca.identity(t, "a", "eu"), nil), startNode(t, ca.identity(t, "b", "eu"), nil)
	if _, err := a.Embed(t.Context(), b.info(), one("x")); code(err) != embedding.CodeUnavailable {
		t.Errorf("got %v", err)
	}
	if len(a.Peers()) != 0 || len(b.Peers()) != 0 {
		t.Error("a request dialled")
	}
}

func TestDrainEndsWhatIsInFlight(t *testing.T) {
	a, b := pair(t, nil)
	begun, release := make(chan struct{}), make(chan struct{})
	b.engine.set(func(_ context.Context, req embedding.Request) (embedding.Result, error) {
		close(begun)
		<-release
		return lengths(req), nil
	})
	done := make(chan error, 1)
	go func() {
		_, err := a.Embed(context.Background(), b.info(), one("x"))
		done <- err
	}()
	<-begun
	w := *b.word.Load()
	w.State, w.Seq = "draining", w.Seq+1
	b.word.Store(&w)
	stopped := make(chan error, 1)
	go func() { stopped <- b.stop() }()
	await(t, "the word", func() bool { return a.see("b").Word.State == "draining" })
	if !a.see("b").Link.Up {
		t.Error("the link went down with a request in flight")
	}
	await(t, "new requests to be refused", func() bool { return b.stopped.Load() })
	if _, err := a.Embed(t.Context(), b.info(), one("x")); code(err) != embedding.CodeUnavailable {
		t.Errorf("a new request: %v", err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	await(t, "the link to be down", func() bool { return !a.see("b").Link.Up })
	if c := a.see("b").Link.Cause; c != causeDraining {
		t.Errorf("cause %q", c)
	}
}
