package router

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/akidb/akidbd/internal/node"
)

// Limits of the evidence machine, most of them Envoy's outlier detection.
const (
	ejectStreak    = 5                      // failures in a row
	ejectSamples   = 20                     // results in 10 s before their share counts
	ejectShare     = 0.5                    // failures among them
	ejectBase      = 30 * time.Second       // times how often the node was ejected lately
	ejectBaseHere  = 5 * time.Second        // the same for this node's engine: no probe brings it back, and asking is cheap
	ejectMax       = 300 * time.Second      // longest ejection, and the good conduct that clears the record
	outrunAtLeast  = 250 * time.Millisecond // a streak of late answers alone must last: a short stall makes many at once
	slowStart      = 10 * time.Second
	slowStartFloor = 0.1                    // share of a full node's traffic that a recovered one gets at first
	doubtStreak    = 2                      // failures in a row that make a node doubtful
	trialEvery     = 100 * time.Millisecond // between requests to a doubtful node, which find out
	busyMin        = 100 * time.Millisecond
	busyMax        = time.Second
)

// State is what the evidence says of a node.
type State string

// States of a node in the router's eyes.
const (
	StateUp        State = "up"
	StateSlowStart State = "slow_start" // recovered less than 10 s ago
	StateBusy      State = "busy"       // said overloaded a moment ago
	StateEjected   State = "ejected"    // failed too often
	StateDown      State = "down"       // its link is down
)

// health is the evidence that results give of one node: a state machine of up, busy and ejected.
type health struct {
	failing atomic.Bool // lost is set, for a look without the lock

	base time.Duration // of ejections

	mu        sync.Mutex
	streak    int       // failures since the last answer
	since     time.Time // when the streak began
	lost      time.Time // the first failure since the last answer; an ejection's end leaves it
	trial     time.Time // the last request to it while it was doubtful
	window    window    // results, and failures among them
	times     int       // ejections on record
	ejected   time.Time // zero when it is not
	until     time.Time // the earliest end of the ejection
	recovered time.Time // when the last ejection ended
	busy      time.Time // until when it gets nothing
	backoff   time.Duration
}

// condition is what health comes to at a moment.
type condition struct {
	state  State
	weight float64 // share of a full node's traffic, in slow start
	streak int
	trial  time.Time // the last request to it while it was doubtful
	until  time.Time // of an ejection or a busy time
}

// condition looks at the node, and ends an ejection that the link speaks against: one that came up since, or that
// is up when the time has passed.
func (h *health) condition(now time.Time, link node.Link) condition {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !link.Up {
		return condition{state: StateDown, streak: h.streak}
	}
	if !h.ejected.IsZero() {
		if !link.Since.After(h.ejected) && now.Before(h.until) {
			return condition{state: StateEjected, streak: h.streak, until: h.until}
		}
		h.recovered, h.ejected, h.busy = now, time.Time{}, time.Time{}
		h.window = window{}
		h.streak = 0
	}
	c := condition{state: StateUp, weight: 1, streak: h.streak, trial: h.trial}
	if now.Before(h.busy) {
		c.state, c.until = StateBusy, h.busy
	}
	from := h.recovered
	if link.Since.After(from) {
		from = link.Since
	}
	if age := now.Sub(from); age < slowStart {
		c.weight = slowStartFloor + (1-slowStartFloor)*max(0, age.Seconds())/slowStart.Seconds()
		if c.state == StateUp {
			c.state = StateSlowStart
		}
	}
	return c
}

// expected says whether a node that fails now is still expected back: it has not failed for longer than patience.
func (h *health) expected(now time.Time, patience time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lost.IsZero() || now.Sub(h.lost) <= patience
}

// doubtful says whether the last two results were failures.
func (h *health) doubtful() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.streak >= doubtStreak
}

// asked notes that the node was given a request.
func (h *health) asked(now time.Time) {
	if !h.failing.Load() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.streak >= doubtStreak {
		h.trial = now
	}
}

// answered notes that the node did its part; a request that it found wrong is an answer too.
func (h *health) answered(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.streak, h.backoff, h.lost = 0, 0, time.Time{}
	h.failing.Store(false)
	h.window.add(now, 1, 0)
}

// refused notes that the node was overloaded: load is no failure.
func (h *health) refused(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now.Before(h.busy) {
		return
	}
	h.backoff = min(max(2*h.backoff, busyMin), busyMax)
	h.busy = now.Add(h.backoff)
}

// failed notes a failure and says why it ejects the node, "" when it does not.
func (h *health) failed(now time.Time, d dice) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count(now)
	h.window.add(now, 1, 1)
	switch all, bad := h.window.sum(now); {
	case h.streak >= ejectStreak:
		return h.eject(now, d, ejectedStreak)
	case all >= ejectSamples && float64(bad) > ejectShare*float64(all):
		return h.eject(now, d, ejectedShare)
	}
	return ""
}

// outrun notes that another node answered a request that this one was given earlier. It may be dead or just slow,
// so that only a lasting streak counts.
func (h *health) outrun(now time.Time, d dice) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count(now)
	if h.streak >= ejectStreak && now.Sub(h.since) >= outrunAtLeast {
		return h.eject(now, d, ejectedLate)
	}
	return ""
}

func (h *health) count(now time.Time) {
	if h.streak == 0 {
		h.since = now
	}
	if h.lost.IsZero() {
		h.lost = now
		h.failing.Store(true)
	}
	h.streak++
}

// eject begins an ejection; the caller holds mu. Results that arrive during one change nothing.
func (h *health) eject(now time.Time, d dice, why string) string {
	if !h.ejected.IsZero() {
		return ""
	}
	if now.Sub(h.recovered) > ejectMax {
		h.times = 0
	}
	h.times++
	h.ejected = now
	h.until = now.Add(min(d.around(time.Duration(h.times)*h.base), ejectMax))
	return why
}
