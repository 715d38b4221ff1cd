package router

import (
	"slices"
	"time"

	"github.com/akidb/akidbd/internal/node"
)

const (
	hedgeFactor = 1.5 // times the p95: a hedge is for the few that are late
	hedgeLeast  = 1.1 // times the p95, for a node whose latency is mostly its distance
	hedgeTokens = 512 // requests up to this many are hedged at HedgeMax at the latest
)

// hedgeDelay is how long a node has before a second one is asked too: hedgeFactor times what it takes besides the
// round trip, which does not vary as work does. A node that is not known yet is taken for one like the others.
func (r *Router) hedgeDelay(x *candidate, tokens int, left time.Duration) time.Duration {
	most := r.cfg.grown(r.cfg.HedgeMax, max(0, tokens-hedgeTokens))
	rtt := x.info.Link.RTT
	p95 := x.peer.latency.p95(tokens)
	if p95 == 0 {
		if work := r.work.p95(tokens); work > 0 {
			p95 = rtt + work
		}
	}
	delay := most
	if p95 > 0 {
		delay = max(rtt+time.Duration(hedgeFactor*float64(max(p95-rtt, 0))), time.Duration(hedgeLeast*float64(p95)))
	}
	return max(min(delay, most, left/2), r.cfg.HedgeMin)
}

// late acts on attempts that take long: another node with room is asked beside them, if the budget allows. When all
// that is waited for are nodes that were given up meanwhile, moving on is free and any node will do.
func (c *race) late(now time.Time) {
	c.hedge.Reset(c.delay)
	if len(c.running) == 0 || c.exhausted() {
		return
	}
	if c.abandoned(now) {
		c.launch(kindRetry)
		return
	}
	x := c.beside(now)
	if x == nil || !c.afford(now) {
		return
	}
	c.r.metrics.hedge.Observe(now.Sub(c.running[0].began).Seconds())
	c.start(kindHedge, x)
}

// beside is the node to hedge at: never one above its load mark, and of another region when the whole region of the
// first is suspect or two nodes are late already.
func (c *race) beside(now time.Time) *candidate {
	may := func(x *candidate) bool { return x.good(c.r.cfg.LoadMark) && c.untried(x) }
	c.ask.left = c.until.Sub(now)
	list := c.r.candidates(now, c.ask, nil)
	if len(c.running) > 1 || suspect(list, c.running[0]) {
		away := func(x *candidate) bool {
			return may(x) && !slices.ContainsFunc(c.running, func(a *attempt) bool { return a.info.Region == x.info.Region })
		}
		if x := pick(list, c.r.dice, away); x != nil {
			return x
		}
	}
	return pick(list, c.r.dice, may)
}

// suspect says whether most other nodes of the attempt's region do badly too.
func suspect(list []candidate, a *attempt) bool {
	others, bad := 0, 0
	for i := range list {
		if x := &list[i]; x.info.Region == a.info.Region && x.peer != a.peer {
			others++
			if x.cond.streak > 0 || x.cond.state == StateDown || x.cond.state == StateEjected {
				bad++
			}
		}
	}
	return 2*bad > others
}

// abandoned says whether every attempt that runs is at a node that is down or ejected now, and was not when it
// began.
func (c *race) abandoned(now time.Time) bool {
	f := c.r.nodes()
	for _, a := range c.running {
		link := node.Link{Up: a.local}
		if i := slices.Index(f.peers, a.peer); i >= 0 {
			link = f.nodes[i].Link
		}
		if s := a.peer.health.condition(now, link).state; s != StateDown && s != StateEjected || s == a.cond.state {
			return false
		}
	}
	return true
}

// plainlyLocal is this node when it so clearly comes first that no other needs to be looked at; else nil.
func (r *Router) plainlyLocal(now time.Time, a ask) *candidate {
	self := r.self()
	w := &self.Word
	if !a.model.ok || w.State != node.Ready || w.Load >= r.cfg.LoadMark || w.QueueDelay > min(r.cfg.SpillAfter, a.left) || !a.serves(w) {
		return nil
	}
	cond := r.here.health.condition(now, self.Link)
	if cond.state != StateUp {
		return nil
	}
	return &candidate{info: &self, peer: r.here, local: true, reason: ReasonLocal, cond: cond}
}
