// Package router decides who computes a request: this node's engine. It knows nothing of how anything is
// computed.
package router

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

// Engine computes on this node.
type Engine interface {
	Embed(ctx context.Context, req embedding.Request) (embedding.Result, error)
}

// Config has the router's knobs.
type Config struct {
	Self       node.Info // who this node is; only ID and Region are read
	Registerer prometheus.Registerer
}

// Router is an embedding.Embedder over the nodes that can answer.
type Router struct {
	self   node.Info
	local  Engine
	routes map[string]prometheus.Counter
	time   prometheus.Histogram
}

// routeLocal is the label of a request that this node computed.
const routeLocal = "local"

// New makes a router that answers from the local engine.
func New(cfg Config, local Engine) *Router {
	f := promauto.With(cfg.Registerer)
	decisions := f.NewCounterVec(prometheus.CounterOpts{Name: "akidb_router_decisions_total", Help: "Requests by who computed them."}, []string{"route"})
	return &Router{
		self: cfg.Self, local: local,
		routes: map[string]prometheus.Counter{routeLocal: decisions.WithLabelValues(routeLocal)},
		time: f.NewHistogram(prometheus.HistogramOpts{Name: "akidb_router_request_seconds",
			Help: "Time of a request from its routing to its result.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15)}),
	}
}

// Embed answers the request and notes in the Result who did.
func (r *Router) Embed(ctx context.Context, req embedding.Request) (embedding.Result, error) {
	started := time.Now()
	r.routes[routeLocal].Inc()
	res, err := r.local.Embed(ctx, req)
	r.time.Observe(time.Since(started).Seconds())
	if err != nil {
		return embedding.Result{}, err
	}
	res.Origin = embedding.Origin{Node: string(r.self.ID), Region: r.self.Region}
	return res, nil
}
