package router

import (
	"context"
	"slices"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

// Pause between two rounds of a request that every candidate has failed.
const (
	pauseMin = 25 * time.Millisecond
	pauseMax = 250 * time.Millisecond
)

// A race is one request, or one part of one, under way: attempts at different nodes of which the first answer wins.
type race struct {
	r      *Router
	ctx    context.Context
	cancel context.CancelFunc // ends the losers
	asked  string             // the model as the client named it
	req    embedding.Request  // with the model as every node is asked
	ask    ask
	first  string    // kind of the first attempt
	prefer *peer     // who is asked first when it can be
	until  time.Time // deadline

	running []*attempt
	results chan *attempt // with room for all running
	tried   []node.ID     // in this round
	spent   int           // failed attempts that may have cost a node its work
	blamed  []*peer       // failed inside; not counted while the request itself may be the cause
	full    bool          // somebody said overloaded
	denied  bool          // by the budget
	err     *embedding.Error
	pause   time.Duration
	delay   time.Duration // that the youngest attempt has until a hedge
	hedge   *time.Timer   // nil before the first attempt
}

// An attempt is the request at one node.
type attempt struct {
	candidate
	kind  string
	began time.Time
	res   embedding.Result
	err   *embedding.Error
}

func (r *Router) newRace(ctx context.Context, req embedding.Request, a ask) *race {
	c := &race{r: r, asked: req.Model, req: req, ask: a, first: kindFirst, results: make(chan *attempt, r.cfg.Attempts)}
	c.until = time.Now().Add(r.cfg.grown(r.cfg.Deadline, a.tokens))
	if d, ok := ctx.Deadline(); ok && d.Before(c.until) {
		c.until = d
		c.ctx, c.cancel = context.WithCancel(ctx)
	} else {
		c.ctx, c.cancel = context.WithDeadline(ctx, c.until)
	}
	if a.model.ok {
		c.req.Model = a.model.asked
	}
	return c
}

// resume goes on after the local engine failed the request.
func (c *race) resume(e *embedding.Error) (embedding.Result, error) {
	c.r.metrics.ejection(c.r.here.health.failed(time.Now(), c.r.dice))
	c.err = e
	return c.loop()
}

// run asks the first node and goes on until an answer, a final error or the deadline.
func (c *race) run() (embedding.Result, error) {
	c.r.budget.earn(time.Now())
	if !c.launch(c.first) {
		if c.ask.exact {
			return embedding.Result{}, embedding.Errorf(embedding.CodeModelNotFound, "no node serves model %s (%s) any more", c.ask.model, c.ask.model.Precision)
		}
		c.ask.model, c.req.Model = resolved{}, c.asked // who served it is gone: the local engine says so best
		c.launch(c.first)
	}
	return c.loop()
}

func (c *race) loop() (embedding.Result, error) {
	var wake <-chan time.Time
	for {
		if len(c.running) == 0 && wake == nil {
			if wake = c.rest(time.Now()); wake == nil {
				return embedding.Result{}, c.err
			}
		}
		var late <-chan time.Time
		if c.hedge != nil && len(c.running) > 0 {
			late = c.hedge.C
		}
		select {
		case a := <-c.results:
			c.running = slices.DeleteFunc(c.running, func(b *attempt) bool { return a == b })
			if res, err, done := c.settle(a, time.Now()); done {
				return res, err
			}
		case <-late:
			c.late(time.Now())
		case <-wake:
			wake, c.tried = nil, c.tried[:0]
			c.pinLate()
			c.launch(kindRetry)
		case <-c.ctx.Done():
			return embedding.Result{}, c.expired(time.Now())
		}
	}
}

// end stops the losers and the timer.
func (c *race) end() {
	c.cancel()
	if c.hedge != nil {
		c.hedge.Stop()
	}
}

// untried says whether the node may be asked in this round. A second refusal is not sought from a node that
// refused others just now.
func (c *race) untried(x *candidate) bool {
	return !slices.Contains(c.tried, x.info.ID) && !(c.full && x.reason == ReasonBusy)
}

// launch makes an attempt at the best node that may be asked, or says that there is none.
func (c *race) launch(kind string) bool {
	if c.exhausted() {
		return false
	}
	x := c.choose(time.Now())
	if x == nil {
		return false
	}
	c.start(kind, x)
	return true
}

// exhausted says whether as many nodes have, or have had and failed, the work as may.
func (c *race) exhausted() bool { return c.spent+len(c.running) >= c.r.cfg.Attempts }

func (c *race) choose(now time.Time) *candidate {
	c.ask.left = c.until.Sub(now)
	if len(c.tried) == 0 && c.prefer == nil {
		if x := c.r.plainlyLocal(now, c.ask); x != nil && c.untried(x) {
			return x
		}
	}
	list := c.r.candidates(now, c.ask, nil)
	if c.prefer != nil {
		for i := range list {
			if x := &list[i]; x.peer == c.prefer && x.good(c.r.cfg.LoadMark) && c.untried(x) {
				return x
			}
		}
	}
	return pick(list, c.r.dice, c.untried)
}

func (c *race) start(kind string, x *candidate) {
	now := time.Now()
	a := &attempt{candidate: *x, kind: kind, began: now}
	c.tried = append(c.tried, x.info.ID)
	c.running = append(c.running, a)
	if c.ask.model.ok {
		c.delay = c.r.hedgeDelay(x, c.ask.tokens, c.until.Sub(now))
		if c.hedge == nil {
			c.hedge = time.NewTimer(c.delay)
		}
		c.hedge.Reset(c.delay)
	}
	a.peer.inFlight.Add(1)
	a.peer.health.asked(now)
	c.r.running.Go(func() {
		res, err := c.r.do(c.ctx, a, c.ask.tokens, c.req)
		a.res, a.err = res, embedding.AsError(err)
		a.peer.inFlight.Add(-1)
		c.results <- a
	})
}

// do asks one node. This node's engine has all the time there is: it refuses by itself what it cannot do in time,
// and hedges cover one that hangs.
func (r *Router) do(ctx context.Context, a *attempt, tokens int, req embedding.Request) (embedding.Result, error) {
	if a.local {
		return r.local.Embed(ctx, req)
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.grown(r.cfg.TryTimeout, tokens))
	defer cancel()
	return r.there.Embed(ctx, *a.info, req)
}

// settle takes the end of an attempt: an answer, an error that would be the same everywhere, or the reason to ask
// another node.
func (c *race) settle(a *attempt, now time.Time) (embedding.Result, error, bool) {
	e := a.err
	if e == nil {
		e = c.check(a)
	}
	c.r.metrics.attempt(a.kind, outcomeOf(e))
	if e == nil {
		return c.won(a, now), nil, true
	}
	if c.ctx.Err() != nil {
		return embedding.Result{}, c.expired(now), true
	}
	c.keep(e)
	h := &a.peer.health
	switch e.Code {
	case embedding.CodeInvalid, embedding.CodeUnprocessable, embedding.CodeTooLarge:
		h.answered(now)
		return embedding.Result{}, e, true
	case embedding.CodeModelNotFound:
		c.launch(kindRetry)
	case embedding.CodeOverloaded:
		if !a.local { // room here may be back the next moment, and asking costs nothing
			h.refused(now)
		}
		c.full = true
		c.launch(kindRetry)
	case embedding.CodeInternal:
		c.spent++
		if c.blamed = append(c.blamed, a.peer); len(c.blamed) > 1 {
			return embedding.Result{}, e, true // two nodes agree: it is the request
		}
		c.again(now)
	case embedding.CodeDeadline:
		c.spent++
		c.failed(a, now)
		c.again(now)
	default: // unavailable: the node, its engine or the way to it
		if e.Lost { // a request that kills engines must not visit them all
			c.spent++
		}
		c.failed(a, now)
		c.launch(kindRetry)
	}
	return embedding.Result{}, nil, false
}

// again asks another node for work that one may have begun, if nothing else runs or the budget has room for it.
func (c *race) again(now time.Time) {
	if c.exhausted() {
		return
	}
	x := c.choose(now)
	if x != nil && (len(c.running) == 0 || c.afford(now)) { // the only way on is no extra
		c.start(kindRetry, x)
	}
}

func (c *race) afford(now time.Time) bool {
	ok := c.r.budget.spend(now)
	if !ok && !c.denied {
		c.denied = true
		c.r.metrics.exhausted.Inc()
	}
	return ok
}

// check refuses an answer of another node that is not to the question.
func (c *race) check(a *attempt) *embedding.Error {
	if a.local && !c.ask.exact {
		return nil
	}
	want, got, n := c.ask.model.Model, a.res.Model, len(c.req.Inputs)
	if c.ask.model.ok && got.Digest != want.Digest || c.ask.exact && got != want {
		return embedding.Errorf(embedding.CodeInternal, "node %s answered with model %s (%s), asked was %s (%s)", a.info.ID, got, got.Precision, want, want.Precision)
	}
	if len(a.res.Vectors) != n || len(a.res.Tokens) != n || a.res.Truncated != nil && len(a.res.Truncated) != n {
		return embedding.Errorf(embedding.CodeInternal, "node %s answered %d vectors for %d inputs", a.info.ID, len(a.res.Vectors), n)
	}
	return nil
}

// won notes the answer, what it says of those that were slower, and who gave it.
func (c *race) won(a *attempt, now time.Time) embedding.Result {
	m := c.r.metrics
	took := now.Sub(a.began)
	a.peer.latency.record(now, c.ask.tokens, took)
	if !a.local {
		c.r.work.record(now, c.ask.tokens, max(took-a.info.Link.RTT, 0))
	}
	a.peer.health.answered(now)
	for _, p := range c.blamed {
		m.ejection(p.health.failed(now, c.r.dice))
	}
	for _, b := range c.running {
		m.attempt(b.kind, outcomeLost)
		if b.began.Before(a.began) {
			c.outrun(b, now)
		}
	}
	res := a.res
	res.Origin = embedding.Origin{Node: string(a.info.ID), Region: a.info.Region, Forwarded: !a.local}
	return res
}

func (c *race) failed(a *attempt, now time.Time) {
	if a.reason != ReasonDown { // which is known
		c.r.metrics.ejection(a.peer.health.failed(now, c.r.dice))
	}
}

func (c *race) outrun(a *attempt, now time.Time) {
	a.peer.latency.atLeast(now, c.ask.tokens, now.Sub(a.began))
	if a.reason != ReasonDown {
		c.r.metrics.ejection(a.peer.health.outrun(now, c.r.dice))
	}
}

// keep remembers the error that tells a client the most: that trying later helps before that nothing does.
func (c *race) keep(e *embedding.Error) {
	worth := func(e *embedding.Error) int {
		return slices.Index([]embedding.Code{embedding.CodeModelNotFound, embedding.CodeDeadline, embedding.CodeInternal,
			embedding.CodeOverloaded, embedding.CodeUnavailable}, e.Code)
	}
	if c.err == nil || worth(e) >= worth(c.err) {
		c.err = e
	}
}

// expired is the error at the end of the time.
func (c *race) expired(now time.Time) *embedding.Error {
	e := embedding.AsError(context.Cause(c.ctx))
	for _, a := range c.running {
		c.r.metrics.attempt(a.kind, outcomeOf(e))
		if e.Code == embedding.CodeDeadline && now.Sub(a.began) >= outrunAtLeast {
			c.outrun(a, now)
		}
	}
	if e.Code == embedding.CodeDeadline && c.err != nil && c.err.Code != embedding.CodeModelNotFound {
		return c.err
	}
	return e
}

// rest begins a pause before another round, nil when there is nothing to wait for: only nodes that were unavailable
// may be back soon.
func (c *race) rest(now time.Time) <-chan time.Time {
	if c.err.Code != embedding.CodeUnavailable || c.exhausted() {
		return nil
	}
	if c.onlyHere(now) && (c.r.cfg.Word().State == node.Draining || !c.r.here.health.expected(now, c.r.cfg.Patience)) {
		return nil
	}
	c.pause = min(max(2*c.pause, pauseMin), pauseMax)
	return time.After(min(c.r.dice.around(c.pause), pauseMax))
}

func (c *race) onlyHere(now time.Time) bool {
	return !slices.ContainsFunc(c.r.candidates(now, c.ask, nil), func(x candidate) bool { return !x.local })
}

// pinLate resolves the model when nobody served it before and other nodes may serve it now.
func (c *race) pinLate() {
	if c.ask.model.ok || len(c.r.nodes().nodes) == 0 {
		return
	}
	if m := c.r.resolve(c.asked, ""); m.ok {
		c.ask.model, c.req.Model = m, m.asked
	}
}
