package gossip

import (
	"strings"
	"testing"
	"time"
)

// TestSetSeeds: a node that met nobody finds the fleet when it is told other seeds, and seeds that are none change
// nothing.
func TestSetSeeds(t *testing.T) {
	bubble(t, func(t *testing.T, s *sim) {
		nodes := s.fleet(1, 2)
		within(t, 5*time.Second, "all see all", allSee(nodes, 1))
		lost := s.add("lost", "eu", "10.1.1.1:7946", "10.200.0.1:7946") // nobody is there
		lost.start()
		time.Sleep(20 * time.Second)
		if n := len(lost.c.Nodes()); n != 0 {
			t.Fatalf("it sees %d nodes without a seed that leads to them", n)
		}
		if err := lost.c.SetSeeds([]string{"nonsense"}); err == nil || !strings.Contains(err.Error(), "host:port") {
			t.Errorf("seeds that are none: %v", err)
		}
		if err := lost.c.SetSeeds([]string{nodes[0].addr}); err != nil {
			t.Fatal(err)
		}
		within(t, 10*time.Second, "it is in the fleet", allSee(append(nodes, lost), 2))
		if err := lost.c.SetSeeds(nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if !allSee(append(nodes, lost), 2)() {
			t.Error("without seeds the fleet was forgotten")
		}
	})
}
