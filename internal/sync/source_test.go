package sync

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/node"
	"github.com/akidb/akidbd/internal/sync/bucket/buckettest"
)

func TestLateNodeAsksItsBucketWhenTheOthersAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		f.push(b, "op", "eu", "one", nil)
		// A node of the region that never gets anything: it is chosen, or not, and may not hold up the other.
		stuck := f.add("stuck", "eu", func(n *testNode) {
			n.cfg.Own = named(&buckettest.Fake{Fault: onBlobs(&buckettest.Fault{Hang: true})}, "eu")
		})
		for i := range 4 {
			n := f.add(fmt.Sprintf("n%d", i), "eu", withBucket(b))
			settle(40 * time.Second)
			n.want("one")
		}
		stuck.want("one") // of the others
	})
}

func TestRendezvousIsEven(t *testing.T) {
	ids := []node.ID{"jetson-01", "jetson-02", "jetson-03", "jetson-04"}
	count := map[node.ID]int{}
	for i := range 4000 {
		key := fmt.Sprint("sha256-", i)
		best := rendezvous(key, ids)
		count[best]++
		// One that leaves moves only its own keys.
		if others := slices.DeleteFunc(slices.Clone(ids), func(id node.ID) bool { return id == "jetson-02" }); best != "jetson-02" && rendezvous(key, others) != best {
			t.Fatal("a key moved although its node is there")
		}
	}
	for id, n := range count {
		if n < 850 || n > 1150 {
			t.Errorf("%s has %d of 4000", id, n)
		}
	}
}
