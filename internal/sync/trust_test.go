package sync

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/store"
	"github.com/akidb/akidbd/internal/sync/bucket/buckettest"
)

// What nodes refuse decides nothing: no garbage is collected by an unsigned tombstone, or by a manifest of 2036, and no
// rollback goes to what nobody believed.
func TestPlansBelieveWhatNodesBelieve(t *testing.T) {
	public, sign := testKey(t)
	keys, err := ParseKeys([]string{public})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		b := &buckettest.Fake{Now: f.now}
		trust := Trust{Keys: keys, Now: f.now}
		n := f.add("a", "eu", func(n *testNode) { withBucket(b)(n); n.cfg.Keys = keys })
		one := f.push(b, "op", "eu", "one", sign)
		settle(time.Second)
		f.push(b, "op", "eu", "two", sign)
		settle(time.Second)
		f.push(b, "stolen", "eu", "evil", nil)
		settle(time.Second)
		f.push(b, "stolen", "eu", "evil again", nil)
		settle(time.Second)
		gone := &Manifest{Format: format, Kind: KindDelete, Name: "m", Clock: ClockAt(f.now()), Node: "stolen", Region: "eu"}
		if err := PutManifest(t.Context(), b, gone); err != nil {
			t.Fatal(err)
		}
		n.sync.Look()
		settle(time.Minute)
		n.want("two")
		all, bad, err := Manifests(t.Context(), b, "m", trust, nil)
		if err != nil || len(bad) != 3 {
			t.Errorf("%d are refused, %v", len(bad), err)
		}
		if p := Previous(all); p == nil || p.Digest != one.Digest {
			t.Errorf("a rollback would go to %+v", p)
		}
		if plan, err := PlanGC(t.Context(), b, "m", 3, 0, trust); err == nil || !strings.Contains(err.Error(), "sync.trusted_keys") {
			t.Errorf("plan %+v, %v", plan, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		b := &buckettest.Fake{Now: f.now}
		n := f.add("a", "eu", withBucket(b))
		f.push(b, "op", "eu", "one", nil)
		settle(time.Minute)
		f.push(b, "wild", "eu", "two", func(m *Manifest) { m.Clock = ClockAt(f.now().Add(10 * 365 * 24 * time.Hour)) })
		n.sync.Look()
		settle(time.Minute)
		n.want("one")
		if plan, err := PlanGC(t.Context(), b, "m", 1, 0, Trust{Now: f.now}); err == nil {
			t.Errorf("plan %+v", plan)
		}
	})
}

// A version that is activated while gc works is not taken away by its tombstone, and its files stay.
func TestGCMeetsAnActivate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		b := &buckettest.Fake{Now: f.now}
		one := f.push(b, "op", "eu", "one", nil)
		settle(time.Minute)
		f.push(b, "op", "eu", "two", nil)
		settle(time.Minute)
		plan, err := PlanGC(t.Context(), b, "m", 1, 0, Trust{Now: f.now})
		if err != nil || len(plan.Tombstones) != 1 || plan.Tombstones[0].Digest != one.Digest {
			t.Fatalf("%+v, %v", plan, err)
		}
		again := *one
		again.Clock = ClockAt(f.now())
		if err := PutManifest(t.Context(), b, &again); err != nil {
			t.Fatal(err)
		}
		settle(time.Second)
		gone := plan.Tombstones[0]
		gone.Node, gone.Region = "gc", "eu"
		if err := PutManifest(t.Context(), b, gone); err != nil {
			t.Fatal(err)
		}
		now, err := PlanGC(t.Context(), b, "m", 1, 0, Trust{Now: f.now})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range now.Blobs {
			if slices.ContainsFunc(one.Files, func(x store.File) bool { return BlobKey("m", x.SHA256) == o.Key }) {
				t.Errorf("%s would go", o.Key)
			}
		}
		n := f.add("a", "eu", withBucket(b))
		settle(time.Minute)
		n.want("one")
		if missing, err := Missing(t.Context(), b, one); err != nil || len(missing) > 0 {
			t.Errorf("missing %v, %v", missing, err)
		}
		if err := b.Delete(t.Context(), BlobKey("m", one.Files[0].SHA256)); err != nil {
			t.Fatal(err)
		}
		if missing, err := Missing(t.Context(), b, one); err != nil || len(missing) != 1 {
			t.Errorf("missing %v, %v", missing, err)
		}
	})
}

func TestUnsigned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		public, sign := testKey(t)
		keys, err := ParseKeys([]string{public})
		if err != nil {
			t.Fatal(err)
		}
		n := f.add("a", "eu", func(n *testNode) { withBucket(b)(n); n.cfg.Keys = keys })
		trusting := f.add("b", "eu", withBucket(b))
		f.push(b, "op", "eu", "one", sign)
		n.sync.Look()
		settle(time.Second)
		n.want("one")
		f.push(b, "stolen", "eu", "two", nil)
		n.sync.Look()
		trusting.sync.Look()
		settle(10 * time.Second)
		n.want("one")
		trusting.want("two")
		if n.failures(ReasonSignature) != 1 {
			t.Errorf("%v failures by signature", n.failures(ReasonSignature))
		}
	})
}
