package sync

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/sync/bucket/buckettest"
)

// collectGarbage does what `akidbd model gc` does.
func collectGarbage(t *testing.T, f *fleet, b *buckettest.Fake, keep int, grace time.Duration) GC {
	t.Helper()
	plan, err := PlanGC(t.Context(), b, "m", keep, grace, Trust{Now: f.now})
	if err != nil {
		t.Fatal(err)
	}
	for _, gone := range plan.Tombstones {
		gone.Node, gone.Region = "gc", "eu"
		if err := PutManifest(t.Context(), b, gone); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	for _, o := range plan.Blobs {
		if err := b.Delete(t.Context(), o.Key); err != nil {
			t.Fatal(err)
		}
	}
	return plan
}

func TestGC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		b := &buckettest.Fake{Now: f.now}
		n := f.add("a", "eu", withBucket(b))
		var pushed []*Manifest
		for _, v := range []string{"one", "two", "three", "four", "five"} {
			pushed = append(pushed, f.push(b, "op", "eu", v, func(m *Manifest) {
				if v == "two" {
					m.Scope.Node = "canary" // one node serves it
				}
			}))
			n.sync.Look()
			settle(time.Minute)
		}
		b.Set("models/m/blobs/sha256-"+strings.Repeat("0", 64), []byte("of a push that is under way"))
		if plan := collectGarbage(t, f, b, 2, 24*time.Hour); len(plan.Tombstones)+len(plan.Blobs) > 0 {
			t.Errorf("within the grace: %+v", plan)
		}
		plan := collectGarbage(t, f, b, 2, 30*time.Second)
		var gone []string
		for _, m := range plan.Tombstones {
			gone = append(gone, m.Digest)
		}
		// "two" stays only while nothing that came later covers the canary: "five" does, so it goes too.
		want := []string{pushed[2].Digest, pushed[1].Digest, pushed[0].Digest}
		if !slices.Equal(gone, want) {
			t.Errorf("gone are %v, want %v", gone, want)
		}
		if len(plan.Blobs) != 3 || plan.Bytes != 3*modelSize {
			t.Errorf("%d blobs of %d bytes", len(plan.Blobs), plan.Bytes)
		}
		n.sync.Look()
		settle(time.Minute)
		n.want("five")
		// A fresh node gets what is left, and a rollback leads to what is left.
		fresh := f.add("b", "us", withBucket(b))
		settle(time.Minute)
		fresh.want("five")
		all, _, err := Manifests(t.Context(), b, "m", Trust{Now: f.now}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if p := Previous(all); p == nil || p.Digest != pushed[3].Digest {
			t.Errorf("previous is %+v", p)
		}
		b.Set("models/m/versions/"+ClockAt(f.now()).String()+"-x.json", []byte("{"))
		if _, err := PlanGC(t.Context(), b, "m", 2, 0, Trust{Now: f.now}); err == nil {
			t.Error("garbage is collected although a manifest cannot be read")
		}
	})
}

// A canary's version stays as long as it is served.
func TestGCKeepsCanaries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		b := &buckettest.Fake{Now: f.now}
		for _, v := range []string{"one", "two", "three"} {
			f.push(b, "op", "eu", v, nil)
			time.Sleep(time.Minute)
		}
		f.push(b, "op", "eu", "canary", func(m *Manifest) { m.Scope.Region = "us" })
		time.Sleep(time.Minute)
		plan, err := PlanGC(t.Context(), b, "m", 1, 0, Trust{Now: f.now})
		if err != nil || len(plan.Tombstones) != 2 {
			t.Errorf("plan %+v, %v", plan, err)
		}
	})
}

func TestPushAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		m := f.push(b, "op", "eu", "one", nil)
		puts := b.Calls(buckettest.Put)
		var seen int64
		if err := PutBlobs(t.Context(), b, m, "/nowhere", func(n int64) { seen += n }); err != nil || b.Calls(buckettest.Put) != puts || seen != blobBytes() {
			t.Errorf("what is there was sent again, or not counted: %d bytes, %v", seen, err)
		}
		// Somebody put something else under a blob's name.
		b.Set(BlobKey("m", m.Files[0].SHA256), []byte("x"))
		if err := PutBlobs(t.Context(), b, m, "/nowhere", nil); !errors.Is(err, errCorrupt) {
			t.Errorf("a blob of the wrong size: %v", err)
		}
		// Two publishers of one name at one moment: the second is told.
		other := *m
		other.Note = "another"
		if err := PutManifest(t.Context(), b, &other); err == nil || !strings.Contains(err.Error(), "name of its own") && !errors.Is(err, errCorrupt) {
			t.Errorf("a manifest over another: %v", err)
		}
		if err := PutManifest(t.Context(), b, m); err != nil {
			t.Errorf("the same manifest again: %v", err)
		}
	})
}
