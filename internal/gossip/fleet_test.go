package gossip

import (
	"fmt"
	"os"
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
	t.Log("nodes | all met | first knows of a death | all know | idle B/node/s | busy B/node/s")
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
			idle := rate(20 * time.Second)
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
			t.Logf("%5d | %6v | %6v | %6v | %6d | %6d", size, met.Round(10*time.Millisecond), first, time.Since(start).Round(10*time.Millisecond), idle, busy)
		})
	}
}
