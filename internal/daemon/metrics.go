package daemon

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	reloadFailures   prometheus.Counter
	reloadSuccessful prometheus.Gauge // 1 or 0
	reloadSuccess    prometheus.Gauge // when, Unix seconds
	restartNeeded    prometheus.Gauge // settings
}

func newMetrics(reg prometheus.Registerer) metrics {
	f := promauto.With(reg)
	m := metrics{
		reloadFailures: f.NewCounter(prometheus.CounterOpts{
			Name: "akidb_daemon_reload_failures_total", Help: "Reloads of the configuration that failed; what served goes on serving."}),
		reloadSuccessful: f.NewGauge(prometheus.GaugeOpts{
			Name: "akidb_daemon_last_reload_successful", Help: "1 when the last reload of the configuration, or the start, succeeded."}),
		reloadSuccess: f.NewGauge(prometheus.GaugeOpts{
			Name: "akidb_daemon_last_reload_success_timestamp_seconds", Help: "When the configuration in force was taken over."}),
		restartNeeded: f.NewGauge(prometheus.GaugeOpts{
			Name: "akidb_daemon_restart_needed_settings", Help: "Settings that were changed in the file and wait for a restart."}),
	}
	m.reloadSuccessful.Set(1)
	m.reloadSuccess.SetToCurrentTime()
	return m
}
