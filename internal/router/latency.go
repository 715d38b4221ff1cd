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
	latencyFresh   = 30 * time.Second // how long an answer tells how fast a node is
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

	measured time.Time // the last answer
}

// class is the samples for that many tokens. The caller holds mu.
func (l *latency) class(tokens int) *samples {
	i := classOf(tokens)
	if l.classes[i] == nil {
		l.classes[i] = &samples{}
	}
	return l.classes[i]
}

// record notes that a request of that many tokens took that long.
func (l *latency) record(now time.Time, tokens int, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.class(tokens)
	s.measured = now
	s.ring[s.n%latencySamples] = took
	s.n++
	if s.n >= latencyEnough && s.n%latencyStep == 0 {
		sorted := slices.Clone(s.ring[:min(s.n, latencySamples)])
		slices.Sort(sorted)
		s.p95 = sorted[(len(sorted)*95-1)/100]
	}
	s.add(now, took)
}

// atLeast notes that a request of that many tokens was not answered in that time. It says nothing of how long the
// node takes when it answers: a dead one would seem to need ever longer, and be given ever more time.
func (l *latency) atLeast(now time.Time, tokens int, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.class(tokens).add(now, took)
}

func (s *samples) add(now time.Time, took time.Duration) {
	v := took.Seconds()
	if v < s.peak {
		w := math.Exp(-now.Sub(s.at).Seconds() / latencyTau.Seconds())
		v = s.peak*w + v*(1-w)
	}
	s.peak, s.at = v, now
}

// expected is the peak EWMA for that many tokens, from the nearest class that was measured: now, when a node that is
// not asked is forgotten over time and so tried again, and as it was lately, 0 when no answer is that fresh.
func (l *latency) expected(now time.Time, tokens int) (forgotten, lately time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := classOf(tokens)
	for d := range len(l.classes) {
		for _, j := range [2]int{i + d, i - d} {
			if j < 0 || j >= len(l.classes) || l.classes[j] == nil {
				continue
			}
			s := l.classes[j]
			if d == 0 && !s.measured.IsZero() && now.Sub(s.measured) <= latencyFresh {
				lately = time.Duration(s.peak * float64(time.Second))
			}
			left := s.peak * math.Exp(-now.Sub(s.at).Seconds()/latencyTau.Seconds())
			return max(time.Duration(left*float64(time.Second)), latencyUnknown), lately
		}
	}
	return latencyUnknown, 0
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
