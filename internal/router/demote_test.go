package router

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

// TestOnlyNearNodeDies: the one node of this region dies, and those of another take over before its link is seen down.
func TestOnlyNearNodeDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rtt = 80 * time.Millisecond
		g := newRig(t, nil, "eu/near", "us/far", "us/farther")
		g.without()
		for _, id := range []node.ID{"far", "farther"} {
			g.say(id, func(n *node.Info) { n.Link.RTT = rtt })
			g.nodes[id].took = func() time.Duration { return rtt + 5*time.Millisecond }
		}
		before := g.traffic(200, 10*time.Second)
		g.blackhole("near")
		during := g.traffic(200, 3*time.Second)
		during.noLoss(t)
		if limit := before.at(0.99) + 25*time.Millisecond + rtt + 5*time.Millisecond; during.at(0.99) > limit {
			t.Errorf("p99 is %v while the node is dead, want at most %v", during.at(0.99), limit)
		}
	})
}

// TestRegionDies: both nodes of the near other region die.
func TestRegionDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, nil, "us/a", "us/b", "as/c")
		g.without()
		for id, rtt := range map[node.ID]time.Duration{"a": 80 * time.Millisecond, "b": 80 * time.Millisecond, "c": 90 * time.Millisecond} {
			g.say(id, func(n *node.Info) { n.Link.RTT = rtt })
			g.nodes[id].took = func() time.Duration { return rtt + 5*time.Millisecond }
		}
		g.traffic(200, 10*time.Second)
		g.blackhole("a")
		g.blackhole("b")
		during := g.traffic(200, 4*time.Second)
		during.noLoss(t)
		if limit := (85 + 2*95 + 110) * time.Millisecond; during.at(1) > limit {
			t.Errorf("the longest took %v, want at most two hedge delays and the round trip, %v", during.at(1), limit)
		}
		if limit := 200 * time.Millisecond; during.at(0.95) > limit {
			t.Errorf("p95 is %v, want at most %v: doubtful nodes are to be left", during.at(0.95), limit)
		}
	})
}

// TestSlowNearNode: a node of this region that takes a second is left for one that is far and fast, and asked again
// when it may have mended.
func TestSlowNearNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, nil, "eu/near", "us/far")
		g.without()
		g.say("far", func(n *node.Info) { n.Link.RTT = 80 * time.Millisecond })
		g.nodes["far"].took = func() time.Duration { return 85 * time.Millisecond }
		if o := g.traffic(100, 5*time.Second); o.at(0.99) > 20*time.Millisecond {
			t.Fatalf("p99 is %v with a fast node near", o.at(0.99))
		}
		g.nodes["near"].set(func(n *fakeNode) { n.took = func() time.Duration { return time.Second } })
		g.traffic(100, 5*time.Second) // finds out
		o := g.traffic(100, 30*time.Second)
		o.noLoss(t)
		if o.at(0.98) > 100*time.Millisecond {
			t.Errorf("p98 is %v, want what the far node takes", o.at(0.98))
		}
		g.nodes["near"].set(func(n *fakeNode) { n.took = nil })
		time.Sleep(90 * time.Second) // of its second ejection
		g.traffic(100, 20*time.Second)
		if o := g.traffic(100, 5*time.Second); o.at(0.99) > 20*time.Millisecond {
			t.Errorf("p99 is %v after the near node mended", o.at(0.99))
		}
	})
}

// TestDrainingServesLast: the only node that has the model is asked although it goes away; with another one it is not.
func TestDrainingServesLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, nil, "eu/p1", "us/p2")
		g.without()
		g.say("p1", func(n *node.Info) { n.Word.State = node.Draining })
		for range 10 {
			if res, err := g.one("m"); err != nil || res.Origin.Node != "p2" {
				t.Fatalf("got %v, %v: want the node that stays", res.Origin, err)
			}
		}
		g.say("p2", func(n *node.Info) { n.Word.Models = nil })
		if res, err := g.one("m"); err != nil || res.Origin.Node != "p1" {
			t.Errorf("got %v, %v: want the draining node, nobody else serves the model", res.Origin, err)
		}
	})
}

// TestDeadlyRequest: a request on which engines are lost visits no more nodes than Attempts allows.
func TestDeadlyRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, nil, "eu/p1", "eu/p2", "eu/p3", "us/p4", "us/p5")
		for _, n := range g.nodes {
			n.fail = func() error {
				return &embedding.Error{Code: embedding.CodeUnavailable, Message: "the backend was lost", Lost: true}
			}
		}
		g.self.fail = g.nodes["p1"].fail
		_, err := g.one("m")
		wantCode(t, err, embedding.CodeUnavailable)
		if n := g.calls(); n != 3 {
			t.Errorf("%d engines were lost on one request, want 3", n)
		}
	})
}
