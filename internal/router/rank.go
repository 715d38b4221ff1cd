package router

import (
	"slices"
	"time"

	"github.com/akidb/akidbd/internal/node"
)

// Reason is why a node is asked at its place, or not at all.
type Reason string

// Places, first to last.
const (
	ReasonSpill    Reason = "spill"          // it has room, and the wait here is longer
	ReasonLocal    Reason = "local"          // this node
	ReasonRegion   Reason = "same_region"    // by two choices on latency and requests in flight
	ReasonFar      Reason = "other_region"   // nearest ring of round trip time first
	ReasonSlow     Reason = "slow"           // others are much faster, even from far away
	ReasonDoubtful Reason = "doubtful"       // failed or was late twice in a row; one request at a time finds out
	ReasonLoaded   Reason = "loaded"         // above the load mark
	ReasonNotReady Reason = "local_draining" // this node drains or starts, and still answers its own clients
	ReasonBusy     Reason = "overloaded"     // said so a moment ago
	ReasonDraining Reason = "draining"       // it goes away, and still answers; asked when nobody else is there
	ReasonEjected  Reason = "ejected"        // failed too often; asked when all others fail
	ReasonDown     Reason = "link_down"      // or no link yet; asked when all others fail
)

// Reasons not to ask a node at all.
const (
	ReasonNotServed Reason = "not_served" // not this model, or another digest of it
	ReasonStarting  Reason = "starting"
	ReasonResidency Reason = "cross_region_off"
)

// place orders the reasons.
func (r Reason) place() int {
	order := [...]Reason{ReasonSpill, ReasonLocal, ReasonRegion, ReasonFar, ReasonSlow, ReasonDoubtful, ReasonLoaded,
		ReasonNotReady, ReasonBusy, ReasonDraining, ReasonEjected, ReasonDown}
	return slices.Index(order[:], r)
}

// What makes a node slow beside another: this many times its latency, and this much more.
const (
	slowFactor = 2
	slowMargin = 50 * time.Millisecond
)

// ask is what a node must be able to answer.
type ask struct {
	model  resolved // not ok: whatever the local engine says
	exact  bool     // the precision too: parts of one answer
	tokens int      // estimated
	left   time.Duration
}

// serves says whether the node answers for the model.
func (a ask) serves(w *node.Word) bool {
	for i := range w.Models {
		if s := &w.Models[i]; s.Answers(a.model.asked) && (!a.exact || s.Model == a.model.Model) {
			return true
		}
	}
	return false
}

// A candidate is a node that may be asked.
type candidate struct {
	info   *node.Info
	peer   *peer
	local  bool
	reason Reason
	ring   int           // of another region
	cost   time.Duration // expected
	lately time.Duration // as measured lately, 0 when it was not
	score  float64       // less is better: seconds of expected latency x (in flight + 1) x (failures in a row + 1)
	cond   condition
	spared bool // it would be ejected, but too many are
}

// places is more than there are rings.
const places = 8

// place is the group that c belongs to; lower ones go first.
func (c *candidate) place() int { return c.reason.place()*places + c.ring }

// good says whether c may be given work that it need not be given: a hedge, a part.
func (c *candidate) good(mark float64) bool {
	switch c.reason {
	case ReasonSpill, ReasonLocal, ReasonRegion, ReasonFar, ReasonSlow:
		return c.info.Word.Load < mark
	}
	return false
}

// Excluded is a node that is not asked.
type Excluded struct {
	Node   string
	Region string
	Reason Reason
}

// self is this node now.
func (r *Router) self() node.Info {
	self := r.cfg.Self
	self.Word, self.Link = r.cfg.Word(), node.Link{Up: true}
	return self
}

// candidates judges every node for the request. Why a node is left out goes to out when it is not nil.
func (r *Router) candidates(now time.Time, a ask, out *[]Excluded) []candidate {
	self := r.self()
	if !a.model.ok {
		return []candidate{r.judge(now, a, &self, r.here, &self)}
	}
	f := r.nodes()
	cross := r.cfg.CrossRegion()
	exclude := func(n *node.Info, why Reason) {
		if out != nil {
			*out = append(*out, Excluded{Node: string(n.ID), Region: n.Region, Reason: why})
		}
	}
	list := make([]candidate, 0, len(f.nodes)+1)
	if a.serves(&self.Word) {
		list = append(list, r.judge(now, a, &self, r.here, &self))
	} else {
		exclude(&self, ReasonNotServed)
	}
	for i := range f.nodes {
		switch n := &f.nodes[i]; {
		case n.Region != self.Region && !cross:
			exclude(n, ReasonResidency)
		case n.Word.State == node.Starting:
			exclude(n, ReasonStarting)
		case !a.serves(&n.Word):
			exclude(n, ReasonNotServed)
		default:
			list = append(list, r.judge(now, a, n, f.peers[i], &self))
		}
	}
	spare(list, &self)
	demote(list)
	return list
}

// demote puts the slow behind the fast: this region first, and near ones before far ones, is a rule for nodes that
// are about as good. Only what was measured lately tells that a node further back is faster.
func demote(list []candidate) {
	var fastest [2 * places]time.Duration // by group, 0 when nothing is known
	group := func(c *candidate) int { return c.place() - ReasonRegion.place()*places }
	usual := func(c *candidate) bool { return c.reason == ReasonRegion || c.reason == ReasonFar }
	for i := range list {
		if c := &list[i]; usual(c) && c.lately > 0 {
			if at := &fastest[group(c)]; *at == 0 || c.lately < *at {
				*at = c.lately
			}
		}
	}
	for g := len(fastest) - 2; g >= 0; g-- { // of the group and all behind it
		if next := fastest[g+1]; next > 0 && (fastest[g] == 0 || next < fastest[g]) {
			fastest[g] = next
		}
	}
	for i := range list {
		if c := &list[i]; usual(c) {
			if g := group(c) + 1; g < len(fastest) && fastest[g] > 0 && c.cost > slowFactor*fastest[g]+slowMargin {
				c.reason = ReasonSlow
			}
		}
	}
}

// judge finds the place of one node and its score.
func (r *Router) judge(now time.Time, a ask, n *node.Info, p *peer, self *node.Info) candidate {
	c := candidate{info: n, peer: p, local: n == self, cond: p.health.condition(now, n.Link)}
	c.cost, c.lately = p.latency.expected(now, a.tokens)
	c.cost = max(c.cost, n.Link.RTT+n.Word.QueueDelay)
	c.score = c.cost.Seconds() * float64(p.inFlight.Load()+1) * float64(c.cond.streak+1)
	switch {
	case c.cond.state == StateDown:
		c.reason = ReasonDown
	case c.cond.state == StateEjected:
		c.reason = ReasonEjected
	case c.local:
		c.reason = usual(n, self)
	case n.Word.State == node.Draining:
		c.reason = ReasonDraining
	case c.cond.state == StateBusy:
		c.reason = ReasonBusy
	case c.cond.streak >= doubtStreak && now.Sub(c.cond.trial) < trialEvery:
		c.reason = ReasonDoubtful
	case n.Word.Load >= r.cfg.LoadMark:
		c.reason = ReasonLoaded
	case r.spills(a, &self.Word, n) && a.serves(&self.Word):
		c.reason = ReasonSpill
	default:
		c.reason = usual(n, self)
	}
	if n.Region != self.Region && c.reason != ReasonDown {
		c.ring = 1 + p.ringOf(n.Link.RTT)
	}
	return c
}

// usual is the place of a node that nothing speaks against.
func usual(n, self *node.Info) Reason {
	switch {
	case n == self && n.Word.State == node.Ready:
		return ReasonLocal
	case n == self:
		return ReasonNotReady
	case n.Region == self.Region:
		return ReasonRegion
	}
	return ReasonFar
}

// spills says whether a request is better off at n, which has room, than in the queue here.
func (r *Router) spills(a ask, own *node.Word, n *node.Info) bool {
	there := n.Word.QueueDelay + n.Link.RTT
	if there >= own.QueueDelay {
		return false
	}
	return own.Load >= r.cfg.LoadMark || own.QueueDelay > a.left || own.QueueDelay > there+r.cfg.SpillAfter
}

// spare lets no more than half of all candidates, or one, stay ejected: those whose time is up first come back.
// When most nodes fail, the fault is likely not theirs.
func spare(list []candidate, self *node.Info) {
	all := 0
	var ejected []*candidate
	for i := range list {
		switch list[i].reason {
		case ReasonDown:
			continue
		case ReasonEjected:
			ejected = append(ejected, &list[i])
		}
		all++
	}
	if len(ejected) <= max(1, all/2) {
		return
	}
	slices.SortStableFunc(ejected, func(a, b *candidate) int { return a.cond.until.Compare(b.cond.until) })
	for _, c := range ejected[:len(ejected)-max(1, all/2)] {
		c.spared, c.reason = true, usual(c.info, self)
	}
}

// pick takes one of the candidates that may be asked: out of the first group, the better of two drawn ones. Always
// taking the very best would send everybody to the same node until the next word of it. A node in slow start is
// drawn as often as its weight says. nil when there is none.
func pick(list []candidate, d dice, may func(*candidate) bool) *candidate {
	var group []*candidate
	first := 0 // the place of the group
	for i := range list {
		c := &list[i]
		if !may(c) {
			continue
		}
		if at := c.place(); len(group) == 0 || at < first {
			first, group = at, group[:0]
		} else if at > first {
			continue
		}
		group = append(group, c)
	}
	if len(group) == 0 {
		return nil
	}
	full := make([]*candidate, 0, len(group))
	for _, c := range group {
		if c.cond.weight >= 1 || d.unit() < c.cond.weight {
			full = append(full, c)
		}
	}
	if len(full) == 0 {
		if group[0].local { // alone in its group: the rest goes to this region's others
			near := func(c *candidate) bool { return c.reason == ReasonRegion && may(c) }
			if c := pick(list, d, near); c != nil {
				return c
			}
		}
		full = group
	}
	if len(full) == 1 {
		return full[0]
	}
	i, j := d.below(len(full)), d.below(len(full)-1)
	if j >= i {
		j++
	}
	if full[j].score < full[i].score {
		return full[j]
	}
	return full[i]
}
