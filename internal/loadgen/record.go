package loadgen

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Outcome is how one request went.
type Outcome struct {
	Code    string // "" when it succeeded; else one of a small set: see HTTP.Send
	Message string // what the server or the network said, when it failed
	URL     int    // which target gave the outcome, an index
	Retried []int  // targets that failed before it, when the request was sent again elsewhere
	Region  string // who computed it, when the server says so
	Route   string // how it got there: "local" or "forwarded"
	Tokens  int64  // that the server counted
	// Sent and Received are bytes of HTTP bodies, of all attempts.
	Sent, Received int64
}

// Group is a share of the requests of a run: all of them, those of one target or of one place.
type Group struct {
	Name     string
	Requests int64 // measured, failed ones included
	Failed   int64
	// Retried counts attempts that failed here and were sent again elsewhere. In the total it is the number
	// of such attempts, in the group of a target those that the target failed.
	Retried        int64
	Texts, Tokens  int64 // of answers to measured requests
	Sent, Received int64 // bytes of bodies of measured requests
	// WindowTexts and WindowTokens count the answers that came while measuring, whenever they were asked for:
	// divided by Summary.Window they are the throughput, without the bias of slow starts and ends.
	WindowTexts, WindowTokens int64
	// Latency of the measured requests that succeeded, in microseconds.
	Latency *hdrhistogram.Histogram
}

// Summary is the result of a run.
type Summary struct {
	Total  Group
	URLs   []Group           // in the order of the targets
	Places []Group           // by region and route of the answer, sorted by name; empty when servers do not tell
	Codes  map[string]int64  // failures by code
	Errors map[string]string // one message for each code
	Window time.Duration     // for how long answers were counted
	// WarmupRequests were sent before measuring, WarmupFailed of them failed.
	WarmupRequests, WarmupFailed int64
	// Late counts requests of the open loop that started more than 10 ms after they were due: all clients were
	// busy, or the machine was. Their latency includes the wait.
	Late          int64
	MostInFlight  int
	LatencyCapped int64 // latencies over an hour, counted as an hour
	Interrupted   bool
}

// Progress is how far a run is.
type Progress struct {
	Elapsed  time.Duration // since the end of the warm-up; negative before
	Requests int64         // measured ones that ended
	Failed   int64
	InFlight int
	TextRate float64       // texts per second so far
	P50, P99 time.Duration // so far; 0 before the first answer
}

const (
	maxLatency = time.Hour
	maxPlaces  = 64 // rows that a server's answers can make
	otherPlace = "(other)"
)

type sample struct {
	due, done time.Time
	measured  bool
	late      bool
	texts     int
	canceled  bool // the run was interrupted while the request was in flight
	Outcome
}

type recorder struct {
	mu         sync.Mutex
	begin, end time.Time // end is zero when there is none
	last       time.Time // when the last counted answer came
	inFlight   int
	total      Group
	urls       []Group
	places     map[string]*Group
	codes      map[string]int64
	errs       map[string]string
	sum        Summary
}

func newRecorder(urls []string) *recorder {
	r := &recorder{
		total:  newGroup("total"),
		places: make(map[string]*Group),
		codes:  make(map[string]int64),
		errs:   make(map[string]string),
	}
	for _, u := range urls {
		r.urls = append(r.urls, newGroup(u))
	}
	return r
}

func newGroup(name string) Group {
	return Group{Name: name, Latency: hdrhistogram.New(1, maxLatency.Microseconds(), 3)}
}

func (r *recorder) open(begin, end time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begin, r.end, r.last = begin, end, begin
}

func (r *recorder) started() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inFlight++
	r.sum.MostInFlight = max(r.sum.MostInFlight, r.inFlight)
}

func (r *recorder) finished(s sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inFlight--
	failed := s.Code != ""
	if failed && s.canceled {
		return
	}
	if !s.measured {
		r.sum.WarmupRequests++
		if failed {
			r.sum.WarmupFailed++
		}
	}
	inWindow := !failed && s.done.After(r.begin) && (r.end.IsZero() || !s.done.After(r.end))
	if !s.measured && !inWindow {
		return
	}
	if s.done.After(r.last) {
		r.last = s.done
	}
	groups := []*Group{&r.total}
	if s.URL >= 0 && s.URL < len(r.urls) {
		groups = append(groups, &r.urls[s.URL])
	}
	if !failed && (s.Region != "" || s.Route != "") {
		groups = append(groups, r.place(s.Region, s.Route))
	}
	for _, g := range groups {
		if inWindow {
			g.WindowTexts += int64(s.texts)
			g.WindowTokens += s.Tokens
		}
		if s.measured {
			g.add(s)
		}
	}
	if !s.measured {
		return
	}
	if !failed && s.done.Sub(s.due) > maxLatency {
		r.sum.LatencyCapped++
	}
	for _, u := range s.Retried {
		r.total.Retried++
		if u >= 0 && u < len(r.urls) {
			r.urls[u].Retried++
		}
	}
	if s.late {
		r.sum.Late++
	}
	if failed {
		r.codes[s.Code]++
		if r.errs[s.Code] == "" {
			r.errs[s.Code] = s.Message
		}
	}
}

// add counts a measured request.
func (g *Group) add(s sample) {
	g.Requests++
	g.Sent += s.Sent
	g.Received += s.Received
	if s.Code != "" {
		g.Failed++
		return
	}
	g.Texts += int64(s.texts)
	g.Tokens += s.Tokens
	took := min(s.done.Sub(s.due), maxLatency)
	// Between the smallest and the largest value of the histogram nothing is refused.
	_ = g.Latency.RecordValue(max(1, took.Microseconds()))
}

func (r *recorder) place(region, route string) *Group {
	name := cmp.Or(region, "-") + " " + cmp.Or(route, "-")
	if g := r.places[name]; g != nil {
		return g
	}
	if len(r.places) >= maxPlaces {
		name = otherPlace
	}
	g := r.places[name]
	if g == nil {
		made := newGroup(name)
		g = &made
		r.places[name] = g
	}
	return g
}

// window is for how long answers were counted until now.
func (r *recorder) window(now time.Time, ended bool) time.Duration {
	to := now
	switch {
	case !r.end.IsZero() && now.After(r.end):
		to = r.end
	case r.end.IsZero() && ended:
		to = r.last
	}
	return max(0, to.Sub(r.begin))
}

func (r *recorder) progress(now time.Time) Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := Progress{
		Elapsed:  now.Sub(r.begin),
		Requests: r.total.Requests,
		Failed:   r.total.Failed,
		InFlight: r.inFlight,
	}
	if r.begin.IsZero() {
		p.Elapsed = 0
	}
	if w := r.window(now, false); w > 0 {
		p.TextRate = float64(r.total.WindowTexts) / w.Seconds()
	}
	if r.total.Latency.TotalCount() > 0 {
		p.P50 = r.total.Quantile(50)
		p.P99 = r.total.Quantile(99)
	}
	return p
}

func (r *recorder) summary(now time.Time, interrupted bool) Summary {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sum
	s.Total, s.URLs = r.total, r.urls
	for _, name := range slices.Sorted(maps.Keys(r.places)) {
		s.Places = append(s.Places, *r.places[name])
	}
	s.Codes, s.Errors = r.codes, r.errs
	s.Window = r.window(now, true)
	s.Interrupted = interrupted
	return s
}

// Quantile is the latency that so many percent of the successful requests kept; 0 without any.
func (g Group) Quantile(percent float64) time.Duration {
	return time.Duration(g.Latency.ValueAtPercentile(percent)) * time.Microsecond
}

// Max is the longest latency; 0 without any.
func (g Group) Max() time.Duration {
	return time.Duration(g.Latency.Max()) * time.Microsecond
}
