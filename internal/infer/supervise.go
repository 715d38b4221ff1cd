package infer

import (
	"context"
	"errors"
	"fmt"
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
	reopenMin      = 200 * time.Millisecond
	reopenMax      = 30 * time.Second
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
		for _, in := range append([]*instance(nil), e.instances...) {
			if !in.lost && in.isLost() {
				e.lose(in, "its backend ended unexpectedly")
			}
			if !in.lost && e.wantsCanary(in) {
				e.probe(in)
			}
			e.reap(in)
		}
		e.dispatch()
		e.mu.Unlock()
	}
}

// wakeSupervisor never blocks.
func (e *Engine) wakeSupervisor() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// suspect asks for a canary: one bad input must not make a model unready, a broken backend must.
func (e *Engine) suspect(in *instance, err error) {
	in.doubtful = true
	in.reason = err.Error()
	e.wakeSupervisor()
}

func (e *Engine) wantsCanary(in *instance) bool {
	if in.probing || !in.retired.IsZero() {
		return false
	}
	return in.doubtful || (in.running == 0 && time.Since(in.active) > idleCanary)
}

// probe sends one token through the backend, outside the queue. e.mu is held.
func (e *Engine) probe(in *instance) {
	in.probing = true
	e.wg.Go(func() {
		ctx, cancel := context.WithTimeout(e.ctx, canaryTimeout)
		defer cancel()
		out, err := safeRun(ctx, in.backend, Batch{Rows: [][]int32{{0}}})
		if err == nil {
			err = checkOutput(out, 1, in.caps.Dimensions)
		}
		if err == nil && !finite(out.Vectors[0]) {
			err = errors.New("the model computed a NaN or infinite number for the canary")
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		in.probing = false
		if e.ctx.Err() != nil || in.lost {
			return
		}
		e.probed(in, err)
	})
}

// probed takes a canary's result. e.mu is held.
func (e *Engine) probed(in *instance, err error) {
	en := e.entries[in.artifact.Model.Name]
	current := en != nil && en.current == in
	if err == nil {
		in.active, in.suspects, in.doubtful, in.reason = time.Now(), 0, false, ""
		if current && en.state != embedding.ModelReady {
			en.state, en.reason = embedding.ModelReady, ""
			e.log.Info("model answers again", "model", in.artifact.Model)
		}
		return
	}
	e.metrics.canaries.Inc()
	in.suspects++
	in.doubtful = true
	if current && en.state == embedding.ModelReady {
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

// lose gives an instance up and, if it is the current one, opens its model anew. e.mu is held.
func (e *Engine) lose(in *instance, reason string) {
	in.lost, in.reason = true, reason
	e.metrics.losses.Inc()
	e.log.Error("backend lost", "model", in.artifact.Model, "reason", reason)
	e.failQueue(in, embedding.Errorf(embedding.CodeUnavailable, "the backend of model %s was lost", in.artifact.Model.Name))
	en := e.entries[in.artifact.Model.Name]
	if en == nil || en.current != in {
		return
	}
	en.state, en.reason = embedding.ModelFailed, reason
	wait := min(reopenMin<<min(en.reopens, 16), reopenMax)
	if en.reopens == 0 {
		wait = 0
	}
	e.reopenAfter(en, in, wait)
}

// reopenAfter opens the model of a lost instance again, with a growing pause between tries. e.mu is held.
func (e *Engine) reopenAfter(en *entry, lost *instance, wait time.Duration) {
	en.reopens++
	e.wg.Go(func() {
		select {
		case <-e.ctx.Done():
			return
		case <-time.After(wait):
		}
		err := e.Install(e.ctx, lost.artifact.Model, lost.artifact.Dir, lost.settings)
		e.mu.Lock()
		defer e.mu.Unlock()
		if err == nil || e.ctx.Err() != nil || en.current != lost {
			return
		}
		e.log.Error("opening a lost model again", "model", lost.artifact.Model, "err", err, "tries", en.reopens)
		e.reopenAfter(en, lost, min(reopenMin<<min(en.reopens, 16), reopenMax))
	})
}
