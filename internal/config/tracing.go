package config

import "net/url"

// Tracing is where spans go, by OTLP over gRPC. Traces that a client began are continued as it decided.
type Tracing struct {
	// Endpoint is http://host:port or https://host:port. Default "": no spans are made.
	Endpoint string `yaml:"endpoint" reload:"restart"`
	// SamplePercent is how many of a hundred requests are traced when the client did not decide. Default 10; 0 to
	// 100.
	SamplePercent int `yaml:"sample_percent" reload:"restart"`
}

func (k checker) tracing(t Tracing) {
	within(k, "tracing.sample_percent", t.SamplePercent, 0, 100)
	if t.Endpoint == "" {
		return
	}
	u, err := url.Parse(t.Endpoint)
	if err != nil || u.Hostname() == "" || u.Port() == "" || u.Scheme != "http" && u.Scheme != "https" {
		k.problem("tracing.endpoint", "%s, must be http://host:port or https://host:port", quote(t.Endpoint))
	}
}
