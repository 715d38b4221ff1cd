package gossip

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// A node whose address changes is known under the new one by everybody, again and again, and is no clone of itself.
func TestAddressChanges(t *testing.T) {
	bubble(t, func(t *testing.T, s *sim) {
		nodes := s.fleet(2, 3)
		within(t, 5*time.Second, "all see all", allSee(nodes, 5))
		for _, addr := range []string{"10.9.0.1:7946", "", "10.9.0.2:7946", "10.9.0.1:7946"} {
			nodes[4].c.SetAddr(addr)
			within(t, 2*time.Second, "the address "+addr, func() bool {
				for _, n := range nodes[:4] {
					if i, _ := n.see(nodes[4].id); i.Addr != addr {
						return false
					}
				}
				return true
			})
		}
		time.Sleep(40 * time.Second) // push and pull bring back what is old
		synctest.Wait()
		if n := testutil.ToFloat64(nodes[4].c.metrics.clones); n != 0 {
			t.Errorf("it was taken for a clone of itself %v times", n)
		}
		if !allSee(nodes, 5)() {
			t.Error(views(nodes))
		}
	})
}
