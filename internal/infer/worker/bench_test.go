package worker

import (
	"testing"
	"time"

	"github.com/akidb/akidbd/internal/infer"
	"github.com/prometheus/client_golang/prometheus"
)

// BenchmarkRun is what a run costs besides the computation: to a worker and back, with a pause of 2 ms between runs as a
// client that waits makes it, so that both processes sleep.
func BenchmarkRun(b *testing.B) {
	h := NewHost(Config{Command: []string{"/proc/self/exe", "worker"}, Environment: []string{asWorker + "=1"}, Registerer: prometheus.NewRegistry()})
	defer h.Close()
	back, err := h.Open(b.Context(), artifact("m"), infer.Options{Threads: 2})
	if err != nil {
		b.Fatal(err)
	}
	defer back.Close()
	for _, pause := range []time.Duration{0, 2 * time.Millisecond} {
		b.Run(pause.String(), func(b *testing.B) {
			took := time.Duration(0)
			for b.Loop() {
				if pause > 0 {
					time.Sleep(pause)
				}
				began := time.Now()
				if _, err := back.Run(b.Context(), row(1, 2, 3)); err != nil {
					b.Fatal(err)
				}
				took += time.Since(began)
			}
			b.ReportMetric(float64(took.Microseconds())/float64(b.N), "us/run")
		})
	}
}
