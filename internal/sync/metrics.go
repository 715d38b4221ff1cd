package sync

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	lag         *prometheus.GaugeVec
	quarantined *prometheus.GaugeVec
	lastSuccess prometheus.Gauge
	backlog     prometheus.Gauge
	installed   prometheus.Counter
	evicted     prometheus.Counter
	cacheHits   prometheus.Counter
	copied      prometheus.Counter
	served      prometheus.Counter
	bytes       map[Source]prometheus.Counter
	failures    map[Reason]prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	m := &metrics{
		lag: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "akidb_sync_lag_seconds", Help: "Time from the publish of the version that serves, by its clock, until it served here."}, []string{"model"}),
		quarantined: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "akidb_sync_quarantined_versions", Help: "Versions that this node does not serve because they are at fault themselves."}, []string{"model"}),
		lastSuccess: f.NewGauge(prometheus.GaugeOpts{
			Name: "akidb_sync_last_success_timestamp_seconds", Help: "When this node last looked for new versions everywhere and got an answer."}),
		backlog: f.NewGauge(prometheus.GaugeOpts{
			Name: "akidb_sync_replication_backlog_objects", Help: "Objects that the bucket of this region lacks and this node is to copy there."}),
		installed: f.NewCounter(prometheus.CounterOpts{
			Name: "akidb_sync_installed_versions_total", Help: "Versions that came to serve."}),
		evicted: f.NewCounter(prometheus.CounterOpts{
			Name: "akidb_sync_evicted_versions_total", Help: "Old versions that were removed from this node."}),
		cacheHits: f.NewCounter(prometheus.CounterOpts{
			Name: "akidb_sync_cache_hits_total", Help: "Files of new versions that were on this node already."}),
		copied: f.NewCounter(prometheus.CounterOpts{
			Name: "akidb_sync_copied_bytes_total", Help: "Bytes that this node copied into the bucket of its region."}),
		served: f.NewCounter(prometheus.CounterOpts{
			Name: "akidb_sync_served_bytes_total", Help: "Bytes that this node gave to other nodes."}),
		bytes: map[Source]prometheus.Counter{}, failures: map[Reason]prometheus.Counter{},
	}
	bytes := f.NewCounterVec(prometheus.CounterOpts{
		Name: "akidb_sync_received_bytes_total", Help: "Bytes of models that were fetched, by where they came from."}, []string{"source"})
	for _, s := range Sources() {
		m.bytes[s] = bytes.WithLabelValues(string(s))
	}
	failures := f.NewCounterVec(prometheus.CounterOpts{
		Name: "akidb_sync_failures_total", Help: "Steps that failed, by reason; what served goes on serving."}, []string{"reason"})
	for _, r := range Reasons() {
		m.failures[r] = failures.WithLabelValues(string(r))
	}
	return m
}

// model makes the metrics of a model, which are a closed set: those of the configuration.
func (m *metrics) model(name string) { m.quarantined.WithLabelValues(name) }

func (m *metrics) fail(r Reason)               { m.failures[r].Inc() }
func (m *metrics) received(from Source, n int) { m.bytes[from].Add(float64(n)) }
