package sync

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/akidb/akidbd/internal/sync/bucket/buckettest"
)

func TestPushArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		n := f.add("a", "eu", withBucket(b))
		settle(time.Second)
		n.wantNothing()
		f.push(b, "op", "eu", "one", nil)
		settle(6 * time.Minute) // nobody told it: the look every five minutes finds it
		n.want("one")
		if got := b.BytesRead("blobs"); got != blobBytes() {
			t.Errorf("%d bytes of blobs were read, there are %d", got, blobBytes())
		}
		if left, err := os.ReadDir(n.sync.incoming); err != nil || len(left) > 0 {
			t.Errorf("left in incoming: %v, %v", left, err)
		}
		f.push(b, "op", "eu", "two", nil)
		n.sync.Look()
		settle(time.Second)
		n.want("two")
		if lag := testutil.ToFloat64(n.sync.metrics.lag.WithLabelValues("m")); lag > 1 {
			t.Errorf("lag %v s", lag)
		}
		// What both versions have is not fetched again.
		if got := b.BytesRead("blobs"); got != blobBytes()+modelSize {
			t.Errorf("%d bytes of blobs were read in all", got)
		}
	})
}

func TestTwoRegions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, eu, us := newFleet(t), &buckettest.Fake{}, &buckettest.Fake{}
		var nodes []*testNode
		for i := range 3 {
			nodes = append(nodes, f.add(fmt.Sprintf("eu-%d", i), "eu", func(n *testNode) {
				n.cfg.Own, n.cfg.Remotes = named(eu, "eu"), []NamedBucket{*named(us, "us")}
			}), f.add(fmt.Sprintf("us-%d", i), "us", func(n *testNode) {
				n.cfg.Own, n.cfg.Remotes = named(us, "us"), []NamedBucket{*named(eu, "eu")}
			}))
		}
		settle(time.Second)
		f.push(eu, "op", "eu", "one", nil)
		nodes[0].sync.Look() // as the push does through the admin socket
		settle(2 * time.Second)
		for _, n := range nodes {
			n.want("one")
		}
		if !slices.Equal(eu.Keys(), us.Keys()) {
			t.Errorf("the buckets differ: %v and %v", eu.Keys(), us.Keys())
		}
		// Once for each region.
		if got := eu.BytesRead("blobs"); got != 2*blobBytes() {
			t.Errorf("%d bytes were read of the bucket of eu, one copy is %d", got, blobBytes())
		}
		if got := us.BytesRead("blobs"); got != 0 {
			t.Errorf("%d bytes were read of the bucket of us", got)
		}
		for _, n := range nodes {
			if got := testutil.ToFloat64(n.sync.metrics.backlog); got != 0 {
				t.Errorf("backlog of %s is %v", n.id, got)
			}
		}
	})
}

func TestEightNodesOneCopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		var nodes []*testNode
		for i := range 8 {
			nodes = append(nodes, f.add(fmt.Sprintf("n%d", i), "eu", withBucket(b)))
		}
		settle(time.Second) // they have met
		f.push(b, "op", "eu", "one", nil)
		for _, n := range nodes {
			n.sync.Look()
		}
		settle(10 * time.Second)
		for _, n := range nodes {
			n.want("one")
		}
		if got := b.BytesRead("blobs"); got != blobBytes() {
			t.Errorf("%d bytes were read of the bucket, one copy is %d", got, blobBytes())
		}
	})
}

// Nodes that start without having met read little more than one copy: what one of them has the others take.
func TestStrangersStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		f.push(b, "op", "eu", "one", nil)
		var nodes []*testNode
		for i := range 8 {
			nodes = append(nodes, f.add(fmt.Sprintf("n%d", i), "eu", withBucket(b)))
		}
		settle(10 * time.Second)
		for _, n := range nodes {
			n.want("one")
		}
		if got := b.BytesRead("blobs"); got > 3*blobBytes() {
			t.Errorf("%d bytes were read of the bucket, one copy is %d", got, blobBytes())
		}
	})
}

// Without a bucket the nodes carry everything: also to one that comes later, and through one that does not want it.
func TestPeersAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		a := f.add("a", "eu", nil)
		c := f.add("c", "us", nil)
		files, err := a.sync.Import(t.Context(), "m", writeDir(t, contents("one")))
		if err != nil {
			t.Fatal(err)
		}
		m := manifestOf("m", "a", f.now(), contents("one"))
		if !slices.Equal(files, m.Files) {
			t.Fatalf("imported %v, want %v", files, m.Files)
		}
		raw, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.sync.Publish(raw); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		a.want("one")
		c.want("one")
		late := f.add("late", "us", nil)
		settle(time.Second)
		late.want("one")
		// The version is known and served after a restart that meets nobody.
		f.cut[a.id], f.cut[c.id] = true, true
		late.restart()
		settle(time.Second)
		late.want("one")
	})
}

func TestRestartWithoutNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		f.push(b, "op", "eu", "one", nil)
		n := f.add("a", "eu", withBucket(b))
		settle(time.Second)
		n.want("one")
		n.kill()
		f.push(b, "op", "eu", "two", nil)
		fails(b, &buckettest.Fault{Err: errDown}, buckettest.List, buckettest.Get, buckettest.Head, buckettest.Put)
		n.restart()
		settle(time.Second)
		n.want("one")
		if err := n.sync.Healthy(); err == nil {
			t.Error("a bucket that is down is healthy")
		}
		b.SetFault(nil)
		settle(time.Minute)
		n.want("two")
		if err := n.sync.Healthy(); err != nil {
			t.Errorf("the bucket is back: %v", err)
		}
	})
}

// Deleting the store and starting again gives the same digests.
func TestReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		m := f.push(b, "op", "eu", "one", nil)
		n := f.add("a", "eu", withBucket(b))
		settle(time.Second)
		n.kill()
		for _, dir := range []string{"models", "sync"} {
			if err := os.RemoveAll(filepath.Join(n.dir, dir)); err != nil {
				t.Fatal(err)
			}
		}
		n.restart()
		settle(time.Second)
		n.want("one")
		if got := n.engine.Serving("m"); got != m.Digest {
			t.Errorf("serves %s, want %s", got, m.Digest)
		}
	})
}
