package gossip

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/akidb/akidbd/internal/node"
)

const (
	dirIn  = "in"
	dirOut = "out"

	joinOK     = "ok"
	joinFailed = "failed"

	departureLeft = "left" // said Draining before
	departureDead = "dead"

	memberUnheard = "unheard" // alive, but no word came yet
	memberLost    = "lost"    // still looked for
)

type metrics struct {
	members    map[string]prometheus.Gauge
	joins      map[string]prometheus.Counter
	messages   map[string]prometheus.Counter
	bytes      map[string]prometheus.Counter
	departures map[string]prometheus.Counter
	returns    prometheus.Counter
	dropped    prometheus.Counter
	invalid    prometheus.Counter
	clones     prometheus.Counter
	health     prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	counters := func(name, help, label string, values ...string) map[string]prometheus.Counter {
		vec := f.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
		m := map[string]prometheus.Counter{}
		for _, v := range values {
			m[v] = vec.WithLabelValues(v)
		}
		return m
	}
	m := &metrics{
		members: map[string]prometheus.Gauge{},
		joins: counters("akidb_gossip_joins_total", "Exchanges of everything with a seed or a lost node, by how they ended.",
			"result", joinOK, joinFailed),
		messages: counters("akidb_gossip_messages_total", "Gossip datagrams.", "direction", dirIn, dirOut),
		bytes:    counters("akidb_gossip_bytes_total", "Bytes of gossip in datagrams and streams.", "direction", dirIn, dirOut),
		departures: counters("akidb_gossip_departures_total", "Nodes that left after they said so, and nodes that stopped answering.",
			"kind", departureLeft, departureDead),
		returns: f.NewCounter(prometheus.CounterOpts{Name: "akidb_gossip_returns_total",
			Help: "Nodes taken for dead that were back within 30 s in the same process: detection that was too quick, or a short partition."}),
		dropped: f.NewCounter(prometheus.CounterOpts{Name: "akidb_gossip_dropped_total",
			Help: "Datagrams and streams that came and were not taken: too many, or of a kind that nobody sends."}),
		invalid: f.NewCounter(prometheus.CounterOpts{Name: "akidb_gossip_invalid_words_total", Help: "Words of nodes that could not be read."}),
		clones: f.NewCounter(prometheus.CounterOpts{Name: "akidb_gossip_clones_total",
			Help: "Times that another node spoke under this node's name."}),
		health: f.NewGauge(prometheus.GaugeOpts{Name: "akidb_gossip_health_score",
			Help: "memberlist's idea of how late this node itself is; 0 is well."}),
	}
	vec := f.NewGaugeVec(prometheus.GaugeOpts{Name: "akidb_gossip_members", Help: "Other nodes by what they last said of themselves."}, []string{"state"})
	for _, s := range node.States() {
		m.members[string(s)] = vec.WithLabelValues(string(s))
	}
	for _, s := range []string{memberUnheard, memberLost} {
		m.members[s] = vec.WithLabelValues(s)
	}
	return m
}
