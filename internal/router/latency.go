package router

import (
	"math"
	"slices"
	"sync"
	"time"
)

// Latency is kept by how many tokens a request has: a large one on a fast node is no evidence that it is slow.
var classBounds = [...]int{32, 128, 512, 2048, 8192} // tokens; beyond is one class more

const (
	latencyTau     = 10 * time.Second // how fast a peak is forgotten, as in Finagle's peak EWMA
	latencySamples = 64               // of a class, for its p95
	latencyEnough  = 8                // fewer samples tell no p95
	latencyStep    = 8                // samples between computations of p95
	latencyUnknown = time.Millisecond // of a node that was never asked: it is tried early
)

func classOf(tokens int) int {
	for i, b := range classBounds {
		if tokens <= b {
			return i
		}
	}
	return len(classBounds)
}

// latency is how long a node took lately.
type latency struct {
	mu      sync.Mutex
	classes [len(classBounds) + 1]*samples
}

type samples struct {
	ring [latencySamples]time.Duration
	n    int           // samples ever
	p95  time.Duration // of the ring, at most latencyStep samples old; 0 before latencyEnough
	peak float64       // seconds: rises at once, falls with latencyTau
	at   time.Time     // of peak
}

// record notes that a request of that many tokens took that long, or at least that long.
func (l *latency) record(now time.Time, tokens int, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := classOf(tokens)
	s := l.classes[i]
	if s == nil {
		s = &samples{}
		l.classes[i] = s
	}
	s.ring[s.n%latencySamples] = took
	s.n++
	if s.n >= latencyEnough && s.n%latencyStep == 0 {
		sorted := slices.Clone(s.ring[:min(s.n, latencySamples)])
		slices.Sort(sorted)
		s.p95 = sorted[(len(sorted)*95-1)/100]
	}
	v := took.Seconds()
	if v < s.peak {
		w := math.Exp(-now.Sub(s.at).Seconds() / latencyTau.Seconds())
		v = s.peak*w + v*(1-w)
	}
	s.peak, s.at = v, now
}

// expected is the peak EWMA for that many tokens, from the nearest class that was measured. A node that is not
// asked is forgotten over time, and so tried again.
func (l *latency) expected(now time.Time, tokens int) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := classOf(tokens)
	for d := range len(l.classes) {
		for _, j := range [2]int{i + d, i - d} {
			if j >= 0 && j < len(l.classes) && l.classes[j] != nil {
				s := l.classes[j]
				left := s.peak * math.Exp(-now.Sub(s.at).Seconds()/latencyTau.Seconds())
				return max(time.Duration(left*float64(time.Second)), latencyUnknown)
			}
		}
	}
	return latencyUnknown
}

// p95 for that many tokens; 0 when too little is known.
func (l *latency) p95(tokens int) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.classes[classOf(tokens)]; s != nil {
		return s.p95
	}
	return 0
}
