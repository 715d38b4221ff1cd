package router

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b budget
		for range 100 {
			b.earn(time.Now())
		}
		n := 0
		for b.spend(time.Now()) {
			n++
		}
		if n != 10+30 {
			t.Errorf("100 requests allow %d extra attempts, want 40", n)
		}
		time.Sleep(9 * time.Second)
		if b.spend(time.Now()) {
			t.Error("the budget came back before 10 s")
		}
		time.Sleep(time.Second)
		if !b.spend(time.Now()) {
			t.Error("the budget did not come back after 10 s")
		}
	})
	synctest.Test(t, func(t *testing.T) { // a spent one stops hedges and fails nobody
		g := newRig(t, nil, "eu/p1", "eu/p2")
		g.without()
		for _, n := range g.nodes {
			n.took = func() time.Duration { return 700 * time.Millisecond }
		}
		o := g.traffic(200, 5*time.Second)
		o.failed = append(o.failed, g.traffic(200, 5*time.Second).failed...)
		if len(o.failed) > 0 || testutil.ToFloat64(g.metrics.exhausted) == 0 {
			t.Errorf("%d failed, budget exhausted %v times", len(o.failed), testutil.ToFloat64(g.metrics.exhausted))
		}
		hedges := 0.0
		for _, c := range g.metrics.attempts[kindHedge] {
			hedges += testutil.ToFloat64(c)
		}
		if hedges < 100 || hedges > 200+30+2*(20+3) {
			t.Errorf("%v hedges for 2000 requests, want some and at most what 10 s and two more allow", hedges)
		}
	})
}

func TestHedge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, nil, "eu/p1", "us/p2")
		g.self.dead, g.nodes["p1"].dead = make(chan struct{}), make(chan struct{})
		g.say("p2", func(n *node.Info) { n.Word.Load = 0.8 })
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := g.Embed(ctx, embedding.Request{Model: "m", Inputs: []embedding.Input{{Text: "t"}}})
		if n := g.nodes["p2"].calls.Load(); n != 1 || err != nil {
			t.Errorf("the loaded node was asked %d times, %v; want only after the try timeout at p1", n, err)
		}
		if took := time.Since(began); took < 2200*time.Millisecond || took > 2400*time.Millisecond {
			t.Errorf("answered after %v", took)
		}

		// This region looks bad now, so that the hedge leaves it.
		g.say("p2", func(n *node.Info) { n.Word.Load = 0 })
		began = time.Now()
		if _, err := g.one("m"); err != nil || time.Since(began) > 270*time.Millisecond {
			t.Errorf("answered after %v, %v", time.Since(began), err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, func(c *Config) { c.Self.Region = "as" }, "eu/p1", "us/p2")
		g.self.dead, g.nodes["p1"].dead = make(chan struct{}), make(chan struct{})
		g.say("p2", func(n *node.Info) { n.Link.RTT = 60 * time.Millisecond }) // a farther ring
		began := time.Now()
		if _, err := g.one("m"); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took < 500*time.Millisecond || took > 520*time.Millisecond {
			t.Errorf("the third attempt answered after %v, want twice 250ms and its latency", took)
		}
		for _, n := range []*fakeNode{g.self, g.nodes["p1"]} {
			synctest.Wait()
			n.set(func(n *fakeNode) {
				if n.running != 0 {
					t.Errorf("%d losers still run", n.running)
				}
			})
		}
	})
}

func TestHedgeDelay(t *testing.T) {
	r := newRig(t, nil).Router
	for _, c := range []struct {
		p95, rtt, left time.Duration
		tokens         int
		want           time.Duration
	}{
		{0, 0, 10 * time.Second, 10, 250 * time.Millisecond},
		{4 * time.Millisecond, 0, 10 * time.Second, 10, 25 * time.Millisecond},
		{60 * time.Millisecond, 0, 10 * time.Second, 10, 90 * time.Millisecond},
		{time.Second, 0, 10 * time.Second, 10, 250 * time.Millisecond},
		{60 * time.Millisecond, 0, 100 * time.Millisecond, 10, 50 * time.Millisecond},
		{time.Second, 0, 10 * time.Second, 4096, 1500 * time.Millisecond},
		{120 * time.Millisecond, 80 * time.Millisecond, 10 * time.Second, 10, 140 * time.Millisecond},
		{100 * time.Millisecond, 95 * time.Millisecond, 10 * time.Second, 10, 110 * time.Millisecond},
	} {
		var p peer
		if c.p95 > 0 {
			for range latencyEnough {
				p.latency.record(time.Now(), c.tokens, c.p95)
			}
		}
		at := &candidate{peer: &p, info: &node.Info{Link: node.Link{RTT: c.rtt}}}
		if got := r.hedgeDelay(at, c.tokens, c.left); got != c.want {
			t.Errorf("p95 %v, round trip %v, %v left, %d tokens: %v, want %v", c.p95, c.rtt, c.left, c.tokens, got, c.want)
		}
	}
	for range latencyEnough {
		r.work.record(time.Now(), 10, 30*time.Millisecond)
	}
	unknown := &candidate{peer: &peer{}, info: &node.Info{Link: node.Link{RTT: 80 * time.Millisecond}}}
	if got, want := r.hedgeDelay(unknown, 10, time.Second), 125*time.Millisecond; got != want {
		t.Errorf("a node that was never asked, 80 ms away, others take 30 ms: %v, want %v", got, want)
	}
}

func TestSuspectRegionIsLeft(t *testing.T) {
	g := newRig(t, nil, "eu/p1", "eu/p2", "eu/p3", "eu/p4", "us/p5")
	g.without()
	a := ask{model: g.resolve("m", "")}
	first := &attempt{candidate: candidate{info: &g.snap[0], peer: g.Router.nodes().peers[0]}}
	if suspect(g.candidates(time.Now(), a, nil), first) {
		t.Error("a healthy region is suspect")
	}
	for _, p := range g.Router.nodes().peers[1:3] {
		p.health.failed(time.Now(), g.dice)
	}
	c := &race{r: g.Router, ask: a, running: []*attempt{first}, until: time.Now().Add(time.Second)}
	for range 20 {
		if x := c.beside(time.Now()); x == nil || x.info.ID != "p5" {
			t.Fatalf("with two of three others failing, the hedge goes to %v", x)
		}
	}
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, nil, "eu/p1")
		g.self.dead, g.nodes["p1"].dead = make(chan struct{}), make(chan struct{})
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(context.Canceled) })
		began := time.Now()
		_, err := g.Embed(ctx, embedding.Request{Model: "m", Inputs: []embedding.Input{{Text: "t"}}})
		wantCode(t, err, embedding.CodeCanceled)
		if took := time.Since(began); took != time.Second {
			t.Errorf("took %v", took)
		}
		_, err = g.one("m")
		wantCode(t, err, embedding.CodeDeadline)
		done, stop := context.WithCancel(t.Context())
		stop()
		if err := g.Run(done); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
