package daemon

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/akidb/akidbd/internal/config"
	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
	"github.com/akidb/akidbd/internal/router"
	"github.com/akidb/akidbd/internal/telemetry"
)

// startTracing comes when the node knows who it is.
func (d *Daemon) startTracing(cfg *config.Config) error {
	return d.opt.Telemetry.StartTracing(telemetry.Tracing{
		Endpoint: cfg.Tracing.Endpoint, Sample: float64(cfg.Tracing.SamplePercent) / 100,
		Resource: map[string]string{
			"service.name": "akidbd", "service.namespace": "akidb", "service.version": d.opt.Version,
			"service.instance.id": string(d.self.ID), "host.name": string(d.self.ID),
			"cloud.region": d.self.Region, "cloud.availability_zone": d.self.Zone,
			"deployment.environment.name": cfg.Node.Environment, "k8s.cluster.name": cfg.Node.Cluster,
		},
	})
}

func (d *Daemon) tracer() trace.Tracer { return d.opt.Telemetry.TracerProvider.Tracer("akidbd") }

// tracedEngine shows in a trace what this node's engine did for a request: "tokenize", "queue" and "inference" below
// the span of the request, which for one that another node sent begins here.
type tracedEngine struct {
	engine router.Engine
	tracer trace.Tracer
	served bool // for other nodes
	region string
}

// Embed implements router.Engine and peer.Engine.
func (t tracedEngine) Embed(ctx context.Context, req embedding.Request) (embedding.Result, error) {
	parent := trace.SpanContextFromContext(ctx)
	if !parent.IsSampled() {
		return t.engine.Embed(ctx, req)
	}
	span := trace.SpanFromContext(ctx)
	if t.served {
		ctx, span = t.tracer.Start(ctx, "embed_request", trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
			attribute.String("model", req.Model), attribute.Int("inputs", len(req.Inputs)), attribute.String("region", t.region)))
		defer span.End()
	}
	began := time.Now()
	res, err := t.engine.Embed(ctx, req)
	if err != nil {
		if t.served {
			fail(span, err)
		}
		return res, err
	}
	for _, part := range []struct {
		name string
		took time.Duration
	}{{"tokenize", res.Timing.Tokenize}, {"queue", res.Timing.Queue}, {"inference", res.Timing.Run}} {
		_, s := t.tracer.Start(ctx, part.name, trace.WithTimestamp(began))
		began = began.Add(part.took)
		s.End(trace.WithTimestamp(began))
	}
	return res, nil
}

// tracedForwarder shows each attempt at another node: "cross_region_call", or "peer_call" within the region.
type tracedForwarder struct {
	there  router.Forwarder
	tracer trace.Tracer
	region string
}

// Embed implements router.Forwarder.
func (t tracedForwarder) Embed(ctx context.Context, to node.Info, req embedding.Request) (embedding.Result, error) {
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return t.there.Embed(ctx, to, req)
	}
	name := "peer_call"
	if to.Region != t.region {
		name = "cross_region_call"
	}
	ctx, span := t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		attribute.String("peer.node", string(to.ID)), attribute.String("peer.region", to.Region),
		attribute.Float64("peer.rtt_ms", to.Link.RTT.Seconds()*1000), attribute.Int("inputs", len(req.Inputs))))
	defer span.End()
	res, err := t.there.Embed(ctx, to, req)
	if err != nil {
		fail(span, err)
	}
	return res, err
}

func fail(span trace.Span, err error) {
	e := embedding.AsError(err)
	span.SetAttributes(attribute.String("code", string(e.Code)))
	span.SetStatus(codes.Error, e.Message)
}
