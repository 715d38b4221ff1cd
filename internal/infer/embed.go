package infer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/infer/pooling"
)

// A call is one Embed that waits for its items. Engine.mu guards it until done is closed.
type call struct {
	items   []*item // distinct: inputs with the same ids share one
	vectors [][]float32
	start   uint64 // virtual time of the engine when it came
	served  uint64 // tokens computed for it
	left    int    // inputs not answered yet
	err     error
	done    chan struct{} // closed when left is 0 or err is set
	queue   time.Duration // longest wait
	run     time.Duration // longest run
}

func (c *call) tag() uint64 { return c.start + c.served }

func (c *call) settled() bool { return c.left == 0 || c.err != nil }

// Embed answers one vector per input. It refuses at once what it cannot take (overloaded, model_not_found,
// invalid, unprocessable) and returns when all inputs are answered, one failed, or ctx ended; then what it left
// behind stops using the queue.
func (e *Engine) Embed(ctx context.Context, req embedding.Request) (embedding.Result, error) {
	if len(req.Inputs) == 0 {
		return embedding.Result{}, embedding.Errorf(embedding.CodeInvalid, "no input: give at least one text")
	}
	_, digest := embedding.SplitModel(req.Model)
	const tries = 3
	for try := 1; ; try++ {
		res, err := e.embed(ctx, req)
		// A version that was lost after it was replaced is not opened again: the one that serves now answers.
		if err == nil || digest != "" || try == tries || ctx.Err() != nil || !errors.Is(err, errSuperseded) {
			return res, err
		}
	}
}

func (e *Engine) embed(ctx context.Context, req embedding.Request) (embedding.Result, error) {
	in, err := e.acquire(req.Model)
	if err != nil {
		return embedding.Result{}, err
	}
	defer e.release(in)

	dims, err := in.dimensions(req.Dimensions)
	if err != nil {
		return embedding.Result{}, err
	}
	res := embedding.Result{Model: in.artifact.Model}
	started := time.Now()
	rows, err := e.tokenize(ctx, in, req, &res)
	if err != nil {
		return embedding.Result{}, err
	}
	res.Timing.Tokenize = time.Since(started)
	e.metrics.tokenize.Observe(res.Timing.Tokenize.Seconds())

	c, err := e.submit(ctx, in, rows)
	if err != nil {
		return embedding.Result{}, err
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		e.abandon(c, context.Cause(ctx))
	}
	if c.err != nil {
		return embedding.Result{}, c.err
	}
	res.Timing.Queue, res.Timing.Run = c.queue, c.run
	res.Vectors = in.finish(c, dims, req.Normalize)
	return res, nil
}

// dimensions checks the asked number against what the model has.
func (in *instance) dimensions(asked int) (int, error) {
	if asked == 0 {
		return in.caps.Dimensions, nil
	}
	if asked < 0 || asked > in.caps.Dimensions {
		return 0, &embedding.Error{Code: embedding.CodeUnprocessable, Param: "dimensions", Message: fmt.Sprintf(
			"dimensions is %d, model %s has 1 to %d", asked, in.artifact.Model.Name, in.caps.Dimensions)}
	}
	return asked, nil
}

// tokenize does it for no more requests at once than there are cores: a long text costs time although only its
// beginning is computed.
func (e *Engine) tokenize(ctx context.Context, in *instance, req embedding.Request, res *embedding.Result) ([][]int32, error) {
	select {
	case e.tokenizing <- struct{}{}:
		defer func() { <-e.tokenizing }()
	case <-ctx.Done():
		return nil, embedding.AsError(context.Cause(ctx))
	}
	return in.tokenize(ctx, req, res)
}

// tokenize turns the inputs into rows and notes counts and cuts in res.
func (in *instance) tokenize(ctx context.Context, req embedding.Request, res *embedding.Result) ([][]int32, error) {
	prompt, err := in.prompt(req.PromptName)
	if err != nil {
		return nil, err
	}
	truncate := in.truncate
	if req.Truncate != nil {
		truncate = *req.Truncate
	}
	rows := make([][]int32, len(req.Inputs))
	res.Tokens = make([]int, len(req.Inputs))
	for i, input := range req.Inputs {
		if ctx.Err() != nil {
			return nil, embedding.AsError(context.Cause(ctx))
		}
		ids, full := input.Tokens, len(input.Tokens)
		if ids == nil {
			enc := in.tokenizer.Encode(prompt+input.Text, in.maxTokens)
			ids, full = enc.IDs, enc.Full
		} else if err := in.checkIDs(i, ids); err != nil {
			return nil, err
		}
		if len(ids) == 0 {
			return nil, &embedding.Error{Code: embedding.CodeUnprocessable, Param: "input", Message: fmt.Sprintf(
				"input %d has no tokens for model %s", i, in.artifact.Model.Name)}
		}
		if full > in.maxTokens {
			if !truncate {
				return nil, &embedding.Error{Code: embedding.CodeUnprocessable, Param: "input", Message: fmt.Sprintf(
					"input %d has %d tokens, model %s takes %d: shorten it or let it be cut with truncate",
					i, full, in.artifact.Model.Name, in.maxTokens)}
			}
			if res.Truncated == nil {
				res.Truncated = make([]int, len(req.Inputs))
			}
			ids = ids[:min(len(ids), in.maxTokens)]
			res.Truncated[i] = full - len(ids)
		}
		rows[i], res.Tokens[i] = ids, len(ids)
	}
	return rows, nil
}

func (in *instance) prompt(name string) (string, error) {
	if name == "" {
		name = in.defaultPrompt
		if name == "" {
			return "", nil
		}
	}
	p, ok := in.prompts[name]
	if !ok {
		known := "it has none"
		if len(in.prompts) > 0 {
			known = "it has " + strings.Join(in.promptNames(), ", ")
		}
		return "", &embedding.Error{Code: embedding.CodeUnprocessable, Param: "prompt_name", Message: fmt.Sprintf(
			"model %s has no prompt %q: %s", in.artifact.Model.Name, name, known)}
	}
	return p, nil
}

func (in *instance) checkIDs(i int, ids []int32) error {
	bad := func(format string, args ...any) error {
		return &embedding.Error{Code: embedding.CodeUnprocessable, Param: "input", Message: fmt.Sprintf(format, args...)}
	}
	if len(ids) == 0 {
		return bad("input %d has no token ids", i)
	}
	for _, id := range ids {
		if id < 0 || int(id) >= in.artifact.Spec.Vocab {
			return bad("input %d has token id %d, model %s has ids 0 to %d",
				i, id, in.artifact.Model.Name, in.artifact.Spec.Vocab-1)
		}
	}
	return nil
}

// finish slices and normalizes what the backend pooled. Inputs may share a pooled vector, so each gets a copy.
func (in *instance) finish(c *call, dims int, normalize *bool) [][]float32 {
	norm := in.normalize
	if normalize != nil {
		norm = *normalize
	}
	flat := make([]float32, dims*len(c.vectors))
	out := make([][]float32, len(c.vectors))
	for i, v := range c.vectors {
		out[i] = flat[i*dims : (i+1)*dims : (i+1)*dims]
		copy(out[i], v)
		if norm {
			pooling.Normalize(out[i])
		}
	}
	return out
}

// submit queues the rows of one request, or refuses them.
func (e *Engine) submit(ctx context.Context, in *instance, rows [][]int32) (*call, error) {
	c := &call{
		vectors: make([][]float32, len(rows)),
		left:    len(rows), done: make(chan struct{}),
	}
	hashes := make([]uint64, len(rows))
	for i, ids := range rows {
		hashes[i] = hashIDs(ids)
	}
	now := time.Now()

	e.mu.Lock()
	defer e.mu.Unlock()
	in = in.heir()
	if err := e.admit(ctx, in, rows); err != nil {
		return nil, err
	}
	deaths, err := e.suspected(in, rows)
	if err != nil {
		return nil, err
	}
	c.start = e.vtime
	for i, ids := range rows {
		it := in.queue.find(hashes[i], ids)
		if it != nil {
			e.metrics.shared.Inc()
		} else {
			it = &item{in: in, ids: ids, hash: hashes[i], seq: e.seq, enqueued: now}
			e.seq++
			it.suspect = deaths != nil && deaths[i] > 0
			it.solo = it.suspect
			in.queue.push(it)
			e.addQueued(len(ids))
			if in.onCPU() {
				e.arrived.add(now, in.cost(len(ids)))
			}
		}
		if it.wait(waiter{c, i}) {
			c.items = append(c.items, it)
		}
	}
	e.calls++
	e.dispatch()
	return c, nil
}

// admit says whether the rows may wait. e.mu is held.
func (e *Engine) admit(ctx context.Context, in *instance, rows [][]int32) error {
	if e.refuses(in) {
		return e.lossOf(in)
	}
	if ctx.Err() != nil {
		return embedding.AsError(context.Cause(ctx))
	}
	if err := e.room(); err != nil {
		return err
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		return nil
	}
	tokens := 0
	for _, r := range rows {
		tokens += len(r)
	}
	need, left := e.waitFor(in, tokens), time.Until(deadline)
	if need > left {
		e.metrics.rejected[rejectDeadline].Inc()
		return embedding.Errorf(embedding.CodeOverloaded,
			"the answer would take about %v, the deadline leaves %v: send fewer texts, give more time or try again later",
			need.Round(time.Millisecond), left.Round(time.Millisecond))
	}
	return nil
}

// room refuses when the queue is full. e.mu is held.
func (e *Engine) room() error {
	if e.queued < e.cfg.QueueTokens {
		return nil
	}
	e.metrics.rejected[rejectQueue].Inc()
	return embedding.Errorf(embedding.CodeOverloaded,
		"the queue is full: %d tokens wait, the limit is %d: try again later", e.queued, e.cfg.QueueTokens)
}

// abandon is called when nobody waits for c any more: its queued items leave the queue, its running ones stop
// being worth finishing. e.mu must not be held.
func (e *Engine) abandon(c *call, cause error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c.settled() {
		return
	}
	if errors.Is(cause, context.Canceled) {
		e.metrics.rejected[rejectCanceled].Inc()
	} else {
		e.metrics.rejected[rejectTimeout].Inc()
	}
	e.fail(c, embedding.AsError(cause))
	e.dispatch()
}

// fail ends c with err and takes it off its items. e.mu is held.
func (e *Engine) fail(c *call, err error) {
	c.err = err
	e.calls--
	close(c.done)
	for _, it := range c.items {
		was := len(it.waiters)
		it.waiters = slices.DeleteFunc(it.waiters, func(w waiter) bool { return w.call == c })
		it.calls = slices.DeleteFunc(it.calls, func(o *call) bool { return o == c })
		if len(it.waiters) > 0 || was == 0 {
			continue
		}
		if it.run != nil {
			it.run.leave()
		} else if it.in.queue.remove(it) {
			e.addQueued(-len(it.ids))
		}
	}
}

// answer gives an item's result to all who wait for it. e.mu is held.
func (e *Engine) answer(it *item, r *run, vector []float32, err error) {
	waiters := it.waiters
	it.waiters = nil
	for _, w := range waiters {
		c := w.call
		if c.settled() {
			continue
		}
		if r != nil {
			c.queue = max(c.queue, r.started.Sub(it.enqueued))
			c.run = max(c.run, r.took)
		}
		if err != nil {
			e.fail(c, err)
			continue
		}
		c.vectors[w.index] = vector
		if c.left--; c.left == 0 {
			e.calls--
			close(c.done)
		}
	}
}

// hashIDs is FNV-1a over whole ids. A collision costs a missed sharing only: find compares the ids.
func hashIDs(ids []int32) uint64 {
	h := uint64(14695981039346656037)
	for _, id := range ids {
		h = (h ^ uint64(uint32(id))) * 1099511628211
	}
	return h
}
