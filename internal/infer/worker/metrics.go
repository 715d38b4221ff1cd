package worker

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Why a worker that served ended: labels of akidb_engine_worker_restarts_total.
const (
	reasonCrash    = "crash"    // a signal other than SIGKILL, or an exit
	reasonKilled   = "killed"   // SIGKILL of somebody else: the kernel's when memory is short
	reasonHang     = "hang"     // it did not beat
	reasonStuck    = "stuck"    // a run did not end although it was aborted, or the engine gave it up
	reasonProtocol = "protocol" // it sent what is no frame
)

type metrics struct{ restarts map[string]prometheus.Counter }

func newMetrics(reg prometheus.Registerer, rss func() float64) *metrics {
	f := promauto.With(reg)
	restarts := f.NewCounterVec(prometheus.CounterOpts{
		Name: "akidb_engine_worker_restarts_total", Help: "Worker processes that ended while they served, each replaced by a new one.",
	}, []string{"reason"})
	m := &metrics{restarts: map[string]prometheus.Counter{}}
	for _, r := range []string{reasonCrash, reasonKilled, reasonHang, reasonStuck, reasonProtocol} {
		m.restarts[r] = restarts.WithLabelValues(r)
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "akidb_engine_worker_rss_bytes", Help: "Resident memory of all worker processes."}, rss)
	return m
}
