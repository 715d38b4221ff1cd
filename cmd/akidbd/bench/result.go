package bench

import (
	"encoding/json"
	"io"
	"strings"
	"time"

	"github.com/akidb/akidbd/internal/loadgen"
)

// result is a finished run with what it was asked to do. Its JSON form is what --json prints.
type result struct {
	opt   options
	about string
	sum   loadgen.Summary
}

func newResult(opt options, about string, sum loadgen.Summary) result {
	return result{opt: opt, about: about, sum: sum}
}

// document is the JSON form: times in seconds, rates per second, sizes in bytes.
type document struct {
	Load     loadDocument    `json:"load"`
	Seconds  float64         `json:"seconds"`  // measured
	Complete bool            `json:"complete"` // false: interrupted
	Total    groupDocument   `json:"total"`
	URLs     []groupDocument `json:"urls"`
	Places   []groupDocument `json:"places"` // by region and route
	// Failures by code, and one message of each.
	Failures map[string]int64  `json:"failures"`
	Messages map[string]string `json:"messages,omitempty"`
	Warmup   warmupDocument    `json:"warmup"`
	// LateStarts counts requests of the open loop that started over 10 ms late; their latency includes it.
	LateStarts   int64         `json:"late_starts"`
	MostInFlight int           `json:"most_in_flight"`
	Histogram    []binDocument `json:"latency_histogram"`
}

type loadDocument struct {
	URLs            []string `json:"urls"`
	API             string   `json:"api"`
	Model           string   `json:"model,omitempty"`
	Loop            string   `json:"loop"` // "closed" or "open"
	Clients         int      `json:"clients"`
	Rate            float64  `json:"rate,omitempty"`
	Texts           string   `json:"texts"`
	TextsPerRequest int      `json:"texts_per_request"`
	Repeat          float64  `json:"repeat"`
	Seed            uint64   `json:"seed"`
	Failover        bool     `json:"failover"`
	Verified        bool     `json:"verified"`
}

type warmupDocument struct {
	Seconds  float64 `json:"seconds"`
	Requests int64   `json:"requests"`
	Failed   int64   `json:"failed"`
}

type groupDocument struct {
	URL        string           `json:"url,omitempty"`
	Region     string           `json:"region,omitempty"`
	Route      string           `json:"route,omitempty"`
	Requests   int64            `json:"requests"`
	Failed     int64            `json:"failed"`
	FailedOver int64            `json:"failed_over"`
	Texts      int64            `json:"texts"`
	Tokens     int64            `json:"tokens"`
	TextRate   float64          `json:"texts_per_second"`
	TokenRate  float64          `json:"tokens_per_second"`
	Sent       int64            `json:"bytes_sent"`
	Received   int64            `json:"bytes_received"`
	Latency    *latencyDocument `json:"latency"` // null when nothing succeeded
}

type latencyDocument struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P95  float64 `json:"p95"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

type binDocument struct {
	From  float64 `json:"from"`
	To    float64 `json:"to"`
	Count int64   `json:"count"`
}

func (r result) document() document {
	d := document{
		Load: loadDocument{
			URLs: r.opt.urls, API: r.opt.api, Model: r.opt.model, Loop: "closed", Clients: r.opt.clients,
			Rate: r.opt.rate, Texts: r.opt.lengths, TextsPerRequest: r.opt.textsPer, Repeat: r.opt.repeat,
			Seed: r.opt.seed, Failover: r.opt.failover, Verified: r.opt.verify,
		},
		Seconds:  r.sum.Window.Seconds(),
		Complete: !r.sum.Interrupted,
		Total:    r.group(r.sum.Total),
		URLs:     []groupDocument{},
		Places:   []groupDocument{},
		Failures: r.sum.Codes,
		Messages: r.sum.Errors,
		Warmup: warmupDocument{
			Seconds: r.opt.warmup.Seconds(), Requests: r.sum.WarmupRequests, Failed: r.sum.WarmupFailed,
		},
		LateStarts:   r.sum.Late,
		MostInFlight: r.sum.MostInFlight,
		Histogram:    []binDocument{},
	}
	if r.opt.rate > 0 {
		d.Load.Loop = "open"
	}
	for _, g := range r.sum.URLs {
		doc := r.group(g)
		doc.URL = g.Name
		d.URLs = append(d.URLs, doc)
	}
	for _, g := range r.sum.Places {
		doc := r.group(g)
		doc.Region, doc.Route, _ = strings.Cut(g.Name, " ")
		d.Places = append(d.Places, doc)
	}
	for _, b := range bins(r.sum.Total.Latency) {
		d.Histogram = append(d.Histogram, binDocument{From: b.from.Seconds(), To: b.to.Seconds(), Count: b.count})
	}
	return d
}

func (r result) group(g loadgen.Group) groupDocument {
	d := groupDocument{
		Requests: g.Requests, Failed: g.Failed, FailedOver: g.Retried, Texts: g.Texts, Tokens: g.Tokens,
		TextRate: r.rate(g.WindowTexts), TokenRate: r.rate(g.WindowTokens), Sent: g.Sent, Received: g.Received,
	}
	if g.Latency.TotalCount() > 0 {
		d.Latency = &latencyDocument{
			Mean: (time.Duration(g.Latency.Mean()) * time.Microsecond).Seconds(),
			P50:  g.Quantile(50).Seconds(), P90: g.Quantile(90).Seconds(), P95: g.Quantile(95).Seconds(),
			P99: g.Quantile(99).Seconds(), P999: g.Quantile(99.9).Seconds(), Max: g.Max().Seconds(),
		}
	}
	return d
}

// rate is so many per second of the measured time.
func (r result) rate(n int64) float64 {
	if r.sum.Window <= 0 {
		return 0
	}
	return float64(n) / r.sum.Window.Seconds()
}

func (r result) writeJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r.document())
}
