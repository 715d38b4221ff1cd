package router

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

// Labels of akidb_router_decisions_total: who computed a request.
const (
	routeLocal       = "local"
	routeRegion      = "region"       // another node of this region
	routeCrossRegion = "cross_region" // a node of another region
	routeSharded     = "sharded"      // several nodes
	routeFailed      = "failed"       // nobody
)

// Kinds of attempts.
const (
	kindFirst = "first"
	kindHedge = "hedge" // a second one beside one that is late
	kindRetry = "retry" // another one after one that failed
	kindShard = "shard" // the first one of a part of a request
)

// Outcomes of attempts, besides the codes of errors.
const (
	outcomeOK   = "ok"
	outcomeLost = "lost" // another attempt answered first
)

// Reasons of ejections.
const (
	ejectedStreak = "consecutive_failures"
	ejectedShare  = "failure_share"
	ejectedLate   = "always_late"
)

type metrics struct {
	request   prometheus.Histogram
	decisions map[string]prometheus.Counter
	attempts  map[string]map[string]prometheus.Counter // by kind, then outcome
	ejections map[string]prometheus.Counter
	hedge     prometheus.Histogram
	exhausted prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	decisions := f.NewCounterVec(prometheus.CounterOpts{Name: "akidb_router_decisions_total", Help: "Requests by who computed them."}, []string{"route"})
	attempts := f.NewCounterVec(prometheus.CounterOpts{Name: "akidb_router_attempts_total", Help: "Nodes asked, by why and how it ended."}, []string{"kind", "outcome"})
	ejections := f.NewCounterVec(prometheus.CounterOpts{Name: "akidb_router_ejections_total", Help: "Nodes taken out for their results."}, []string{"reason"})
	m := &metrics{
		decisions: map[string]prometheus.Counter{}, attempts: map[string]map[string]prometheus.Counter{}, ejections: map[string]prometheus.Counter{},
		request: f.NewHistogram(prometheus.HistogramOpts{Name: "akidb_router_request_seconds",
			Help: "Time of a request from its routing to its result.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15)}),
		hedge: f.NewHistogram(prometheus.HistogramOpts{Name: "akidb_router_hedge_delay_seconds",
			Help: "How long the first attempt had when a second one was made beside it.", Buckets: prometheus.ExponentialBuckets(0.0125, 2, 10)}),
		exhausted: f.NewCounter(prometheus.CounterOpts{Name: "akidb_router_budget_exhausted_total",
			Help: "Requests with a hedge or retry put off or not made because the budget for them was spent."}),
	}
	for _, route := range []string{routeLocal, routeRegion, routeCrossRegion, routeSharded, routeFailed} {
		m.decisions[route] = decisions.WithLabelValues(route)
	}
	outcomes := []string{outcomeOK, outcomeLost}
	for _, c := range embedding.Codes() {
		outcomes = append(outcomes, string(c))
	}
	for _, kind := range []string{kindFirst, kindHedge, kindRetry, kindShard} {
		m.attempts[kind] = map[string]prometheus.Counter{}
		for _, o := range outcomes {
			m.attempts[kind][o] = attempts.WithLabelValues(kind, o)
		}
	}
	for _, why := range []string{ejectedStreak, ejectedShare, ejectedLate} {
		m.ejections[why] = ejections.WithLabelValues(why)
	}
	return m
}

// outcomeOf is the label of an attempt that ended with e, nil for an answer.
func outcomeOf(e *embedding.Error) string {
	if e == nil {
		return outcomeOK
	}
	return string(e.Code)
}

func (m *metrics) attempt(kind, outcome string) {
	c, ok := m.attempts[kind][outcome]
	if !ok { // a code that came over a wire and is none of ours
		c = m.attempts[kind][string(embedding.CodeInternal)]
	}
	c.Inc()
}

// ejection notes one for the reason, "" being none.
func (m *metrics) ejection(why string) {
	if why != "" {
		m.ejections[why].Inc()
	}
}

func (m *metrics) decision(self node.Info, o embedding.Origin, err error) {
	route := routeLocal
	switch {
	case err != nil:
		route = routeFailed
	case o.Forwarded && o.Node == string(self.ID):
		route = routeSharded
	case o.Forwarded && o.Region == self.Region:
		route = routeRegion
	case o.Forwarded:
		route = routeCrossRegion
	}
	m.decisions[route].Inc()
}
