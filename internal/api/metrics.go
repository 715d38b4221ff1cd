package api

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/akidb/akidbd/internal/embedding"
)

// metrics is what this package counts. Routes and codes are closed sets: what matches no route is "other".
type metrics struct {
	requests   *prometheus.CounterVec   // route, code
	seconds    *prometheus.HistogramVec // route
	embeds     *prometheus.CounterVec   // region, code
	inflight   prometheus.Gauge
	inputs     prometheus.Counter
	truncated  prometheus.Counter
	panics     prometheus.Counter
	keys       prometheus.Gauge
	keysFailed prometheus.Counter
	region     string
}

func newMetrics(reg prometheus.Registerer, region string, routes []*route) (*metrics, error) {
	m := &metrics{
		region: region,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "akidb_api_requests_total",
			Help: "Requests answered, by route and code (ok or why not).",
		}, []string{"route", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "akidb_api_request_seconds",
			Help: "Time from a request's headers to the end of its answer, by route.",
			// From half a millisecond (a cached vector) to the default deadline, about x2 each.
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .03, .05, .1, .2, .5, 1, 2, 5, 10},
		}, []string{"route"}),
		embeds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "akidb_embed_requests_total",
			Help: "Embedding requests this node was asked, over every protocol and also each request of a stream, by the node's region and code.",
		}, []string{"region", "code"}),
		inflight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "akidb_api_inflight",
			Help: "Requests being answered.",
		}),
		inputs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "akidb_api_inputs_total",
			Help: "Inputs of answered embedding requests.",
		}),
		truncated: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "akidb_api_truncated_inputs_total",
			Help: "Inputs that were cut to what the model takes.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "akidb_api_panics_total",
			Help: "Panics in handlers, each answered as an internal error.",
		}),
		keys: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "akidb_api_keys",
			Help: "API keys in force; 0 means none is asked for.",
		}),
		keysFailed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "akidb_api_keys_reload_failures_total",
			Help: "Times a changed keys file could not be used and the old keys stayed in force.",
		}),
	}
	var errs []error
	for _, c := range []prometheus.Collector{
		m.requests, m.seconds, m.embeds, m.inflight, m.inputs, m.truncated, m.panics, m.keys, m.keysFailed,
	} {
		errs = append(errs, reg.Register(c))
	}
	for _, r := range routes {
		m.seconds.WithLabelValues(r.name)
		for _, code := range r.codes() {
			m.requests.WithLabelValues(r.name, string(code))
		}
	}
	for _, code := range append(embedding.Codes(), codeOK) {
		m.embeds.WithLabelValues(region, string(code))
	}
	return m, errors.Join(errs...)
}

// embed counts one embedding request of any protocol.
func (m *metrics) embed(code embedding.Code) {
	m.embeds.WithLabelValues(m.region, string(code)).Inc()
}
