package daemon

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	reloadFailures prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) metrics {
	return metrics{reloadFailures: promauto.With(reg).NewCounter(prometheus.CounterOpts{
		Name: "akidb_daemon_reload_failures_total", Help: "Reloads of the configuration that failed; what served goes on serving."})}
}
