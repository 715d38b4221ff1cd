package infer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
)

// The pace of supervision. Readiness tells the truth within a second of a failure: a doubtful backend is probed
// at once and again every superviseEvery.
const (
	superviseEvery = 250 * time.Millisecond
	canaryTimeout  = time.Second      // for one row of one token, in its own lane
	idleCanary     = 10 * time.Second // without a successful run before an idle backend is probed
	canaryStrikes  = 3                // canaries that fail in a row before the backend is given up
	stuckGrace     = time.Second      // for a run to end after it was aborted
)

// supervise looks after the instances until ctx ends.
func (e *Engine) supervise(ctx context.Context) {
	tick := time.NewTicker(superviseEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-e.wake:
		}
		e.beat.Store(time.Now().UnixNano())
		e.mu.Lock()
		e.giveUpStuck()
		for _, in := range slices.Clone(e.instances) {
			e.look(in)
		}
		e.dispatch()
		e.mu.Unlock()
	}
}

func (e *Engine) look(in *instance) {
	switch {
	case in.lost:
		if len(in.queue.byLen) > 0 && !e.holds(in) {
			e.failQueue(in)
		}
	case in.isLost():
		e.lose(in, in.end())
	case in.probing && time.Since(in.probed) > canaryTimeout+stuckGrace:
		e.lose(in, "its canary hangs")
	case in.wantsCanary():
		e.probe(in)
	}
	e.reap(in)
}

// wakeSupervisor never blocks.
func (e *Engine) wakeSupervisor() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// suspect asks for a canary: one bad input must not make a model unready, a broken backend must.
func (e *Engine) suspect(in *instance) {
	in.doubtful = true
	e.wakeSupervisor()
}

// wantsCanary: at once when a run failed, but not faster than the pace, or strikes would follow each other
// within milliseconds.
func (in *instance) wantsCanary() bool {
	if in.probing || !in.retired.IsZero() || time.Since(in.probed) < superviseEvery {
		return false
	}
	return in.doubtful || (in.running == 0 && time.Since(in.active) > idleCanary)
}

// probe sends one token through the backend, outside the queue. e.mu is held.
func (e *Engine) probe(in *instance) {
	in.probing, in.probed = true, time.Now()
	e.wg.Go(func() {
		ctx, cancel := context.WithTimeout(e.ctx, canaryTimeout)
		defer cancel()
		out, err := SafeRun(ctx, in.backend, Batch{Rows: [][]int32{{0}}})
		if err == nil && !finite(out.Vectors[0]) {
			err = errors.New("the model computed a NaN or infinite number for the canary")
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		in.probing = false
		busy := in.running > 0 && ctx.Err() != nil // it waited behind runs, which run_timeout watches
		if e.ctx.Err() != nil || in.lost || busy {
			return
		}
		if err == nil {
			e.healthy(in)
		} else {
			e.strike(in, err)
		}
	})
}

// healthy notes that the backend answers. e.mu is held.
func (e *Engine) healthy(in *instance) {
	in.active, in.suspects, in.doubtful = time.Now(), 0, false
	if en := e.entryOf(in); en != nil && en.state != embedding.ModelReady {
		en.state, en.reason = embedding.ModelReady, ""
		e.log.Info("model answers again", "model", in.artifact.Model)
	}
}

// strike notes that a canary failed. e.mu is held.
func (e *Engine) strike(in *instance, err error) {
	e.metrics.canaries.Inc()
	in.suspects++
	in.doubtful = true
	if en := e.entryOf(in); en != nil && en.state == embedding.ModelReady {
		en.state, en.reason = embedding.ModelFailed, fmt.Sprintf("its canary failed: %v", err)
		e.log.Error("model does not answer its canary", "model", in.artifact.Model, "err", err)
	}
	if in.suspects >= canaryStrikes {
		e.lose(in, fmt.Sprintf("%d canaries failed in a row, the last with: %v", in.suspects, err))
	}
}

// giveUpStuck answers the items of runs that did not end although they were aborted. e.mu is held.
func (e *Engine) giveUpStuck() {
	for r := range e.runs {
		if r.stuck || time.Since(r.started) < e.cfg.RunTimeout+stuckGrace {
			continue
		}
		r.stuck = true
		e.freeCores(r) // it may well burn one, but the others must not wait for it
		e.failRun(r, embedding.Errorf(embedding.CodeUnavailable,
			"the computation did not end within run_timeout, %v, and could not be aborted", e.cfg.RunTimeout))
		e.lose(r.in, "a run hangs")
	}
}
