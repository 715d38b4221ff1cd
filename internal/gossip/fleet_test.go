package gossip

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/akidb/akidbd/internal/node"
)

// TestFleet prints how fast a death is known and what gossip costs, in the time of the bubble.
// AKIDB_TEST_FLEET is the size of another fleet; 1000 takes many minutes.
func TestFleet(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("large fleets take minutes")
	}
	t.Log("nodes | all met | first knows of a death | all know | idle B/node/s | busy B/node/s | idle dials/node/s")
	sizes := []int{10, 100}
	if s := os.Getenv("AKIDB_TEST_FLEET"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		sizes = []int{n}
	}
	for _, size := range sizes {
		bubble(t, func(t *testing.T, s *sim) {
			s.delay = farther(80*time.Millisecond, 10*time.Millisecond)
			const regions = 3
			var nodes []*simNode
			for i := range size {
				n := s.add(node.ID(fmt.Sprintf("node-%04d", i)), fmt.Sprintf("r%d", i%regions), fmt.Sprintf("10.0.%d.%d:7946", i/250, i%250+1),
					"10.0.0.1:7946", "10.0.0.2:7946", "10.0.0.3:7946")
				nodes = append(nodes, n)
			}
			s.keeps = some(nodes, 64, 8)
			for _, n := range nodes {
				n.start()
				time.Sleep(5 * time.Millisecond)
			}
			met := within(t, 2*time.Minute, "all see all", allSee(nodes, size-1))
			time.Sleep(15*time.Second + time.Duration(size)*75*time.Millisecond) // the news of the start die away
			rate := func(d time.Duration) int64 {
				before := s.bytes.Load()
				time.Sleep(d)
				return (s.bytes.Load() - before) / int64(size) / int64(d/time.Second)
			}
			before := dials(nodes)
			idle := rate(20 * time.Second)
			dialled := float64(dials(nodes)-before) / float64(size) / 20
			for _, n := range nodes {
				n.busy.Store(true)
			}
			busy := rate(20 * time.Second)
			for _, n := range nodes {
				n.busy.Store(false)
			}
			dead := nodes[size/2]
			dead.kill()
			start := time.Now()
			left := append(append([]*simNode{}, nodes[:size/2]...), nodes[size/2+1:]...)
			first := within(t, 20*time.Second, "somebody knows", func() bool {
				for _, n := range left {
					if _, ok := n.see(dead.id); !ok {
						return true
					}
				}
				return false
			})
			within(t, 20*time.Second, "all know", allSee(left, size-2))
			t.Logf("%5d | %6v | %6v | %6v | %6d | %6d | %.2f", size, met.Round(10*time.Millisecond), first, time.Since(start).Round(10*time.Millisecond), idle, busy, dialled)
		})
	}
}

// some says who keeps a link, as the real links do: to own nodes of the region and far of each other one, which a hash
// of the pair chooses.
func some(nodes []*simNode, own, far int) func(a, b *simNode) bool {
	hash := func(a, b *simNode) uint64 {
		pair := pairOf(a.id, b.id)
		sum := sha256.Sum256([]byte(pair[0] + "/" + pair[1]))
		return binary.BigEndian.Uint64(sum[:])
	}
	kept := map[[2]node.ID]bool{}
	for _, a := range nodes {
		others := slices.Clone(nodes)
		slices.SortFunc(others, func(x, y *simNode) int { return cmp.Compare(hash(a, x), hash(a, y)) })
		left := map[string]int{}
		for _, b := range others {
			limit := far
			if b.region == a.region {
				limit = own
			}
			if a != b && left[b.region] < limit {
				left[b.region]++
				kept[pairOf(a.id, b.id)] = true
			}
		}
	}
	return func(a, b *simNode) bool { return kept[pairOf(a.id, b.id)] }
}

func dials(nodes []*simNode) (n int64) {
	for _, o := range nodes {
		n += o.dials.Load()
	}
	return n
}

// News for a member without a link go over a link that is there: they reach everybody and cost no dials. What dials
// besides the links that are kept is probes, one in probeInterval, and the exchanges of who has just come.
func TestNewsNeedNoDial(t *testing.T) {
	bubble(t, func(t *testing.T, s *sim) {
		s.delay = farther(40*time.Millisecond, 5*time.Millisecond)
		var nodes []*simNode
		for i := range 80 {
			nodes = append(nodes, s.add(node.ID(fmt.Sprintf("node-%02d", i)), fmt.Sprintf("r%d", i%2), fmt.Sprintf("10.0.0.%d:7946", i+1), "10.0.0.1:7946"))
		}
		s.keeps = some(nodes, 4, 2)
		kept := 0
		for i, n := range nodes {
			for _, o := range nodes[:i] {
				if s.keeps(n, o) {
					kept++
				}
			}
			n.start()
			n.busy.Store(true)
		}
		start := time.Now()
		within(t, 10*time.Second, "all see all", allSee(nodes, len(nodes)-1))
		nodes[7].say(func(w *node.Word) { w.State = node.Draining })
		nodes[7].c.Tell()
		t.Log(within(t, 2*time.Second, "all know of the drain", func() bool {
			for _, n := range nodes {
				if i, ok := n.see(nodes[7].id); n != nodes[7] && (!ok || i.Word.State != node.Draining) {
					return false
				}
			}
			return true
		}))
		time.Sleep(time.Until(start.Add(2 * time.Second)))
		each := 2 * (int(time.Since(start)/probeInterval) + 2 + settleRounds)
		if n, all := int(dials(nodes)), len(nodes)*(len(nodes)-1)/2; n > kept+each*len(nodes) {
			t.Errorf("%d dials for %d links that are kept; probes and exchanges may make %d, and there are %d pairs", n, kept, each*len(nodes), all)
		} else {
			t.Logf("%d dials, %d links are kept, %d pairs", n, kept, all)
		}
	})
}
