package infer

import (
	"math"
	"time"
)

// How runs share the cores of the CPU. One run at a time over all cores (wide) answers each input soonest; one
// run per core (narrow) computes more per second, because cores need not wait for each other. In queueing terms
// one fast server (M/G/1) against several slow ones (M/G/c): the fast one wins until its loss of capacity makes it
// the busier one. TestCoresPolicy holds the choice against both fixed modes in virtual time.

// loadMemory is over how long the load is averaged: long against the gaps between arrivals, short against the
// patience of a user when a burst begins.
const loadMemory = 2 * time.Second

// wideBacklog is how many full runs may wait for wide runs to go on: a burst is there before the average shows it.
const wideBacklog = 2

// defaultWidePenalty is taken until both forms were measured.
const defaultWidePenalty = 1.1

// loneBelow is the share of arrivals that may find a run under way for its owner to count as a lone client, who waits
// for one answer before he asks for the next: however much he asks for, nobody stands behind him.
const loneBelow = 0.05

// narrowFirst is how many runs are narrow before the speed of narrow ones is known: a client that is alone would never
// show it.
const narrowFirst = 4

// workload is what arrived, in decaying sums: the nanoseconds of one core that it takes, their squares, and how many.
type workload struct {
	sum, squares, count float64
	at                  time.Time
	found               float64 // moving average of the share of arrivals that found a run under way
}

func (w *workload) add(now time.Time, work time.Duration, busy bool) {
	const weight = 0.05
	d := w.decay(now)
	w.sum, w.squares, w.count = w.sum*d+float64(work), w.squares*d+float64(work)*float64(work), w.count*d+1
	w.at = now
	found := 0.0
	if busy {
		found = 1
	}
	w.found += weight * (found - w.found)
}

func (w *workload) decay(now time.Time) float64 {
	return math.Exp(-now.Sub(w.at).Seconds() / loadMemory.Seconds())
}

// variation is the squared coefficient of variation of the work: 0 when all are alike.
func (w *workload) variation() float64 {
	if w.sum == 0 {
		return 0
	}
	return max(0, w.squares*w.count/(w.sum*w.sum)-1)
}

// utilization is the work that arrives per time, as a share of what the cores can do.
func (e *Engine) utilization() float64 {
	return e.arrived.sum * e.arrived.decay(time.Now()) / float64(loadMemory) / float64(e.cfg.Options.Threads)
}

// wideWins compares the time of an answer, in units of a narrow run: work of the mean size and the wait before it, by
// Pollaczek and Khinchin for the one fast server, by Erlang's C for the several slow ones. Where the mean wait has half
// of 1 + variation stands what fits p95 in TestCoresPolicy.
func wideWins(load, penalty, variation float64, cores int) bool {
	busy := load * penalty
	if busy >= 1 {
		return false
	}
	c, spread := float64(cores), 0.1+1.8*variation
	wide := penalty / c * (1 + spread*busy/(1-busy))
	narrow := 1 + spread*erlangC(load*c, cores)/(c*(1-load))
	return wide < narrow
}

// erlangC is the probability that an arrival at so many servers finds all of them busy, when offered is the mean number
// of busy ones, less than servers.
func erlangC(offered float64, servers int) float64 {
	blocked := 1.0 // Erlang's B, by its recursion
	for n := 1; n <= servers; n++ {
		blocked = offered * blocked / (float64(n) + offered*blocked)
	}
	load := offered / float64(servers)
	return blocked / (1 - load*(1-blocked))
}

// freeLanes is how many runs the instance may start now. Runs on the CPU share the cores; a wide one has them
// all.
func (e *Engine) freeLanes(in *instance) int {
	if in.exclusive {
		return 0
	}
	free := in.caps.Lanes - in.running
	if in.onCPU() {
		if e.wide > 0 || (e.cores > 0 && e.wantsWide(in) && e.worthWaiting(in)) {
			return 0
		}
		free = min(free, e.cfg.Options.Threads-e.cores)
	}
	return max(free, 0)
}

// wantsWide says whether the instance's next run should have all cores.
func (e *Engine) wantsWide(in *instance) bool {
	if !in.onCPU() || !in.caps.Wide || e.cfg.Wide == WideNever {
		return false
	}
	if e.cfg.Wide == WideAlways {
		return true
	}
	if in.narrowRuns < narrowFirst {
		return false
	}
	if lone := len(in.queue.byLen) == 1 && e.queued == in.queue.tokens; lone && e.cores == 0 && e.arrived.found < loneBelow {
		return true
	}
	return e.queued <= wideBacklog*e.cfg.BatchTokens && wideWins(e.utilization(), in.widePenalty(), e.arrived.variation(), e.cfg.Options.Threads)
}

// worthWaiting says whether the head is answered sooner by waiting for the narrow runs to end and then taking
// all cores, than by a core of its own now.
func (e *Engine) worthWaiting(in *instance) bool {
	if e.cfg.Wide == WideAlways {
		return true
	}
	h := in.queue.head()
	if h < 0 {
		return false
	}
	wait := time.Duration(0)
	for r := range e.runs {
		if r.cores > 0 && !r.freed {
			wait = max(wait, r.in.cost(r.padded)-time.Since(r.started))
		}
	}
	alone := in.cost(len(in.queue.byLen[h].ids))
	wide := float64(alone) * in.widePenalty() / float64(e.cfg.Options.Threads)
	return wait+time.Duration(wide) < alone
}

// cost estimates how long a run of that many padded tokens takes on one lane.
func (in *instance) cost(padded int) time.Duration {
	return time.Duration(in.perToken * float64(padded+in.caps.RunOverhead))
}

// widePenalty is how much more core time a wide run takes than narrow ones for the same work.
func (in *instance) widePenalty() float64 {
	if in.perToken == 0 || in.perWideToken == 0 {
		return defaultWidePenalty
	}
	return max(1, in.perWideToken/in.perToken)
}

// observe learns the speed from a run.
func (in *instance) observe(r *run) {
	const weight = 0.1 // of the newest: about the last twenty runs count
	per := float64(r.took) * float64(max(r.cores, 1)) / float64(r.padded+in.caps.RunOverhead)
	learn := func(average *float64, value float64) {
		if *average == 0 {
			*average = value
		}
		*average += weight * (value - *average)
	}
	if !r.wide {
		in.narrowRuns++
		learn(&in.perToken, per)
		return
	}
	learn(&in.perWideToken, per)
	if in.perToken == 0 { // always wide
		in.perToken = per / defaultWidePenalty
	}
}

// drainTime estimates how long the instance needs for that many tokens.
func (e *Engine) drainTime(in *instance, tokens int) time.Duration {
	lanes := in.caps.Lanes
	if in.onCPU() {
		lanes = min(lanes, e.cfg.Options.Threads)
	}
	return time.Duration(in.perToken * float64(tokens) / float64(max(lanes, 1)))
}

// waitFor estimates when a request of that many tokens that comes now would be answered: after what comes
// before it in the order of service.
func (e *Engine) waitFor(in *instance, tokens int) time.Duration {
	last, ahead := e.vtime+uint64(tokens), 0
	for _, other := range e.instances {
		for _, it := range other.queue.byLen {
			if it.tag() <= last {
				ahead += len(it.ids)
			}
		}
	}
	return e.drainTime(in, ahead+tokens)
}
