package sync

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/akidb/akidbd/internal/sync/bucket/buckettest"
)

// A version that is being brought in is not evicted, whatever else is wanted.
func TestTargetIsNeeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		n := f.add("a", "eu", withBucket(b))
		one := f.push(b, "op", "eu", "one", nil)
		n.sync.Look()
		settle(time.Second)
		f.push(b, "op", "eu", "two", nil)
		n.sync.Look()
		settle(time.Second)
		e, err := n.store.Lookup("m", one.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if n.sync.needed(e) {
			t.Error("the version before is needed although nothing says so")
		}
		n.sync.mu.Lock()
		n.sync.models["m"].target = one.Digest
		n.sync.mu.Unlock()
		if !n.sync.needed(e) {
			t.Error("what is brought in is not needed")
		}
	})
}

// In a fleet without a bucket, a version that was staged from a node's store stays there: nobody else has it.
func TestStagedWithoutABucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		n := f.add("a", "eu", nil)
		var staged string
		for i, v := range []string{"staged", "one", "two", "three"} {
			if _, err := n.sync.Import(t.Context(), "m", writeDir(t, contents(v))); err != nil {
				t.Fatal(err)
			}
			m := manifestOf("m", "a", f.now(), contents(v))
			if i == 0 {
				m.Kind, staged = KindStage, m.Digest
			}
			raw, err := m.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := n.sync.Publish(raw); err != nil {
				t.Fatal(err)
			}
			settle(time.Minute)
		}
		n.want("three")
		if _, err := n.store.Lookup("m", staged); err != nil {
			t.Errorf("the staged version is gone: %v", err)
		}
		gone := &Manifest{Format: format, Kind: KindDelete, Name: "m", Clock: ClockAt(f.now()), Node: "a", Region: "eu", Digest: staged}
		raw, err := gone.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.sync.Publish(raw); err != nil {
			t.Fatal(err)
		}
		if err := n.sync.evict(0); err != nil {
			t.Fatal(err)
		}
		if _, err := n.store.Lookup("m", staged); err == nil {
			t.Error("a version that was deleted stays")
		}
	})
}

// A refusal is of what an object held, not of its place: another content under the key is read.
func TestRefusedByContent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		n := f.add("a", "eu", withBucket(b))
		m := f.push(b, "op", "eu", "one", nil)
		raw, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		b.Set(ManifestKey(m), []byte("{"))
		n.sync.Look()
		settle(time.Second)
		n.wantNothing()
		b.Set(ManifestKey(m), raw)
		n.sync.Look()
		settle(time.Second)
		n.want("one")
	})
}

// A disk that does not keep a manifest is no fault of the manifest.
func TestManifestThatCannotBeKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		n := f.add("a", "eu", withBucket(b))
		if err := os.WriteFile(filepath.Join(n.dir, "sync", "manifests"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		f.push(b, "op", "eu", "one", nil)
		n.sync.Look()
		settle(time.Second)
		n.want("one")
		if st := n.sync.Status(); len(st.Refused) > 0 || n.failures(ReasonDisk) != 1 {
			t.Errorf("refused %+v, %v failures of the disk", st.Refused, n.failures(ReasonDisk))
		}
	})
}

// A Put of which nothing is read any more is tried again.
func TestPutThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		var once atomic.Bool
		b.SetFault(func(op buckettest.Op, _ string) *buckettest.Fault {
			if op == buckettest.Put && !once.Swap(true) {
				return &buckettest.Fault{Hang: true}
			}
			return nil
		})
		started := time.Now()
		f.push(b, "op", "eu", "one", nil)
		if took := time.Since(started); took > 3*time.Minute {
			t.Errorf("it took %v", took)
		}
	})
}

// The gauge of versions at fault follows those that are deleted.
func TestQuarantineGauge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		n := f.add("a", "eu", withBucket(b))
		f.push(b, "op", "eu", "one", nil)
		n.sync.Look()
		settle(time.Second)
		bad := f.push(b, "op", "eu", "two", nil)
		n.engine.setFail(func(string) error { return errors.New("bad") })
		n.sync.Look()
		settle(time.Second)
		gauge := n.sync.metrics.quarantined.WithLabelValues("m")
		if got := testutil.ToFloat64(gauge); got != 1 {
			t.Errorf("%v at fault", got)
		}
		gone := &Manifest{Format: format, Kind: KindDelete, Name: "m", Clock: ClockAt(f.now()), Node: "op", Region: "eu", Digest: bad.Digest}
		if err := PutManifest(t.Context(), b, gone); err != nil {
			t.Fatal(err)
		}
		n.sync.Look()
		settle(time.Second)
		if got := testutil.ToFloat64(gauge); got != 0 {
			t.Errorf("%v at fault after it was deleted", got)
		}
	})
}

func TestBoundedStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		n := f.add("a", "eu", withBucket(b))
		var first *Manifest
		for i := range 5 {
			m := f.push(b, "op", "eu", fmt.Sprint("v", i), nil)
			n.sync.Look()
			settle(2 * time.Second)
			n.want(fmt.Sprint("v", i))
			if i == 0 {
				first = m
				if err := n.sync.Pin("m", m.Digest, true); err != nil {
					t.Fatal(err)
				}
			}
		}
		entries, err := n.store.List()
		if err != nil {
			t.Fatal(err)
		}
		pinned := slices.ContainsFunc(n.sync.Versions("m"), func(v Version) bool { return v.Digest == first.Digest && v.Pinned && v.Here })
		if len(entries) != 2 || !pinned {
			t.Errorf("the store has %v, pinned %v", entries, pinned)
		}
		if err := n.sync.Pin("m", "sha256-"+strings.Repeat("0", 64), true); err == nil {
			t.Error("a version that is not here was pinned")
		}
	})
}

func TestVerify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		n := f.add("a", "eu", withBucket(b))
		for _, v := range []string{"one", "two"} {
			f.push(b, "op", "eu", v, nil)
			n.sync.Look()
			settle(2 * time.Second)
		}
		entries, err := n.store.List()
		if err != nil || len(entries) != 2 {
			t.Fatalf("%v, %v", entries, err)
		}
		for _, e := range entries { // bits rot in both
			path := filepath.Join(e.Dir, "model.safetensors")
			if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, []byte(weights("rot", modelSize)), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		found, err := n.sync.Verify(t.Context(), "m")
		if err != nil || len(found) != 2 || found[0].Err == nil || found[1].Err == nil {
			t.Errorf("found %+v, %v", found, err)
		}
		if left, err := n.store.List(); err != nil || len(left) != 1 || left[0].Model.Digest != n.engine.Serving("m") {
			t.Errorf("left: %v, %v", left, err)
		}
	})
}
