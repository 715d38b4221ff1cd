package router

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

func TestEjectionRecoveryAndSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, nil, "eu/p1", "eu/p2", "eu/p3")
		g.without()
		g.nodes["p1"].fail = failing(embedding.CodeUnavailable)
		g.traffic(200, 2*time.Second)
		if n := g.nodes["p1"].calls.Load(); n != ejectStreak {
			t.Errorf("the failing node was asked %d times, want %d", n, ejectStreak)
		}
		if s := g.state("p1"); s != StateEjected {
			t.Fatalf("it is %s", s)
		}
		if n := testutil.ToFloat64(g.metrics.ejections[ejectedStreak]); n != 1 {
			t.Errorf("%v ejections counted", n)
		}
		g.nodes["p1"].set(func(n *fakeNode) { n.fail = nil })
		g.link("p1", false)
		time.Sleep(time.Second)
		if s := g.state("p1"); s != StateDown {
			t.Errorf("with its link down it is %s", s)
		}
		g.link("p1", true) // the probe: long before the ejection would end
		if s := g.state("p1"); s != StateSlowStart {
			t.Errorf("with its link up anew it is %s", s)
		}
		share := func(long time.Duration) float64 {
			before := g.nodes["p1"].calls.Load()
			o := g.traffic(200, long)
			return float64(g.nodes["p1"].calls.Load()-before) / float64(len(o.took))
		}
		early := share(2 * time.Second)
		share(8 * time.Second)
		full := share(10 * time.Second)
		t.Logf("share of traffic: %.2f at first, then %.2f", early, full)
		if early > full/2 || early == 0 || full < 0.2 {
			t.Errorf("share of traffic: %.2f in the first 2 s, %.2f after 10 s", early, full)
		}

		// Without a new link only time brings it back, the longer the more often it failed.
		g.nodes["p1"].set(func(n *fakeNode) { n.fail = failing(embedding.CodeUnavailable) })
		for g.state("p1") != StateEjected {
			g.traffic(200, time.Second)
		}
		g.nodes["p1"].set(func(n *fakeNode) { n.fail = nil })
		time.Sleep(40 * time.Second)
		if s := g.state("p1"); s != StateEjected {
			t.Errorf("40 s after its second ejection it is %s", s)
		}
		time.Sleep(40 * time.Second)
		if s := g.state("p1"); s != StateSlowStart {
			t.Errorf("80 s after its second ejection it is %s", s)
		}
	})
}

func (g *rig) state(id string) State {
	for _, c := range g.Explain("m").Candidates {
		if c.Node == id {
			return c.State
		}
	}
	return ""
}

func TestFailureShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := health{base: ejectBase}
		now := time.Now()
		d := dice(func() uint64 { return 1 << 63 })
		for i := range 3 * ejectSamples {
			if i%3 == 2 {
				h.answered(now)
				continue
			}
			if why := h.failed(now, d); why != "" {
				if why != ejectedShare || i < ejectSamples-1 {
					t.Errorf("result %d: ejected for %s", i, why)
				}
				return
			}
		}
		t.Error("two failures in three do not eject")
	})
}

// TestStallIsNoDeath: many requests that are late at once, for a moment, do not eject.
func TestStallIsNoDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := health{base: ejectBase}
		d := dice(func() uint64 { return 1 << 63 })
		for range 50 {
			if why := h.outrun(time.Now(), d); why != "" {
				t.Fatal("ejected for", why)
			}
		}
		h.answered(time.Now())
		for i := range 6 {
			why := h.outrun(time.Now(), d)
			if (why == ejectedLate) != (i == 5) {
				t.Errorf("late answer %d: %q", i, why)
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
}

func TestEjectionCapAndPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, nil, "eu/p1", "eu/p2", "eu/p3", "us/p4", "us/p5")
		g.without()
		g.nodes["p5"].dead = make(chan struct{})
		now, last := time.Now(), time.Time{}
		for _, p := range g.Router.nodes().peers {
			for range ejectStreak {
				p.health.failed(now, g.dice)
			}
			if p.health.until.After(last) {
				last = p.health.until
			}
		}
		count := map[Reason]int{}
		spared := 0
		for _, c := range g.Explain("m").Candidates {
			count[c.Reason]++
			if strings.Contains(c.Detail, "more than half") {
				spared++
			}
		}
		if count[ReasonEjected] != 2 || spared != 3 {
			t.Errorf("of 5 bad nodes: %v, %d spared; want 2 ejected", count, spared)
		}
		// With the others down the two ejected are asked all the same.
		list := g.candidates(now, ask{model: g.resolve("m", "")}, nil)
		var out []node.ID
		for _, c := range list {
			if c.reason != ReasonEjected {
				g.link(c.info.ID, false)
				out = append(out, c.info.ID)
			}
		}
		res, err := g.one("m")
		if err != nil || slices.Contains(out, node.ID(res.Origin.Node)) {
			t.Errorf("in panic: %v, %v", res.Origin, err)
		}
	})
	synctest.Test(t, func(t *testing.T) { // a lone dead peer may be ejected
		g := newRig(t, nil, "eu/p1")
		g.without()
		for range ejectStreak {
			g.Router.nodes().peers[0].health.failed(time.Now(), g.dice)
		}
		if s := g.Explain("m").Candidates[0].Reason; s != ReasonEjected {
			t.Errorf("the lone peer is %s", s)
		}
		if _, err := g.one("m"); err != nil {
			t.Errorf("in panic: %v", err)
		}
	})
}

func TestForgets(t *testing.T) {
	g := newRig(t, nil, "eu/p1", "eu/p2")
	p1 := g.Router.nodes().byID["p1"]
	g.mu.Lock()
	g.snap = slices.Clone(g.snap[:1])
	g.mu.Unlock()
	if f := g.Router.nodes(); len(f.byID) != 1 || f.byID["p1"] != p1 {
		t.Errorf("kept %v", f.byID)
	}
}
