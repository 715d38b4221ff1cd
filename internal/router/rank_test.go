package router

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

func TestSpill(t *testing.T) {
	for _, c := range []struct {
		name       string
		own, there node.Word
		local      bool
	}{
		{"idle", node.Word{}, node.Word{}, true},
		{"a short wait", node.Word{QueueDelay: 40 * time.Millisecond}, node.Word{}, true},
		{"a long wait", node.Word{QueueDelay: 60 * time.Millisecond}, node.Word{}, false},
		{"as long there", node.Word{QueueDelay: 60 * time.Millisecond}, node.Word{QueueDelay: 50 * time.Millisecond}, true},
		{"no room there", node.Word{QueueDelay: time.Second}, node.Word{Load: 0.8}, true},
		{"above the mark", node.Word{QueueDelay: 20 * time.Millisecond, Load: 0.9}, node.Word{}, false},
		{"above the mark everywhere", node.Word{QueueDelay: 20 * time.Millisecond, Load: 0.9}, node.Word{Load: 0.9}, true},
		{"over the deadline", node.Word{QueueDelay: 20 * time.Second}, node.Word{QueueDelay: 19990 * time.Millisecond}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newRig(t, nil, "eu/p1")
				g.tell(func(w *node.Word) { w.Load, w.QueueDelay = c.own.Load, c.own.QueueDelay })
				g.say("p1", func(n *node.Info) { n.Word.Load, n.Word.QueueDelay = c.there.Load, c.there.QueueDelay })
				res, err := g.one("m")
				if err != nil || res.Origin.Forwarded == c.local {
					t.Errorf("computed by %v, %v", res.Origin, err)
				}
			})
		})
	}
}

func TestResidency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		on := false
		g := newRig(t, func(c *Config) { c.CrossRegion = func() bool { return on } }, "eu/p1", "us/p2")
		g.self.fail, g.nodes["p1"].fail = failing(embedding.CodeUnavailable), failing(embedding.CodeUnavailable)
		_, err := g.one("m")
		wantCode(t, err, embedding.CodeUnavailable)
		if n := g.nodes["p2"].calls.Load(); n > 0 {
			t.Errorf("the other region was asked %d times", n)
		}
		on = true
		if res, err := g.one("m"); err != nil || res.Origin.Node != "p2" || res.Origin.Region != "us" {
			t.Errorf("got %v, %v", res.Origin, err)
		}
	})
}

func TestRingHysteresis(t *testing.T) {
	var p peer
	for _, c := range []struct{ ms, ring float64 }{{5.9, 0}, {6.3, 0}, {6.7, 1}, {5.8, 1}, {5.3, 0}, {49, 2}, {54, 2}, {56, 3}, {300, 5}, {185, 5}, {170, 4}, {0, 5}, {1, 0}} {
		if got := p.ringOf(time.Duration(c.ms * float64(time.Millisecond))); got != int(c.ring) {
			t.Errorf("after %v ms: ring %d, want %v", c.ms, got, c.ring)
		}
	}
}

func TestRegionsByRing(t *testing.T) {
	g := newRig(t, nil, "us/far", "as/farther", "eu/near")
	g.say("far", func(n *node.Info) { n.Link.RTT = 80 * time.Millisecond })
	g.say("farther", func(n *node.Info) { n.Link.RTT = 150 * time.Millisecond })
	g.tell(func(w *node.Word) { w.State = node.Draining })
	var order []string
	for _, c := range g.Explain("m").Candidates {
		order = append(order, c.Node)
	}
	if want := []string{"near", "far", "farther", "self"}; !slices.Equal(order, want) {
		t.Errorf("order is %v, want %v", order, want)
	}
}

func TestExplain(t *testing.T) {
	g := newRig(t, func(c *Config) { c.CrossRegion = func() bool { return false } }, "eu/p1", "eu/p2", "eu/p3", "us/p4", "eu/p5")
	g.say("p1", func(n *node.Info) { n.Word.State = node.Draining })
	g.say("p2", func(n *node.Info) { n.Word.State = node.Starting })
	g.gives("p3", served(digest("b"), 2))
	g.say("p5", func(n *node.Info) { n.Link.Up, n.Link.Cause = false, "timeout" })
	e := g.Explain("default")
	if e.Model != "m@"+strings.Repeat("a", 64) || e.ResolvedBy != byThisNode || len(e.Candidates) != 3 ||
		e.Candidates[0].Reason != ReasonLocal || e.Candidates[1].Reason != ReasonDraining ||
		e.Candidates[2].Reason != ReasonDown || e.Candidates[2].Detail != "link is down: timeout" {
		t.Errorf("got %+v", e)
	}
	want := []Excluded{{"p2", "eu", ReasonStarting}, {"p3", "eu", ReasonNotServed}, {"p4", "us", ReasonResidency}}
	if !slices.Equal(e.Excluded, want) {
		t.Errorf("excluded %v, want %v", e.Excluded, want)
	}
	if e := g.Explain("x"); e.ResolvedBy != byNobody || len(e.Candidates) != 0 || len(e.Excluded) != 6 {
		t.Errorf("of an unknown model: %+v", e)
	}
}
