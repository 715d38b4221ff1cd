// Package otlptest is a receiver of OpenTelemetry spans for tests.
package otlptest

import (
	"context"
	"encoding/hex"
	"net"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
)

// Receiver keeps the spans that it gets, by gRPC on loopback.
type Receiver struct {
	collector.UnimplementedTraceServiceServer
	Endpoint string // http://host:port

	mu  sync.Mutex
	got []Span
}

// Span is one span and who made it.
type Span struct {
	*otlp.Span
	Resource map[string]string
}

// ID is the span's id in hex.
func (s Span) ID() string { return hex.EncodeToString(s.SpanId) }

// Parent is its parent's id in hex, "" at the root.
func (s Span) Parent() string { return hex.EncodeToString(s.ParentSpanId) }

// Export implements the OTLP trace service.
func (r *Receiver) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rs := range req.ResourceSpans {
		resource := map[string]string{}
		for _, a := range rs.Resource.GetAttributes() {
			resource[a.Key] = a.Value.GetStringValue()
		}
		for _, scope := range rs.ScopeSpans {
			for _, s := range scope.Spans {
				r.got = append(r.got, Span{s, resource})
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// Spans are all spans so far.
func (r *Receiver) Spans() []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Span(nil), r.got...)
}

// Listen starts a receiver that ends with the test.
func Listen(t *testing.T) *Receiver {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r, s := &Receiver{Endpoint: "http://" + ln.Addr().String()}, grpc.NewServer()
	collector.RegisterTraceServiceServer(s, r)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(ln) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return r
}
