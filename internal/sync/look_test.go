package sync

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/sync/bucket"
	"github.com/akidb/akidbd/internal/sync/bucket/buckettest"
)

// A bucket that hangs keeps nothing that others tell.
func TestHungBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, own, b := newFleet(t), &buckettest.Fake{}, &buckettest.Fake{}
		n := f.add("a", "eu", withBucket(own))
		other := f.add("b", "us", withBucket(b))
		settle(time.Second)
		fails(own, &buckettest.Fault{Hang: true}, buckettest.List)
		n.sync.Look()
		settle(time.Second)
		f.push(b, "op", "us", "one", nil)
		other.sync.Look()
		settle(15 * time.Second)
		n.want("one")
	})
}

// A look that is waited for begins after the question.
func TestLookNowIsNoOlderLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		n := f.add("a", "eu", withBucket(b))
		settle(time.Second)
		b.SetFault(func(op buckettest.Op, _ string) *buckettest.Fault {
			if op == buckettest.List {
				time.Sleep(time.Second)
			}
			return nil
		})
		n.sync.Look()
		settle(1100 * time.Millisecond) // a second look may run by now
		n.sync.Look()
		settle(100 * time.Millisecond)
		f.push(b, "op", "eu", "one", nil)
		if err := n.sync.LookNow(t.Context()); err != nil {
			t.Fatal(err)
		}
		settle(100 * time.Millisecond)
		n.want("one")
	})
}

// A node that gives nothing does not hide a catalog that another has too.
func TestAnotherNodeIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		bad := f.add("b", "eu", withBucket(b))
		f.add("c", "eu", withBucket(b))
		f.push(b, "op", "eu", "one", nil)
		settle(6 * time.Minute)
		f.mu.Lock()
		f.mute = bad.id
		f.mu.Unlock()
		n := f.add("a", "eu", nil)
		settle(10 * time.Second)
		n.want("one")
	})
}

// A manifest that cannot be read does not hide newer ones, and the bucket is not called healthy.
func TestUnreadableManifest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		var first *Manifest
		for i := range 9 {
			m := f.push(b, "op", "eu", fmt.Sprint("v", i), nil)
			if first == nil {
				first = m
			}
			settle(time.Second)
		}
		b.SetFault(func(op buckettest.Op, key string) *buckettest.Fault {
			switch {
			case op != buckettest.Get:
			case key == ManifestKey(first):
				return &buckettest.Fault{Err: bucket.ErrDenied}
			case key > ManifestKey(first):
				time.Sleep(20 * time.Millisecond)
			}
			return nil
		})
		n := f.add("a", "eu", withBucket(b))
		settle(10 * time.Second)
		n.want("v8")
		if n.sync.Healthy() == nil {
			t.Error("healthy")
		}
	})
}

// A slow node does not hold up what others say for each of its manifests.
func TestSlowNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b, far := newFleet(t), &buckettest.Fake{}, &buckettest.Fake{}
		for i := range 40 {
			f.push(b, "op", "eu", fmt.Sprint("v", i), nil)
			settle(time.Second)
		}
		slow := f.add("b", "eu", withBucket(b))
		other := f.add("c", "us", func(n *testNode) { withBucket(far)(n) })
		settle(time.Minute)
		f.mu.Lock()
		f.slow = slow.id
		f.mu.Unlock()
		n := f.add("a", "eu", nil)
		settle(time.Second) // it asks the slow one by now
		m := f.push(far, "op", "us", "new", nil)
		other.sync.Look()
		settle(2*documentTimeout + 15*time.Second) // the catalog of before, and that of now
		if got := n.sync.Status().Models[0].Wanted; got != m.Digest {
			t.Errorf("it wants %s, want %s", got, m.Digest)
		}
	})
}

// A node whose catalog cannot be read is asked again, but not without a pause.
func TestCatalogThatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		n := f.add("a", "eu", nil)
		other := f.add("b", "eu", withBucket(b))
		settle(time.Second)
		f.mu.Lock()
		f.mute = other.id
		f.mu.Unlock()
		f.push(b, "op", "eu", "one", nil)
		other.sync.Look()
		settle(time.Second)
		before := f.refusals()
		for range 4 * 20 { // as words come
			n.sync.Changed()
			settle(250 * time.Millisecond)
		}
		if asked := f.refusals() - before; asked < 10 || asked > 45 {
			t.Errorf("asked %d times in 20 s", asked)
		}
		n.wantNothing()
		f.mu.Lock()
		f.mute = ""
		f.mu.Unlock()
		settle(3 * time.Second)
		n.want("one")
	})
}
