package infer

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
)

// What becomes of the requests of a lost backend. They wait in its queue, up to Config.Hold, and move to the instance
// that takes its place. Inputs whose run was lost are suspects: any of them may have killed the backend. Each of them
// runs with nothing beside it, so that the next death tells, and the third on the same input quarantines it.

const (
	maxDeaths      = 3
	suspectFor     = time.Hour // then an input is innocent again: a driver may have been mended
	maxSuspects    = 4096
	lossWindow     = time.Minute
	unsteadyLosses = 5 // within lossWindow
)

// suspectKey is the sha256 of a model's digest and the ids of an input.
type suspectKey [sha256.Size]byte

type suspicion struct {
	deaths int
	at     time.Time // of the last
}

// holds says whether requests for a lost instance wait for its successor. e.mu is held.
func (e *Engine) holds(in *instance) bool {
	return e.entryOf(in) != nil && time.Now().Before(in.holdUntil)
}

// refuses says whether nothing can wait for the instance; lossOf says why. e.mu is held.
func (e *Engine) refuses(in *instance) bool { return e.closed || in.lost && !e.holds(in) }

// heir is the instance that took over what the lost one had, or in itself.
func (in *instance) heir() *instance {
	for in.successor != nil {
		in = in.successor
	}
	return in
}

// adopt moves the requests of a lost instance to the one in its place. Another version may tokenize otherwise: those
// requests begin again (Embed). e.mu is held.
func (e *Engine) adopt(in, old *instance) {
	if !old.lost {
		return
	}
	if in.artifact.Model != old.artifact.Model || in.caps.Dimensions != old.caps.Dimensions || in.caps.MaxTokens < old.artifact.Spec.MaxTokens {
		e.failQueue(old)
		return
	}
	old.successor = in
	in.queue, old.queue = old.queue, queue{}
	for _, it := range in.queue.byLen {
		it.in = in
	}
	if in.caps.Provider == old.caps.Provider {
		in.perToken, in.perWideToken = old.perToken, old.perWideToken
	}
}

// retryLost puts the inputs of a run that was lost with its backend back into the queue. e.mu is held.
func (e *Engine) retryLost(r *run) {
	for _, it := range r.items {
		deaths := 0
		if !r.in.givenUp {
			deaths = e.blame(it)
			it.suspect, it.solo = true, true
		}
		switch {
		case len(it.waiters) == 0:
		case deaths >= maxDeaths:
			e.metrics.quarantined.Inc()
			e.log.Error("an input is refused from now on: the backend was lost on it again and again", "model", r.in.artifact.Model,
				"tokens", len(it.ids), "deaths", deaths)
			e.answer(it, r, nil, quarantined(r.in, deaths))
			e.failSame(r.in.heir(), it)
		default:
			e.metrics.retried.Inc()
			e.requeue(it, r)
		}
	}
}

// failSame refuses what waits with the same ids as a quarantined item.
func (e *Engine) failSame(in *instance, it *item) {
	for _, o := range slices.Clone(in.queue.byLen) {
		if o.hash == it.hash && slices.Equal(o.ids, it.ids) && in.queue.remove(o) {
			e.addQueued(-len(o.ids))
			e.answer(o, nil, nil, quarantined(in, maxDeaths))
		}
	}
}

func quarantined(in *instance, deaths int) *embedding.Error {
	return &embedding.Error{Code: embedding.CodeUnprocessable, Param: "input", Message: fmt.Sprintf(
		"the process that computes model %s died %d times on this input: it is refused for %v", in.artifact.Model.Name, deaths, suspectFor)}
}

func keyOf(in *instance, ids []int32) suspectKey {
	data := make([]byte, 0, len(in.artifact.Model.Digest)+4*len(ids))
	data = append(data, in.artifact.Model.Digest...)
	for _, id := range ids {
		data = binary.LittleEndian.AppendUint32(data, uint32(id))
	}
	return sha256.Sum256(data)
}

// blame notes one more death on an input and gives their number.
func (e *Engine) blame(it *item) int {
	key := keyOf(it.in, it.ids)
	s := e.suspects[key]
	if time.Since(s.at) > suspectFor {
		s.deaths = 0
	}
	s.deaths, s.at = s.deaths+1, time.Now()
	if len(e.suspects) >= maxSuspects {
		e.forgetSuspects()
	}
	e.suspects[key] = s
	return s.deaths
}

// forgetSuspects makes room: those that are over, else the older half.
func (e *Engine) forgetSuspects() {
	maps.DeleteFunc(e.suspects, func(_ suspectKey, s suspicion) bool { return time.Since(s.at) > suspectFor })
	if len(e.suspects) < maxSuspects {
		return
	}
	ages := make([]time.Time, 0, len(e.suspects))
	for _, s := range e.suspects {
		ages = append(ages, s.at)
	}
	slices.SortFunc(ages, time.Time.Compare)
	middle := ages[len(ages)/2]
	maps.DeleteFunc(e.suspects, func(_ suspectKey, s suspicion) bool { return !s.at.After(middle) })
}

// absolve forgets a suspicion: the input was computed.
func (e *Engine) absolve(it *item) {
	if it.suspect {
		delete(e.suspects, keyOf(it.in, it.ids))
	}
}

// suspected gives the deaths noted on each row, nil when nothing is suspected, and refuses rows in quarantine.
func (e *Engine) suspected(in *instance, rows [][]int32) ([]int, error) {
	if len(e.suspects) == 0 {
		return nil, nil
	}
	deaths := make([]int, len(rows))
	for i, ids := range rows {
		s := e.suspects[keyOf(in, ids)]
		if time.Since(s.at) > suspectFor {
			continue
		}
		if deaths[i] = s.deaths; s.deaths >= maxDeaths {
			return nil, quarantined(in, s.deaths)
		}
	}
	return deaths, nil
}

func (en *entry) noteLoss(reason string) {
	en.losses, en.loss = append(en.losses, time.Now()), reason
	en.recentLosses() // or the list would grow for ever
}

// recentLosses counts the losses within lossWindow and forgets the others.
func (en *entry) recentLosses() int {
	en.losses = slices.DeleteFunc(en.losses, func(t time.Time) bool { return time.Since(t) > lossWindow })
	return len(en.losses)
}

// Unsteady says which model's backend is lost again and again although the model may answer at the moment, and why;
// "" when none is.
func (e *Engine) Unsteady() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(e.entries)) {
		en := e.entries[name]
		if n := en.recentLosses(); n >= unsteadyLosses {
			return fmt.Sprintf("model %s: its backend was lost %d times within %v, the last time: %s", name, n, lossWindow, en.loss)
		}
	}
	return ""
}

// Worker is the process of a model's current version.
type Worker struct {
	Process
	Restarts int // times that a lost version of the model was opened again
}

// Workers lists the processes that serve, by model name; none for backends in this process.
func (e *Engine) Workers() map[string]Worker {
	e.mu.Lock()
	defer e.mu.Unlock()
	workers := map[string]Worker{}
	for name, en := range e.entries {
		w := Worker{Restarts: en.restarts}
		if in := en.current; in != nil {
			h, ok := in.backend.(Hosted)
			if !ok {
				continue
			}
			if !in.lost {
				w.Process = h.Process()
			}
			workers[name] = w
		}
	}
	return workers
}
