package infer

import (
	"errors"
	"reflect"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
)

// The pauses between tries to open a lost model again: none before the first, then doubling.
const (
	reopenMin = 200 * time.Millisecond
	reopenMax = 30 * time.Second
	// steadyAfter is how long a version must have served for its loss to count as the first one again.
	steadyAfter = reopenMax
	// productiveAfter is the same for a version that answered requests: what ended it came from outside, or with an
	// input, which is found and refused.
	productiveAfter = time.Second
	// hopelessAfter is how many times in a row opening a lost model must have come to nothing for requests not to
	// wait for the next try.
	hopelessAfter = 3
	// freeWait is how long opening waits for the lost backend to close, so that its memory is free: a GPU may
	// not hold two copies. One that hangs never closes.
	freeWait = 2 * time.Second
)

// errSuperseded: another version came, or the model was removed, while a lost one was opened again.
var errSuperseded = errors.New("another version took its place meanwhile")

// lose gives an instance up and, if it is the current one, opens its model anew. e.mu is held.
func (e *Engine) lose(in *instance, reason string) {
	if in.lost {
		return
	}
	in.givenUp = !in.isLost()
	in.lost = true
	e.metrics.losses.Inc()
	e.log.Error("backend lost", "model", in.artifact.Model, "reason", reason)
	if h, ok := in.backend.(Hosted); ok {
		h.Kill(reason)
	}
	for r := range e.runs {
		if r.in == in {
			r.cancel(errNobodyWaits)
		}
	}
	en := e.entryOf(in)
	if en == nil {
		e.failQueue(in)
		return
	}
	en.state, en.reason = embedding.ModelFailed, reason
	en.noteLoss(reason)
	switch lived := time.Since(in.loaded); {
	case lived > steadyAfter, in.answered && lived > productiveAfter:
		en.reopens = 0
	case in.answered:
		en.reopens = min(en.reopens, 1)
	}
	if en.reopens < hopelessAfter {
		in.holdUntil = time.Now().Add(e.cfg.Hold)
	}
	if !e.holds(in) {
		e.failQueue(in)
	}
	e.reopen(en, in)
}

// end says why a backend is lost that we did not give up.
func (in *instance) end() string {
	if h, ok := in.backend.(Hosted); ok {
		if err := h.Err(); err != nil {
			return err.Error()
		}
	}
	return "its backend ended unexpectedly"
}

// lossOf is what requests get that a lost instance had. One that is not current any more has a successor which may
// answer them.
func (e *Engine) lossOf(in *instance) *embedding.Error {
	if e.closed {
		return embedding.Errorf(embedding.CodeUnavailable, "this node is shutting down")
	}
	err := embedding.Errorf(embedding.CodeUnavailable, "the backend of model %s was lost", in.artifact.Model.Name)
	if en := e.entries[in.artifact.Model.Name]; en != nil && en.current != in {
		err.Err = errSuperseded
	}
	return err
}

// lossFor is lossOf for one item, which says so when a run of the item was lost.
func (e *Engine) lossFor(it *item, in *instance) *embedding.Error {
	err := e.lossOf(in)
	err.Lost = it.suspect
	return err
}

func (en *entry) pause() time.Duration {
	if en.reopens == 0 {
		return 0
	}
	return min(reopenMin<<min(en.reopens-1, 16), reopenMax)
}

// reopen opens the model of a lost instance again after a pause, unless something else took its place. e.mu is
// held.
func (e *Engine) reopen(en *entry, lost *instance) {
	pause := en.pause()
	en.reopens++
	tries, began := en.reopens, time.Now()
	e.wg.Go(func() {
		if !e.sleep(pause, nil) || !e.sleep(freeWait, lost.closed) {
			return
		}
		e.mu.Lock()
		settings, stale := en.settings, e.entries[en.name] != en || en.current != lost
		e.mu.Unlock()
		if stale {
			return
		}
		like := lost // reading the tokenizer is a fifth of the way back; if it comes to nothing, all is read again
		if tries > 1 || !reflect.DeepEqual(settings, lost.settings) {
			like = nil
		}
		in, err := e.open(e.ctx, lost.artifact.Model, lost.artifact.Dir, settings, like)
		if err == nil {
			if err = e.swap(in, lost); err != nil {
				err = errors.Join(err, in.backend.Close())
			}
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		switch {
		case err == nil:
			en.restarts++
			e.log.Info("lost model opened again", "model", in.artifact.Model, "seconds", time.Since(began).Seconds())
		case errors.Is(err, errSuperseded) || e.ctx.Err() != nil:
		default:
			e.log.Error("opening a lost model again", "model", lost.artifact.Model, "err", err, "tries", en.reopens)
			en.reason = err.Error()
			if en.reopens >= hopelessAfter {
				lost.holdUntil = time.Time{}
				e.failQueue(lost)
			}
			e.reopen(en, lost)
		}
	})
}

// sleep waits for d or until early is closed, and says whether the engine still lives.
func (e *Engine) sleep(d time.Duration, early <-chan struct{}) bool {
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-early:
		case <-e.ctx.Done():
		}
	}
	return e.ctx.Err() == nil
}
