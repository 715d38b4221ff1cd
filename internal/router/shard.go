package router

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
)

const (
	shardNodes = 16 // most nodes for one request
	shardLanes = 2  // parts at once at a node: one computes while the other travels
	shardEach  = 4  // parts for each node at least, so that fast nodes can take more
	shardLeast = 16 // a part has at least this share, one in so many, of ShardTokens
)

// A shard is the part [from, to) of a request's inputs.
type shard struct{ from, to, tokens int }

// split cuts the inputs into runs of about that many tokens; an input stays whole.
func split(inputs []embedding.Input, tokens int) []shard {
	var list []shard
	s := shard{}
	for i, in := range inputs {
		n := tokensOf(in)
		if s.to > s.from && s.tokens+n > tokens {
			list = append(list, s)
			s = shard{from: i}
		}
		s.to, s.tokens = i+1, s.tokens+n
	}
	return append(list, s)
}

// sharded answers a large request by the whole fleet; false when there is nobody to share it with. All parts are
// answered by one Model. Workers of each node take part after part, so that a fast one takes more.
func (r *Router) sharded(ctx context.Context, req embedding.Request, a ask) (embedding.Result, error, bool) {
	a.exact = true
	now := time.Now()
	a.left = r.cfg.grown(r.cfg.Deadline, a.tokens)
	list := r.candidates(now, a, nil)
	list = slices.DeleteFunc(list, func(c candidate) bool { return !c.good(r.cfg.LoadMark) })
	if len(list) < 2 {
		return embedding.Result{}, nil, false
	}
	slices.SortFunc(list, func(x, y candidate) int {
		return cmp.Or(cmp.Compare(x.place(), y.place()), cmp.Compare(x.score, y.score))
	})
	list = list[:min(len(list), shardNodes)]
	shards := split(req.Inputs, max(min(a.tokens/(len(list)*shardEach), r.cfg.ShardTokens), r.cfg.ShardTokens/shardLeast, 1))

	ctx, cancel := context.WithTimeout(ctx, a.left)
	defer cancel()
	w := &works{r: r, req: req, ask: a, shards: shards, results: make([]embedding.Result, len(shards)), cancel: cancel}
	w.staff.Store(int32(len(list) * shardLanes))
	var wg sync.WaitGroup
	for range shardLanes {
		for i := range list {
			wg.Go(func() { w.work(ctx, &list[i]) })
		}
	}
	wg.Wait()
	if w.err != nil {
		return embedding.Result{}, w.err, true
	}
	return w.merged(r.origin()), nil, true
}

// works is a large request under way.
type works struct {
	r       *Router
	req     embedding.Request
	ask     ask
	shards  []shard
	results []embedding.Result // parallel to shards
	next    atomic.Int32       // shard to take
	staff   atomic.Int32       // workers that go on
	cancel  context.CancelFunc

	once sync.Once
	err  error // the first
}

// work takes parts for one node until none is left, one fails for good, or the node fails and others go on.
func (w *works) work(ctx context.Context, at *candidate) {
	for {
		i := int(w.next.Add(1)) - 1
		if i >= len(w.shards) {
			return
		}
		if ctx.Err() != nil {
			w.fail(embedding.AsError(context.Cause(ctx)))
			return
		}
		s := w.shards[i]
		req, a := w.req, w.ask
		req.Inputs, a.tokens = w.req.Inputs[s.from:s.to], s.tokens
		c := w.r.newRace(ctx, req, a)
		c.first, c.prefer = kindShard, at.peer
		res, err := c.run()
		c.end()
		if err != nil {
			w.fail(where(embedding.AsError(err), s, len(w.req.Inputs)))
			w.cancel()
			return
		}
		w.results[i] = res
		if res.Origin.Node != string(at.info.ID) && at.peer.health.doubtful() {
			if w.staff.Add(-1) > 0 {
				return
			}
			w.staff.Add(1)
		}
	}
}

// fail keeps the first error.
func (w *works) fail(err error) {
	w.once.Do(func() { w.err = err })
}

// where adds to what a node said of an input, which it counts from the first of its part, which part that was.
func where(e *embedding.Error, s shard, all int) *embedding.Error {
	if e.Param != "input" {
		return e
	}
	said := *e
	said.Message = fmt.Sprintf("in inputs %d to %d of 0 to %d, counted from the first of these: %s", s.from, s.to-1, all-1, e.Message)
	return &said
}

// merged puts the parts together in order.
func (w *works) merged(o embedding.Origin) embedding.Result {
	n := len(w.req.Inputs)
	all := embedding.Result{Model: w.results[0].Model, Vectors: make([][]float32, 0, n), Tokens: make([]int, 0, n)}
	for i, res := range w.results {
		all.Vectors = append(all.Vectors, res.Vectors...)
		all.Tokens = append(all.Tokens, res.Tokens...)
		if res.Truncated != nil {
			if all.Truncated == nil {
				all.Truncated = make([]int, n)
			}
			copy(all.Truncated[w.shards[i].from:], res.Truncated)
		}
		all.Timing.Tokenize = max(all.Timing.Tokenize, res.Timing.Tokenize)
		all.Timing.Queue = max(all.Timing.Queue, res.Timing.Queue)
		all.Timing.Run = max(all.Timing.Run, res.Timing.Run)
		o.Forwarded = o.Forwarded || res.Origin.Forwarded
	}
	all.Origin = o
	return all
}
