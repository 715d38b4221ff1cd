package router

import (
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

// tailed is a latency of at least 4 ms, 5 ms in the mean, 10 ms once in 400.
func tailed(d func() uint64) func() time.Duration {
	return func() time.Duration {
		return 4*time.Millisecond + time.Duration(-math.Log(1-dice(d).unit())*float64(time.Millisecond))
	}
}

// TestScenarios runs each fault for a minute at 200 requests a second: with this node serving, and with everything
// forwarded.
func TestScenarios(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault func(g *rig)
	}{
		{"none", func(*rig) {}},
		{"one peer blackholed", func(g *rig) { g.blackhole("p1") }},
		{"one peer fails inside", func(g *rig) {
			g.nodes["p1"].set(func(n *fakeNode) {
				n.fail = func() error { return embedding.Errorf(embedding.CodeInternal, "not finite") }
			})
		}},
		{"one peer unavailable", func(g *rig) {
			g.nodes["p1"].set(func(n *fakeNode) {
				n.fail = func() error { return embedding.Errorf(embedding.CodeUnavailable, "restarting") }
			})
		}},
		{"one peer 20 times slower", func(g *rig) {
			g.nodes["p1"].set(func(n *fakeNode) { n.took = func() time.Duration { return 100 * time.Millisecond } })
		}},
		{"one peer overloaded", func(g *rig) {
			g.nodes["p1"].set(func(n *fakeNode) {
				n.fail = func() error { return embedding.Errorf(embedding.CodeOverloaded, "full") }
			})
		}},
		{"one peer drains", func(g *rig) {
			g.say("p1", func(n *node.Info) { n.Word.State = node.Draining })
			g.nodes["p1"].set(func(n *fakeNode) {
				n.fail = func() error { return embedding.Errorf(embedding.CodeUnavailable, "draining") }
			})
		}},
		{"nodes flap", func(g *rig) {
			states := []func(*fakeNode){
				func(n *fakeNode) {
					n.fail = func() error { return embedding.Errorf(embedding.CodeUnavailable, "restarting") }
				},
				func(n *fakeNode) { n.fail = nil },
				func(n *fakeNode) { n.dead = make(chan struct{}) },
				func(n *fakeNode) { close(n.dead); n.dead = nil },
			}
			for i, n := range []*fakeNode{g.nodes["p1"], g.nodes["p2"], g.nodes["p3"], g.nodes["p4"], g.self} {
				go func() {
					for k := range 40 {
						time.Sleep(time.Duration(400+97*i) * time.Millisecond)
						n.set(states[k%len(states)])
					}
				}()
			}
		}},
		{"here hangs", func(g *rig) { g.self.set(func(n *fakeNode) { n.dead = make(chan struct{}) }) }},
		{"here fails", func(g *rig) {
			g.self.set(func(n *fakeNode) {
				n.fail = func() error { return embedding.Errorf(embedding.CodeUnavailable, "lost") }
			})
		}},
		{"links flap", func(g *rig) {
			for i, id := range []node.ID{"p1", "p2", "p3", "p4"} {
				go func() {
					for k := range 20 {
						time.Sleep(time.Duration(500+137*i) * time.Millisecond)
						g.link(id, k%2 == 1)
					}
				}()
			}
		}},
	} {
		for _, local := range []bool{true, false} {
			name := c.name + ", forwarded"
			if local {
				name = c.name + ", local"
			}
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					g := newRig(t, nil, "eu/p1", "eu/p2", "eu/p3", "us/p4")
					g.say("p4", func(n *node.Info) { n.Link.RTT = 20 * time.Millisecond })
					if !local {
						g.without()
					}
					before := g.traffic(200, 5*time.Second)
					if local == (before.forwarded > 0) || !local && g.nodes["p1"].calls.Load() < 50 {
						t.Fatalf("the scenario is void: %d of %d were forwarded", before.forwarded, len(before.took))
					}
					c.fault(g)
					after := g.traffic(200, time.Minute)
					after.noLoss(t)
					if p := after.at(0.99); !strings.Contains(c.name, "flap") && p > before.at(0.99)+25*time.Millisecond+21*time.Millisecond {
						t.Errorf("p99 is %v, %v before", p, before.at(0.99))
					}
					if !local && after.forwarded != len(after.took) {
						t.Errorf("%d of %d were forwarded", after.forwarded, len(after.took))
					}
				})
			})
		}
	}
}

// TestBlackholeTail looks at the second in which the link still seems up.
func TestBlackholeTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, nil, "eu/p1", "eu/p2", "eu/p3", "eu/p4")
		g.without()
		for i, n := range []node.ID{"p1", "p2", "p3", "p4"} {
			g.nodes[n].took = func() time.Duration { return time.Duration(4+i) * time.Millisecond }
		}
		before := g.traffic(200, 10*time.Second)
		g.blackhole("p1")
		during := g.traffic(200, time.Second)
		during.noLoss(t)
		if g.nodes["p1"].calls.Load() == 0 {
			t.Fatal("the dead node was never asked")
		}
		if p := during.at(0.99); p > before.at(0.99)+25*time.Millisecond {
			t.Errorf("p99 is %v while the node is dead, %v before: over the hedge delay of 25ms", p, before.at(0.99))
		}
	})
}

// TestLoneEngineAway: a node without peers waits for its engine.
func TestLoneEngineAway(t *testing.T) {
	away := func() error { return embedding.Errorf(embedding.CodeUnavailable, "model m is not ready: restarting") }
	for _, peers := range [][]string{nil, {"eu/p1"}} {
		synctest.Test(t, func(t *testing.T) {
			g := newRig(t, nil, peers...)
			for _, n := range g.nodes {
				n.fail = away
			}
			g.traffic(50, time.Second)
			g.self.set(func(n *fakeNode) { n.fail = away })
			time.AfterFunc(1500*time.Millisecond, func() { g.self.set(func(n *fakeNode) { n.fail = nil }) })
			o := g.traffic(50, 5*time.Second)
			if len(o.failed) > 0 {
				t.Errorf("%d failed, one with %v", len(o.failed), o.failed[0])
			}
			if o.at(1) < 1200*time.Millisecond || o.at(1) > 2*time.Second {
				t.Errorf("the longest took %v, want about the 1.5s the engine was away", o.at(1))
			}
		})
	}
}

// TestLoneEngineGone: what will not come back soon is said at once.
func TestLoneEngineGone(t *testing.T) {
	for _, c := range []struct {
		name  string
		code  embedding.Code
		state node.State
		after time.Duration // when the request is made
		waits bool
	}{
		{"restarting", embedding.CodeUnavailable, node.Ready, 0, true},
		{"loading", embedding.CodeUnavailable, node.Starting, 0, true},
		{"draining", embedding.CodeUnavailable, node.Draining, 0, false},
		{"away for a minute", embedding.CodeUnavailable, node.Ready, time.Minute, false},
		{"no such model", embedding.CodeModelNotFound, node.Ready, 0, false},
		{"full", embedding.CodeOverloaded, node.Ready, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newRig(t, nil)
				g.tell(func(w *node.Word) { w.State = c.state })
				g.self.fail = func() error { return embedding.Errorf(c.code, "the reason") }
				if c.after > 0 {
					g.one("m")
					time.Sleep(c.after)
				}
				began := time.Now()
				_, err := g.one("m")
				if e := embedding.AsError(err); e == nil || e.Code != c.code || e.Message != "the reason" {
					t.Errorf("got %v, want the engine's own error", err)
				}
				if took := time.Since(began); c.waits != (took >= 10*time.Second) || !c.waits && took > 0 {
					t.Errorf("the answer took %v", took)
				}
			})
		})
	}
}
