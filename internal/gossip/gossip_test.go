package gossip

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

func deaths(nodes []*simNode) (n float64) {
	for _, o := range nodes {
		n += testutil.ToFloat64(o.c.metrics.departures[departureDead])
	}
	return n
}

func TestJoinAndWords(t *testing.T) {
	bubble(t, func(t *testing.T, s *sim) {
		nodes := s.fleet(2, 3)
		within(t, 5*time.Second, "all see all", allSee(nodes, 5))
		heard := func(what string, ok func(node.Info) bool) {
			t.Helper()
			within(t, time.Second, what, func() bool {
				for _, o := range nodes[1:] {
					if i, _ := o.see(nodes[0].id); !ok(i) {
						return false
					}
				}
				return true
			})
		}
		i, _ := nodes[4].see("n0-1")
		if i.Region != "r0" || i.Addr != "10.0.0.2:7946" || i.Version != "1.0" || i.Labels["rack"] != "7" {
			t.Errorf("facts: %+v", i)
		}
		model := node.Served{
			Model:   embedding.Model{Name: "m", Digest: digestPrefix + strings.Repeat("ab", 32), Precision: "fp32"},
			Aliases: []string{"default", "org/m"}, Active: true, Since: 1234567890123,
		}
		nodes[0].say(func(w *node.Word) { w.Models = []node.Served{model}; w.State = node.Ready })
		nodes[0].c.Tell()
		heard("a model", func(i node.Info) bool {
			return i.Word.State == node.Ready && len(i.Word.Models) == 1 && sameServed(i.Word.Models[0], model)
		})
		nodes[0].say(func(w *node.Word) { w.Load, w.QueueDelay = 0.5, 30*time.Millisecond })
		time.Sleep(time.Second) // its own pace for loads
		heard("a load", func(i node.Info) bool {
			return i.Word.Load == 0.5 && i.Word.QueueDelay == 30*time.Millisecond && len(i.Word.Models) == 1
		})
		nodes[0].say(func(w *node.Word) { w.Models = nil })
		nodes[0].c.Tell()
		heard("no model", func(i node.Info) bool { return len(i.Word.Models) == 0 })
	})
}

// Who is dead is known within 2 s in the mean of any few deaths; when the survivors happen to probe the dead late,
// one takes longer.
func TestDeath(t *testing.T) {
	if raceEnabled {
		t.Skip("so many bubbles now and then crash the race detector's own runtime (Go 1.26)")
	}
	const runs = 8
	var sum time.Duration
	for range runs {
		bubble(t, func(t *testing.T, s *sim) {
			s.delay = farther(40*time.Millisecond, 5*time.Millisecond)
			nodes := s.fleet(2, 3)
			within(t, 10*time.Second, "all see all", allSee(nodes, 5))
			time.Sleep(3 * time.Second)
			nodes[5].kill()
			one := within(t, 3500*time.Millisecond, "a death is seen", allSee(nodes[:5], 4))
			sum += one
			time.Sleep(10 * time.Second)
			s.setCut(func(a, b *simNode) bool { return a.region != b.region })
			region := within(t, 3500*time.Millisecond, "a region is gone", allSee(nodes[:3], 2))
			t.Log("one", one, "region", region)
		})
	}
	if mean := sum / runs; mean > 1800*time.Millisecond {
		t.Errorf("a death is known after %v in the mean", mean)
	}
}

func TestLongPartition(t *testing.T) {
	for _, each := range []int{3, 12} {
		bubble(t, func(t *testing.T, s *sim) {
			s.delay = farther(80*time.Millisecond, 10*time.Millisecond)
			nodes := s.fleet(2, each)
			within(t, 10*time.Second, "all see all", allSee(nodes, 2*each-1))
			s.setCut(func(a, b *simNode) bool { return a.region != b.region })
			time.Sleep(90 * time.Second)
			if !allSee(nodes, each-1)() {
				t.Fatal("the halves still see each other", views(nodes))
			}
			s.setCut(nil)
			t.Log(within(t, 10*time.Second, "reunited", allSee(nodes, 2*each-1)))
		})
	}
}

// All of one half come back under new addresses, and the only seed is at an address of the other half.
func TestPartitionWithNewAddresses(t *testing.T) {
	bubble(t, func(t *testing.T, s *sim) {
		nodes := s.fleet(2, 3)
		within(t, 10*time.Second, "all see all", allSee(nodes, 5))
		s.setCut(func(a, b *simNode) bool { return a.region != b.region })
		time.Sleep(90 * time.Second)
		for i, n := range append(nodes[3:], nodes[1:3]...) {
			n.kill()
			<-n.done
			n.addr = fmt.Sprintf("10.9.9.%d:7946", i+1)
			n.seeds = append(n.seeds, "10.9.9.1:7946")
			n.start()
		}
		time.Sleep(30 * time.Second)
		if !allSee(nodes, 2)() {
			t.Fatal("not two halves", views(nodes))
		}
		s.setCut(nil)
		t.Log(within(t, 10*time.Second, "reunited", allSee(nodes, 5)))
	})
}

func TestRestartUnderANewAddress(t *testing.T) {
	bubble(t, func(t *testing.T, s *sim) {
		nodes := s.fleet(1, 4)
		within(t, 5*time.Second, "all see all", allSee(nodes, 3))
		n := nodes[3]
		n.say(func(w *node.Word) { w.Load = 0.7 })
		n.c.Tell()
		within(t, time.Second, "the load", func() bool { i, _ := nodes[1].see(n.id); return i.Word.Load == 0.7 })
		n.kill()
		<-n.done
		n.addr = "seed.example:7946" // a name, and no address at all, must work as well
		n.say(func(w *node.Word) { w.Load = 0.1 })
		n.start()
		changed := func(addr string, epoch uint64) func() bool {
			return func() bool {
				for _, o := range nodes[:3] {
					if i, ok := o.see(n.id); !ok || i.Addr != addr || i.Word.Epoch != epoch || i.Word.Load != 0.1 {
						return false
					}
				}
				return true
			}
		}
		within(t, 3*time.Second, "the new address and word", changed(n.addr, 2))
		n.kill()
		<-n.done
		n.addr = ""
		n.start()
		within(t, 5*time.Second, "no address", changed("", 3))
		time.Sleep(20 * time.Second)
		if !allSee(nodes, 3)() {
			t.Error("a node without an address does not last", views(nodes))
		}
	})
}

func TestLeave(t *testing.T) {
	bubble(t, func(t *testing.T, s *sim) {
		nodes := s.fleet(2, 2)
		within(t, 5*time.Second, "all see all", allSee(nodes, 3))
		seen := make([]atomic.Bool, 3)
		for i, o := range nodes[:3] {
			o.watch.Store(new(func() {
				if n, ok := o.see(nodes[3].id); ok && n.Word.State == node.Draining {
					seen[i].Store(true)
				}
			}))
		}
		nodes[3].say(func(w *node.Word) { w.State = node.Draining })
		start := time.Now()
		nodes[3].cancel() // without a Tell
		within(t, time.Second, "it left", allSee(nodes[:3], 2))
		<-nodes[3].done
		if took := time.Since(start); took > 2500*time.Millisecond {
			t.Errorf("stopping took %v", took)
		}
		nodes[3].kill()
		for i, o := range nodes[:3] {
			if !seen[i].Load() {
				t.Errorf("%s did not see Draining before it left", o.id)
			}
			if left := testutil.ToFloat64(o.c.metrics.departures[departureLeft]); left != 1 {
				t.Errorf("%s counts %v that left", o.id, left)
			}
		}
		if deaths(nodes[:3]) != 0 {
			t.Error("a farewell counts as a death")
		}
	})
}

func TestNoFlapping(t *testing.T) {
	for _, rtt := range []time.Duration{150 * time.Millisecond, 280 * time.Millisecond} {
		bubble(t, func(t *testing.T, s *sim) {
			s.delay = farther(rtt, 20*time.Millisecond)
			s.loss = 0.05
			nodes := s.fleet(2, 3)
			within(t, 20*time.Second, "all see all", allSee(nodes, 5))
			time.Sleep(2 * time.Minute)
			if d := deaths(nodes); d != 0 {
				t.Errorf("%v nodes were taken for dead at a round trip of %v", d, rtt)
			}
			if !allSee(nodes, 5)() {
				t.Error("not all see all")
			}
		})
	}
}

// Packets get through one way only between two nodes: the others vouch for both.
func TestOneWayCut(t *testing.T) {
	bubble(t, func(t *testing.T, s *sim) {
		nodes := s.fleet(1, 5)
		within(t, 5*time.Second, "all see all", allSee(nodes, 4))
		s.setCut(func(a, b *simNode) bool { return a == nodes[1] && b == nodes[2] })
		time.Sleep(time.Minute)
		if d := deaths(nodes); d != 0 || !allSee(nodes, 4)() {
			t.Error("deaths", d, views(nodes))
		}
	})
}

func TestSnapshotInsteadOfSeeds(t *testing.T) {
	dir := t.TempDir()
	bubble(t, func(t *testing.T, s *sim) {
		nodes := s.fleet(1, 3)
		n := s.add("late", "r0", "10.0.7.1:7946", "10.0.0.1:7946")
		n.dir = dir
		n.start()
		within(t, 5*time.Second, "all see all", allSee(append(nodes, n), 3))
		n.stop()
		nodes[0].stop() // its seed
		n.start()
		within(t, 3*time.Second, "met again", func() bool { return len(n.c.Nodes()) == 2 })
	})
}

func TestSeedsByName(t *testing.T) {
	bubble(t, func(t *testing.T, s *sim) {
		nodes := s.fleet(1, 2)
		asked := 0
		n := s.add("late", "r0", "10.0.7.1:7946", "fleet.example:7946", "10.0.7.1:7946")
		n.edit = func(c *Config) {
			c.Resolve = func(_ context.Context, host string) ([]netip.Addr, error) {
				if asked++; host != "fleet.example" || asked == 1 {
					return nil, fmt.Errorf("no such host %s", host)
				}
				return []netip.Addr{netip.MustParseAddr("10.0.9.9"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.7.1")}, nil
			}
		}
		n.start()
		within(t, 5*time.Second, "all see all", allSee(append(nodes, n), 2))
	})
}

func TestLabelsThatDoNotFit(t *testing.T) {
	labels := map[string]string{}
	for i := range 10 {
		labels[fmt.Sprintf("label-%d", i)] = strings.Repeat("v", 70)
	}
	bubble(t, func(t *testing.T, s *sim) {
		nodes := s.fleet(1, 2)
		n := s.add("labelled", "r0", "10.0.7.1:7946", "10.0.0.1:7946")
		n.edit = func(c *Config) { c.Self.Labels = labels }
		n.start()
		within(t, 5*time.Second, "all labels", func() bool {
			i, _ := nodes[1].see(n.id)
			return maps.Equal(i.Labels, labels)
		})
	})
}

// Two fleets of different labels do not mix, even when one is a seed of the other.
func TestFleetsDoNotMix(t *testing.T) {
	bubble(t, func(t *testing.T, s *sim) {
		nodes := s.fleet(1, 2)
		n := s.add("stranger", "r0", "10.0.7.1:7946", "10.0.0.1:7946")
		n.edit = func(c *Config) { c.Label = "other" }
		n.start()
		time.Sleep(20 * time.Second)
		if !allSee(nodes, 1)() || len(n.c.Nodes()) != 0 {
			t.Error(views(append(nodes, n)))
		}
	})
}

// A clone must be noticed by who was there first, and take nobody down.
func TestClone(t *testing.T) {
	bubble(t, func(t *testing.T, s *sim) {
		nodes := s.fleet(1, 3)
		within(t, 5*time.Second, "all see all", allSee(nodes, 2))
		clone := s.add(nodes[2].id, "r0", "10.0.7.1:7946", "10.0.0.1:7946")
		clone.epoch = nodes[2].epoch
		clone.start()
		within(t, 20*time.Second, "the clone is noticed", func() bool { return testutil.ToFloat64(nodes[2].c.metrics.clones) > 0 })
	})
}

// memberlist does not wait for its goroutines; Run does.
func TestRunEndsItsGoroutines(t *testing.T) {
	bubble(t, func(t *testing.T, s *sim) {
		s.loss = 0.2 // probes, indirect ones and streams are under way at the end
		nodes := s.fleet(1, 5)
		within(t, 20*time.Second, "all see all", allSee(nodes, 4))
		time.Sleep(5 * time.Second)
		for _, n := range nodes {
			n.cancel()
		}
		for _, n := range nodes {
			<-n.done
		}
		synctest.Wait()
		stacks := make([]byte, 1<<20)
		if all := string(stacks[:runtime.Stack(stacks, true)]); strings.Contains(all, "memberlist.(") || strings.Contains(all, "gossip.(*Cluster)") {
			t.Error("left behind:\n", all)
		}
	})
}
