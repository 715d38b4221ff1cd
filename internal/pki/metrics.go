package pki

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	notAfter       prometheus.Gauge
	failing        prometheus.Gauge
	reloadFailures prometheus.Counter
	renewFailures  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		notAfter: f.NewGauge(prometheus.GaugeOpts{Name: "akidb_pki_cert_not_after_seconds",
			Help: "When this node's certificate ends, Unix time."}),
		failing: f.NewGauge(prometheus.GaugeOpts{Name: "akidb_pki_reload_failing",
			Help: "1 while the files in the certificate directory are of no use and older ones stay in force."}),
		reloadFailures: f.NewCounter(prometheus.CounterOpts{Name: "akidb_pki_reload_failures_total",
			Help: "New certificate files that were not taken over."}),
		renewFailures: f.NewCounter(prometheus.CounterOpts{Name: "akidb_pki_renew_failures_total",
			Help: "Renewals of this node's certificate that failed."}),
	}
}

func (m *metrics) show(now *material) { m.notAfter.Set(float64(now.chain[0].NotAfter.Unix())) }
