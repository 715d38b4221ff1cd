package sync

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/sync/bucket/buckettest"
)

func TestSimultaneousPushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, eu, us := newFleet(t), &buckettest.Fake{}, &buckettest.Fake{}
		nodes := []*testNode{
			f.add("eu-0", "eu", func(n *testNode) { n.cfg.Own, n.cfg.Remotes = named(eu, "eu"), []NamedBucket{*named(us, "us")} }),
			f.add("us-0", "us", func(n *testNode) { n.cfg.Own, n.cfg.Remotes = named(us, "us"), []NamedBucket{*named(eu, "eu")} }),
		}
		settle(time.Second)
		// The same millisecond: the name decides.
		first := f.push(eu, "op-eu", "eu", "of eu", nil)
		f.push(us, "op-us", "us", "of us", nil)
		for _, n := range nodes {
			n.sync.Look()
		}
		settle(10 * time.Second)
		for _, n := range nodes {
			n.want("of us")
		}
		for _, b := range []*buckettest.Fake{eu, us} {
			manifests, bad, err := Manifests(t.Context(), b, "m", Trust{Now: f.now}, nil)
			if err != nil || len(bad) > 0 || len(manifests) != 2 {
				t.Errorf("manifests %v, %v, %v", manifests, bad, err)
			}
		}
		// Rollback is a publish of the digest before with a new clock.
		all, _, err := Manifests(t.Context(), us, "m", Trust{Now: f.now}, nil)
		if err != nil {
			t.Fatal(err)
		}
		back := Previous(all)
		if back == nil || back.Digest != first.Digest {
			t.Fatalf("previous is %+v", back)
		}
		m := *back
		m.Clock, m.Node, m.Region = ClockAt(f.now()), "op-us", "us"
		if err := PutManifest(t.Context(), us, &m); err != nil {
			t.Fatal(err)
		}
		nodes[1].sync.Look()
		settle(10 * time.Second)
		for _, n := range nodes {
			n.want("of eu")
		}
	})
}

func TestStageAndActivate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		x, y, z := f.add("x", "eu", withBucket(b)), f.add("y", "eu", withBucket(b)), f.add("z", "us", nil)
		f.push(b, "op", "eu", "one", nil)
		x.sync.Look()
		settle(time.Second)
		staged := f.push(b, "op", "eu", "two", func(m *Manifest) { m.Kind = KindStage })
		x.sync.Look()
		settle(5 * time.Second)
		for _, n := range []*testNode{x, y, z} {
			n.want("one")
		}
		activate := func(scope Scope) {
			t.Helper()
			m := *staged
			m.Kind, m.Scope, m.Clock = KindPublish, scope, ClockAt(f.now())
			if err := PutManifest(t.Context(), b, &m); err != nil {
				t.Fatal(err)
			}
			y.sync.Look()
			settle(5 * time.Second)
		}
		activate(Scope{Node: "x"})
		x.want("two")
		y.want("one")
		z.want("one")
		activate(Scope{Region: "eu"})
		y.want("two")
		z.want("one")
		activate(Scope{})
		z.want("two")
		// A later publish for all ends every canary.
		f.push(b, "op", "eu", "three", nil)
		x.sync.Look()
		settle(5 * time.Second)
		for _, n := range []*testNode{x, y, z} {
			n.want("three")
		}
	})
}

func TestDelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		n := f.add("a", "eu", withBucket(b))
		f.push(b, "op", "eu", "one", nil)
		n.sync.Look()
		settle(time.Second)
		two := f.push(b, "op", "eu", "two", nil)
		n.sync.Look()
		settle(time.Second)
		n.want("two")
		tombstone := func(digest string) {
			t.Helper()
			m := NewManifest(KindDelete, "m", "op", "eu")
			m.Clock = ClockAt(f.now())
			m.Digest = digest
			if err := PutManifest(t.Context(), b, m); err != nil {
				t.Fatal(err)
			}
			n.sync.Look()
			settle(time.Second)
		}
		tombstone(two.Digest)
		n.want("one")
		tombstone("")
		n.wantNothing()
		f.push(b, "op", "eu", "two", nil) // published anew
		n.sync.Look()
		settle(time.Second)
		n.want("two")
	})
}
