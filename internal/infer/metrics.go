package infer

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Reasons of akidb_infer_rejected_total.
const (
	rejectQueue    = "queue_full"         // at once
	rejectDeadline = "deadline_too_short" // at once
	rejectTimeout  = "timeout"            // while it waited or ran
	rejectCanceled = "canceled"           // the client went away
)

type metrics struct {
	tokenize, queue, run       prometheus.Histogram
	batchSize, batchTokens     prometheus.Histogram
	realTokens, paddedTokens   prometheus.Counter
	paddingRatio               prometheus.Gauge
	queueTokens                prometheus.Gauge
	rejected                   map[string]prometheus.Counter
	shared, failures, poisoned prometheus.Counter
	canaries, losses           prometheus.Counter
	retried, quarantined       prometheus.Counter
	load                       prometheus.Histogram
	loadFailures               prometheus.Counter
	info                       *prometheus.GaugeVec

	real, padded float64 // of the last thousand runs or so; the caller holds Engine.mu
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	seconds := prometheus.ExponentialBuckets(0.0005, 2, 15) // 0.5 ms to 8 s
	hist := func(name, help string, buckets []float64) prometheus.Histogram {
		return f.NewHistogram(prometheus.HistogramOpts{Name: "akidb_infer_" + name, Help: help, Buckets: buckets})
	}
	count := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: "akidb_infer_" + name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return f.NewGauge(prometheus.GaugeOpts{Name: "akidb_infer_" + name, Help: help})
	}
	m := &metrics{
		tokenize:     hist("tokenize_seconds", "Time to tokenize the inputs of a request.", prometheus.ExponentialBuckets(0.00001, 4, 9)),
		queue:        hist("queue_seconds", "Wait of an input before its run.", seconds),
		run:          hist("run_seconds", "Time of a run of the backend.", seconds),
		batchSize:    hist("batch_size", "Inputs in a run.", prometheus.ExponentialBuckets(1, 2, 9)),
		batchTokens:  hist("batch_tokens", "Tokens in a run, without padding.", prometheus.ExponentialBuckets(8, 2, 12)),
		realTokens:   count("tokens_total", "Tokens computed, without padding."),
		paddedTokens: count("padded_tokens_total", "Tokens computed, padding included."),
		paddingRatio: gauge("padding_ratio", "Share of padding in the recently computed tokens."),
		queueTokens:  gauge("queue_tokens", "Tokens that wait."),
		shared:       count("shared_inputs_total", "Inputs answered by an identical one that waited at the same time."),
		failures:     count("failed_runs_total", "Runs that failed, by an error or a panic."),
		poisoned:     count("poisoned_inputs_total", "Inputs that failed when run alone."),
		canaries:     count("failed_canaries_total", "Canary runs that failed."),
		losses:       count("lost_backends_total", "Backends that were given up."),
		retried:      count("retried_inputs_total", "Inputs whose run was lost with the backend and that were put back into the queue."),
		quarantined:  count("quarantined_inputs_total", "Inputs refused because the backend was lost on each of them again and again."),
		load:         hist("model_load_seconds", "Time to open, warm and check a model.", prometheus.ExponentialBuckets(0.05, 2, 14)),
		loadFailures: count("model_load_failures_total", "Models that could not be loaded."),
		info: f.NewGaugeVec(prometheus.GaugeOpts{Name: "akidb_infer_model_info", Help: "1 for each model version that is served."},
			[]string{"model", "digest", "precision", "provider"}),
		rejected: map[string]prometheus.Counter{},
	}
	rejected := f.NewCounterVec(prometheus.CounterOpts{Name: "akidb_infer_rejected_total", Help: "Requests given up before they were answered."}, []string{"reason"})
	for _, r := range []string{rejectQueue, rejectDeadline, rejectTimeout, rejectCanceled} {
		m.rejected[r] = rejected.WithLabelValues(r)
	}
	return m
}

// batch notes the shape of a run. The caller holds Engine.mu.
func (m *metrics) batch(size, real, padded int) {
	m.batchSize.Observe(float64(size))
	m.batchTokens.Observe(float64(real))
	m.realTokens.Add(float64(real))
	m.paddedTokens.Add(float64(padded))
	const keep = 0.999
	m.real = m.real*keep + float64(real)
	m.padded = m.padded*keep + float64(padded)
	m.paddingRatio.Set(1 - m.real/m.padded)
}

func (m *metrics) labels(in *instance) prometheus.Labels {
	mod := in.artifact.Model
	return prometheus.Labels{"model": mod.Name, "digest": mod.Digest, "precision": mod.Precision, "provider": in.caps.Provider}
}

func (m *metrics) serve(in *instance)  { m.info.With(m.labels(in)).Set(1) }
func (m *metrics) forget(in *instance) { m.info.Delete(m.labels(in)) }
