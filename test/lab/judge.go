//go:build linux

package main

import (
	"context"
	"slices"
	"time"
)

// awaitWork waits until one of the victims is at work for others: a fault that hits an idle node proves nothing.
func (r *runner) awaitWork(ctx context.Context, s scenario) {
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end) && ctx.Err() == nil; {
		for _, name := range s.victims {
			if n, err := r.fleet.node(name).busy(ctx); err == nil && n > r.busy {
				r.busy = n
			}
		}
		r.inFlight = r.client.inFlight()
		if r.busy > 0 || len(s.victims) == 0 || !r.forwarded {
			return
		}
	}
}

// watch measures how long it takes until a node sees all of the others as gone, or as linked; noDetection when
// it never does.
func (r *runner) watch(ctx context.Context, by string, names []string, since time.Time, up bool) int64 {
	for ctx.Err() == nil {
		if members, err := r.fleet.node(by).members(ctx); err == nil {
			all := true
			for _, name := range names {
				all = all && (members[name].Link == "up") == up
			}
			if all {
				return int64(time.Since(since))
			}
		}
		pause(ctx, detectionStep)
	}
	return noDetection
}

// counters are the sums of the routers' counters on the asked nodes; nil when one cannot be had.
func (r *runner) counters(ctx context.Context) map[string]float64 {
	sums := map[string]float64{}
	for _, n := range r.client.asked {
		m, err := n.metrics(ctx, r.client.http)
		if err != nil {
			return nil
		}
		for _, name := range []string{"akidb_router_attempts_total", "akidb_router_decisions_total", "process_start_time_seconds"} {
			sums[name] += m[name]
		}
	}
	return sums
}

// amplification is how many nodes were asked for each request between two moments. It is unknown when an asked
// node was restarted meanwhile.
func amplification(first, last map[string]float64) float64 {
	if first == nil || last == nil || first["process_start_time_seconds"] != last["process_start_time_seconds"] {
		return unknownAmplified
	}
	requests := last["akidb_router_decisions_total"] - first["akidb_router_decisions_total"]
	attempts := last["akidb_router_attempts_total"] - first["akidb_router_attempts_total"]
	if requests <= 0 || attempts <= 0 {
		return unknownAmplified
	}
	return attempts / requests
}

// p99 of the answered requests; 0 without any.
func p99(requests []request) time.Duration {
	var took []time.Duration
	for _, q := range requests {
		if q.code == "" {
			took = append(took, q.end.Sub(q.begin))
		}
	}
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[len(took)*99/100]
}

// judge says what of a run was not as it must be, that the run proved something among it.
func (r *runner) judge(s scenario, res *result, ended time.Time) {
	before := r.client.during(r.faultAt.Add(-s.before), r.faultAt)
	after := r.client.during(r.faultAt, ended)
	everything := append(slices.Clone(before), after...)
	res.busy, res.inFlight = r.busy, r.inFlight
	// Those in flight at the fault belong to what it did.
	res.before = p99(slices.DeleteFunc(slices.Clone(before), func(q request) bool { return q.end.After(r.faultAt) }))
	res.detection, res.rejoin = time.Duration(r.detection.Load()), time.Duration(r.rejoin.Load())
	res.share = share(everything, func(q request) bool { return q.route == "forwarded" })

	if total := res.sum.Total; total.Requests < r.engine.requests {
		res.problem("only %d requests, a run needs %d", total.Requests, r.engine.requests)
	} else if total.Failed > 0 {
		res.problem("%d requests failed: %v %.600q", total.Failed, res.sum.Codes, res.sum.Errors)
	}
	if res.forwarded {
		if res.share < leastForwarded {
			res.problem("only %.0f %% of the requests were forwarded", 100*res.share)
		}
		if len(s.victims) > 0 && res.busy == 0 {
			res.problem("no victim had a request in flight at the fault")
		}
		recent := r.client.during(ended.Add(-2*time.Second), ended)
		served := share(recent, func(q request) bool { return slices.Contains(s.back, q.node) })
		if len(s.back) > 0 && served == 0 {
			res.problem("%v answered nothing in the last 2 s, although they are back", s.back)
		}
	} else if res.share > 0.5 && !s.yields {
		res.problem("%.0f %% of the requests were forwarded although the asked nodes serve the model", 100*res.share)
	}
	// When the machine is too busy to send the load in time, its latencies, and the hedges that follow from them,
	// are not the fleet's.
	res.late = float64(res.sum.Late) / float64(max(1, res.sum.Total.Requests))
	if res.amplified > mostAmplified && res.late < tooLate {
		res.slow("%.2f nodes were asked for each request, at most %.2f", res.amplified, mostAmplified)
	}
	if grown := p99(after); grown > res.before+s.grow && res.late < tooLate {
		res.slow("p99 is %v since the fault and was %v before, at most %v more is allowed", grown.Round(time.Millisecond), res.before.Round(time.Millisecond), s.grow)
	}
	if len(s.gone) > 0 && (res.detection == noDetection || res.detection > s.detect) {
		res.problem("the loss of %v was noticed after %s, at most %v", s.gone, show(res.detection), s.detect)
	}
	if len(s.back) > 0 && (res.rejoin == noDetection || res.rejoin > rejoinLimit) {
		res.problem("%v were seen again after %s, at most %v", s.back, show(res.rejoin), rejoinLimit)
	}
}
