package infer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
)

// A run is one Backend.Run in flight.
type run struct {
	in      *instance
	items   []*item
	wide    bool
	cores   int  // it occupies, 0 off the CPU
	freed   bool // its cores are free for others
	padded  int
	started time.Time
	took    time.Duration
	live    int // items that somebody still waits for
	cancel  context.CancelCauseFunc
	suspect bool // of one input, with nothing beside it
	stuck   bool // given up: its items were answered, its return only frees the lane
}

var (
	errNobodyWaits = errors.New("nobody waits for the batch any more")
	errRunTimeout  = errors.New("the run took longer than run_timeout")
)

// leave notes that nobody waits for one item of the run; the last one stops it.
func (r *run) leave() {
	if r.live--; r.live == 0 {
		r.cancel(errNobodyWaits)
	}
}

// dispatch starts runs while something waits and lanes are free. It is called whenever an item comes or a run
// ends. e.mu is held.
func (e *Engine) dispatch() {
	for {
		in, head := e.next()
		if in == nil {
			return
		}
		e.start(in, head)
	}
}

// next is the instance to serve and its head: of those with a free lane, the one whose head comes first.
func (e *Engine) next() (best *instance, bestHead *item) {
	for _, in := range e.instances {
		if in.lost || e.freeLanes(in) == 0 {
			continue
		}
		h := in.queue.head()
		if h < 0 {
			continue
		}
		it := in.queue.byLen[h]
		if it.suspect && in.running > 0 {
			continue // a suspect runs with nothing beside it
		}
		if best == nil || it.before(bestHead) {
			best, bestHead = in, it
		}
	}
	return best, bestHead
}

// start takes the batch of the head from the instance's queue and runs it.
func (e *Engine) start(in *instance, head *item) {
	free := e.freeLanes(in)
	wide := e.cores == 0 && e.wantsWide(in)
	if wide {
		free = 1 // nothing runs beside it
	}
	items := in.queue.take(e.budget(in, free), in.maxRows(), in.caps.RunOverhead)
	rows := make([][]int32, len(items))
	tokens, first := 0, head.tag()
	for i, it := range items {
		rows[i] = it.ids
		tokens += len(it.ids)
	}
	for _, it := range items {
		for _, c := range it.calls {
			c.served += uint64(len(it.ids))
		}
	}
	// Virtual time passes as fast as each waiting request gets its share, and is never behind the head.
	e.vtime = max(e.vtime+uint64(tokens/max(e.calls, 1)), first)
	e.addQueued(-tokens)

	ctx, cancel := context.WithCancelCause(e.ctx)
	b := Batch{Rows: rows, Wide: wide}
	r := &run{
		in: in, items: items, wide: wide, padded: b.PaddedTokens(),
		started: time.Now(), live: len(items), cancel: cancel, suspect: items[0].suspect,
	}
	in.exclusive = r.suspect
	if in.onCPU() {
		r.cores = 1
		if wide {
			r.cores = e.cfg.Options.Threads
			e.wide++
		}
		e.cores += r.cores
	}
	in.running++
	for _, it := range items {
		it.run = r
	}
	e.runs[r] = struct{}{}
	e.metrics.batch(len(rows), tokens, r.padded)
	e.wg.Go(func() {
		ctx, stop := context.WithTimeoutCause(ctx, e.cfg.RunTimeout, errRunTimeout)
		defer stop()
		out, err := SafeRun(ctx, in.backend, b)
		e.ended(r, out, err, context.Cause(ctx))
	})
}

// budget is the padded tokens of the next run: no more than its share when lanes would stay idle otherwise.
func (e *Engine) budget(in *instance, free int) int {
	limit := in.caps.MaxTokens
	if in.onCPU() {
		limit = min(limit, e.cfg.BatchTokens)
	}
	share := (in.queue.tokens + free - 1) / max(free, 1)
	return min(limit, max(share, 1))
}

// ended takes a run's result, answers or retries its items and starts what can start now.
func (e *Engine) ended(r *run, out Output, err, cause error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r.took = time.Since(r.started)
	r.in.running--
	if r.suspect {
		r.in.exclusive = false
	}
	e.freeCores(r)
	delete(e.runs, r)
	r.cancel(nil)
	switch {
	case r.stuck:
	case err == nil:
		e.succeeded(r, out)
	case r.in.isLost():
		e.lose(r.in, r.in.end())
		e.retryLost(r)
	case errors.Is(cause, errNobodyWaits):
	case e.ctx.Err() != nil:
		e.failRun(r, embedding.Errorf(embedding.CodeUnavailable, "this node is shutting down"))
	case errors.Is(cause, errRunTimeout):
		e.metrics.failures.Inc()
		e.log.Error("a run was aborted", "model", r.in.artifact.Model, "inputs", len(r.items), "padded_tokens", r.padded, "err", cause)
		e.suspect(r.in)
		e.failRun(r, &embedding.Error{Code: embedding.CodeUnavailable, Err: err, Message: fmt.Sprintf(
			"the computation took longer than run_timeout, %v", e.cfg.RunTimeout)})
	default:
		e.failed(r, err)
	}
	e.reap(r.in)
	e.dispatch()
}

// freeCores gives the run's cores to others, once.
func (e *Engine) freeCores(r *run) {
	if r.freed {
		return
	}
	r.freed = true
	e.cores -= r.cores
	if r.wide {
		e.wide--
	}
}

func (e *Engine) succeeded(r *run, out Output) {
	r.in.observe(r)
	if slices.ContainsFunc(out.Vectors, finite) {
		e.healthy(r.in)
	} else {
		e.suspect(r.in)
	}
	e.metrics.run.Observe(r.took.Seconds())
	r.in.answered = true
	for i, it := range r.items {
		e.absolve(it)
		e.metrics.queue.Observe(r.started.Sub(it.enqueued).Seconds())
		if finite(out.Vectors[i]) {
			e.answer(it, r, out.Vectors[i], nil)
		} else {
			e.retryAlone(r, it, errors.New("the model computed a NaN or infinite number"))
		}
	}
}

// failed handles a run that failed by itself: its items run once more, each alone, so that only the culprit
// fails.
func (e *Engine) failed(r *run, err error) {
	e.metrics.failures.Inc()
	e.log.Warn("a run failed", "model", r.in.artifact.Model, "inputs", len(r.items), "padded_tokens", r.padded, "err", err)
	if len(r.items) == 1 {
		e.suspect(r.in)
	}
	for _, it := range r.items {
		e.retryAlone(r, it, err)
	}
}

func (e *Engine) retryAlone(r *run, it *item, err error) {
	if len(r.items) == 1 {
		e.metrics.poisoned.Inc()
		e.answer(it, r, nil, &embedding.Error{Code: embedding.CodeInternal, Message: "the model failed on this input", Err: err})
		return
	}
	if len(it.waiters) == 0 {
		return
	}
	it.solo = true
	e.requeue(it, r)
}

// requeue puts an item back into the queue, or fails it when nothing will take it from there.
func (e *Engine) requeue(it *item, r *run) {
	in := r.in.heir()
	if e.refuses(in) {
		e.answer(it, r, nil, e.lossFor(it, in))
		return
	}
	it.in, it.run = in, nil
	in.queue.push(it)
	e.addQueued(len(it.ids))
}

func (e *Engine) failRun(r *run, err error) {
	for _, it := range r.items {
		e.answer(it, r, nil, err)
	}
}

// failQueue answers everything that waits for the instance with lossFor. e.mu is held.
func (e *Engine) failQueue(in *instance) {
	items := in.queue.byLen
	e.addQueued(-in.queue.tokens)
	in.queue = queue{}
	for _, it := range items {
		e.answer(it, nil, nil, e.lossFor(it, in))
	}
}

func (e *Engine) addQueued(tokens int) {
	e.queued += tokens
	e.metrics.queueTokens.Set(float64(e.queued))
}

func finite(v []float32) bool {
	sum := float32(0)
	for _, x := range v {
		sum += x * 0 // NaN and Inf make it NaN, in one pass without a branch
	}
	return !math.IsNaN(float64(sum))
}
