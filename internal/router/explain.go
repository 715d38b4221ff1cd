package router

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Explanation says who would be asked for a model now.
type Explanation struct {
	Asked      string
	Model      string // name@digest that the name leads to, the digest in full; "" when nobody serves it
	ResolvedBy string // this_node, fleet or nobody
	Candidates []Choice
	Excluded   []Excluded
}

// Choice is a node in the order of asking. Within same_region, or one ring of other_region, two are drawn and the
// one of the lower score is asked.
type Choice struct {
	Node, Region string
	Local        bool
	Reason       Reason // for its place
	State        State
	Detail       string // for people: until when it is ejected and such
	Score        float64
	RTT          time.Duration
	Load         float64
	QueueDelay   time.Duration
	InFlight     int
}

// Explain orders the nodes for a small request for the model and says why the others are left out.
func (r *Router) Explain(model string) Explanation {
	now := time.Now()
	found := r.resolve(model, "")
	e := Explanation{Asked: model, ResolvedBy: found.by}
	a := ask{model: found, tokens: classBounds[0], left: r.cfg.Deadline}
	if found.ok {
		e.Model = found.asked
	} else {
		a.model = resolved{ok: true, asked: model} // so that every node's exclusion has its reason
	}
	list := r.candidates(now, a, &e.Excluded)
	slices.SortStableFunc(list, func(x, y candidate) int {
		return cmp.Or(cmp.Compare(x.place(), y.place()), cmp.Compare(x.score, y.score), strings.Compare(string(x.info.ID), string(y.info.ID)))
	})
	for i := range list {
		x := &list[i]
		e.Candidates = append(e.Candidates, Choice{
			Node: string(x.info.ID), Region: x.info.Region, Local: x.local, Reason: x.reason, State: x.cond.state, Detail: x.detail(now),
			Score: x.score, RTT: x.info.Link.RTT, Load: x.info.Word.Load, QueueDelay: x.info.Word.QueueDelay, InFlight: int(x.peer.inFlight.Load()),
		})
	}
	return e
}

func (c *candidate) detail(now time.Time) string {
	var d []string
	switch c.cond.state {
	case StateDown:
		if c.info.Link.Known {
			d = append(d, "link is down: "+cmp.Or(c.info.Link.Cause, "unknown"))
		} else {
			d = append(d, "no link yet")
		}
	case StateEjected:
		d = append(d, fmt.Sprintf("for %v more, or until its link comes up anew", c.cond.until.Sub(now).Round(time.Second)))
	case StateBusy:
		d = append(d, fmt.Sprintf("said overloaded, asked again in %v", c.cond.until.Sub(now).Round(time.Millisecond)))
	case StateSlowStart:
		d = append(d, fmt.Sprintf("gets %.0f %% of its share", 100*c.cond.weight))
	}
	if c.spared {
		d = append(d, "would be ejected, but more than half of all would be")
	}
	if c.cond.streak > 0 {
		d = append(d, fmt.Sprintf("%d failures in a row", c.cond.streak))
	}
	return strings.Join(d, "; ")
}
