package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"golang.org/x/time/rate"
)

// Bounds of what waits for the exporter: beyond them spans are dropped, requests never wait.
const (
	spanQueue   = 2048
	spanBatch   = 512
	spanEvery   = 5 * time.Second
	spanTimeout = 5 * time.Second // of one export
	spanFlush   = 3 * time.Second // of what waits at the end
	warnEvery   = 5 * time.Minute
)

// Tracing says where spans go.
type Tracing struct {
	// Endpoint is the OTLP gRPC receiver, http://host:port without TLS or https://host:port with the system's
	// roots. "" exports nothing.
	Endpoint string
	// Sample is the share of the requests without a parent that are traced, 0 to 1; a parent's decision holds.
	Sample float64
	// Resource describes this process in OpenTelemetry's semantic conventions; pairs with an empty value are left
	// out.
	Resource map[string]string
}

// StartTracing makes TracerProvider export. It must come before the provider is handed out; nothing is dialled yet.
func (t *Telemetry) StartTracing(cfg Tracing) error {
	if cfg.Endpoint == "" {
		return nil
	}
	u, err := url.Parse(cfg.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("tracing endpoint %q: http://host:port or https://host:port is wanted", cfg.Endpoint)
	}
	exporter, err := otlptracegrpc.New(context.Background(), otlptracegrpc.WithEndpointURL(cfg.Endpoint), otlptracegrpc.WithTimeout(spanTimeout))
	if err != nil {
		return fmt.Errorf("tracing: %w", err)
	}
	var attrs []attribute.KeyValue
	for k, v := range cfg.Resource {
		if v != "" {
			attrs = append(attrs, attribute.String(k, v))
		}
	}
	counted := newCountedExporter(exporter, t.Logger, t.Registry)
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(cfg.Sample))),
		sdktrace.WithResource(resource.NewSchemaless(attrs...)),
		sdktrace.WithBatcher(counted, sdktrace.WithMaxQueueSize(spanQueue), sdktrace.WithMaxExportBatchSize(spanBatch),
			sdktrace.WithBatchTimeout(spanEvery), sdktrace.WithExportTimeout(2*spanTimeout)),
		sdktrace.WithSpanProcessor(counted.ended()),
	)
	t.TracerProvider = provider
	t.shutdown = func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, spanFlush)
		defer cancel()
		defer counted.giveUp() // an export under way would go on beyond ctx
		return provider.Shutdown(ctx)
	}
	return nil
}

// countedExporter counts what became of spans, and says seldom that the receiver is away.
type countedExporter struct {
	sdktrace.SpanExporter
	log   *slog.Logger
	count *prometheus.CounterVec
	warn  rate.Sometimes

	ending context.Context // ends the export under way
	giveUp context.CancelFunc
}

func newCountedExporter(e sdktrace.SpanExporter, log *slog.Logger, reg prometheus.Registerer) *countedExporter {
	c := &countedExporter{SpanExporter: e, log: log, warn: rate.Sometimes{Interval: warnEvery}, count: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "akidb_telemetry_spans_total",
		Help: "Sampled spans that ended, were exported and failed to be; what is in neither of the last two was dropped or waits.",
	}, []string{"result"})}
	c.ending, c.giveUp = context.WithCancel(context.Background())
	for _, result := range []string{"ended", "exported", "failed"} {
		c.count.WithLabelValues(result)
	}
	reg.MustRegister(c.count)
	return c
}

// ExportSpans counts.
func (c *countedExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ending, cancel)()
	err := c.SpanExporter.ExportSpans(ctx, spans)
	if err == nil {
		c.count.WithLabelValues("exported").Add(float64(len(spans)))
		return nil
	}
	c.count.WithLabelValues("failed").Add(float64(len(spans)))
	if !errors.Is(err, context.Canceled) {
		c.warn.Do(func() {
			c.log.Warn("spans are lost: the receiver of traces does not take them", "spans", len(spans), "err", err)
		})
	}
	return nil // the SDK would log it once more
}

func (c *countedExporter) ended() sdktrace.SpanProcessor {
	return endCounter{c.count.WithLabelValues("ended")}
}

type endCounter struct{ n prometheus.Counter }

func (endCounter) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd counts.
func (e endCounter) OnEnd(s sdktrace.ReadOnlySpan) {
	if s.SpanContext().IsSampled() {
		e.n.Inc()
	}
}

// Shutdown has nothing to do.
func (endCounter) Shutdown(context.Context) error { return nil }

// ForceFlush has nothing to do.
func (endCounter) ForceFlush(context.Context) error { return nil }
