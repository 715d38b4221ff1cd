package telemetry

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.opentelemetry.io/otel/trace"

	"github.com/akidb/akidbd/internal/telemetry/otlptest"
	"github.com/akidb/akidbd/internal/testlog"
)

func newTelemetry(t *testing.T) (*Telemetry, *testlog.Buffer) {
	t.Helper()
	out := &testlog.Buffer{}
	return New(Config{}, out), out
}

func TestSpansArrive(t *testing.T) {
	r := otlptest.Listen(t)
	tel, out := newTelemetry(t)
	if err := tel.StartTracing(Tracing{Endpoint: r.Endpoint, Sample: 1, Resource: map[string]string{"cloud.region": "eu", "empty": ""}}); err != nil {
		t.Fatal(err)
	}
	ctx, parent := tel.TracerProvider.Tracer("t").Start(t.Context(), "parent")
	tel.Logger.InfoContext(ctx, "within")
	_, child := tel.TracerProvider.Tracer("t").Start(ctx, "child")
	child.End()
	parent.End()
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	spans := r.Spans()
	if len(spans) != 2 || spans[0].Name != "child" || spans[0].Parent() != spans[1].ID() {
		t.Fatalf("spans %v", spans)
	}
	if attrs := spans[0].Resource; len(attrs) != 1 || attrs["cloud.region"] != "eu" {
		t.Errorf("resource %v", attrs)
	}
	if !strings.Contains(out.String(), parent.SpanContext().TraceID().String()) {
		t.Error("the log lacks the trace id")
	}
	if err := testutil.GatherAndCompare(tel.Registry, strings.NewReader(`# HELP akidb_telemetry_spans_total Sampled spans that ended, were exported and failed to be; what is in neither of the last two was dropped or waits.
# TYPE akidb_telemetry_spans_total counter
akidb_telemetry_spans_total{result="ended"} 2
akidb_telemetry_spans_total{result="exported"} 2
akidb_telemetry_spans_total{result="failed"} 0
`), "akidb_telemetry_spans_total"); err != nil {
		t.Error(err)
	}
}

// TestSampling: the share decides for requests without a parent, and the parent for the others.
func TestSampling(t *testing.T) {
	r := otlptest.Listen(t)
	tel, _ := newTelemetry(t)
	if err := tel.StartTracing(Tracing{Endpoint: r.Endpoint}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tel.Shutdown(t.Context()) }()
	tracer := tel.TracerProvider.Tracer("t")
	if _, s := tracer.Start(t.Context(), "alone"); s.IsRecording() {
		t.Error("recorded although nothing is to be sampled")
	}
	parent := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, Remote: true})
	if _, s := tracer.Start(trace.ContextWithSpanContext(t.Context(), parent), "child"); !s.IsRecording() {
		t.Error("not recorded although the parent was sampled")
	}
}

// TestReceiverAway: spans are counted as lost, said once, and nobody waits.
func TestReceiverAway(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	endpoint := "http://" + ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	tel, out := newTelemetry(t)
	if err := tel.StartTracing(Tracing{Endpoint: endpoint, Sample: 1}); err != nil {
		t.Fatal(err)
	}
	tracer := tel.TracerProvider.Tracer("t")
	for range 3 * spanQueue { // more than wait
		_, s := tracer.Start(t.Context(), "span")
		s.End()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_ = tel.Shutdown(ctx)
	if n := strings.Count(out.String(), "spans are lost"); n > 1 {
		t.Errorf("said %d times that spans are lost", n)
	}
}

func TestBadEndpoint(t *testing.T) {
	tel, _ := newTelemetry(t)
	for _, endpoint := range []string{"localhost:4317", "ftp://h:1", "http://", "::"} {
		if err := tel.StartTracing(Tracing{Endpoint: endpoint}); err == nil || !strings.Contains(err.Error(), "https://host:port") {
			t.Errorf("%q: got %v", endpoint, err)
		}
	}
}
