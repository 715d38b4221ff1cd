package infer

import (
	"math"
	"time"
)

// How runs share the cores of the CPU. One run at a time over all cores (wide) answers each input soonest; one
// run per core (narrow) computes more per second, because cores need not wait for each other. In queueing terms
// one fast server against several slow ones: the fast one wins until its loss of capacity makes it the busier
// one. TestCoresPolicy holds the choice against both fixed modes in virtual time.

// wideBelow is how busy the cores may be, counted as if every run were wide, for wide runs to win. Found with
// TestCoresPolicy.
const wideBelow = 0.55

// loadMemory is over how long the load is averaged: long against the gaps between arrivals, short against the
// patience of a user when a burst begins.
const loadMemory = 2 * time.Second

// wideBacklog is how many full runs may wait for wide runs to go on: a burst is there before the average shows it.
const wideBacklog = 2

// defaultWidePenalty is taken until both forms were measured.
const defaultWidePenalty = 1.1

// workload is a decaying sum of the work that arrived, in nanoseconds of one core.
type workload struct {
	sum float64
	at  time.Time
}

func (w *workload) add(now time.Time, work time.Duration) {
	w.sum = w.decayed(now) + float64(work)
	w.at = now
}

func (w *workload) decayed(now time.Time) float64 {
	return w.sum * math.Exp(-now.Sub(w.at).Seconds()/loadMemory.Seconds())
}

// utilization is the work that arrives per time, as a share of what the cores can do.
func (e *Engine) utilization() float64 {
	return e.arrived.decayed(time.Now()) / float64(loadMemory) / float64(e.cfg.Options.Threads)
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
	if lone := len(in.queue.byLen) == 1 && e.queued == in.queue.tokens; lone && e.cores == 0 {
		return true
	}
	return e.queued <= wideBacklog*e.cfg.BatchTokens && e.utilization()*in.widePenalty() < wideBelow
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
		learn(&in.perToken, per)
		return
	}
	learn(&in.perWideToken, per)
	if in.perToken == 0 { // no narrow run yet
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
