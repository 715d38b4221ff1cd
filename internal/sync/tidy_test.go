package sync

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/sync/bucket/buckettest"
)

// leftovers lists what lies beside the store.
func leftovers(t *testing.T, n *testNode) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(n.sync.incoming)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// What was fetched only to be copied, was superseded on its way or was left by a process that ended does not stay.
func TestNothingIsLeftBehind(t *testing.T) {
	t.Run("copies", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f, eu, us := newFleet(t), &buckettest.Fake{}, &buckettest.Fake{}
			for _, v := range []string{"one", "two", "three"} {
				f.push(eu, "op", "eu", v, nil)
				settle(time.Second)
			}
			n := f.add("us", "us", func(n *testNode) { n.cfg.Own, n.cfg.Remotes = named(us, "us"), []NamedBucket{*named(eu, "eu")} })
			settle(time.Minute)
			n.want("three")
			if len(us.Keys()) != len(eu.Keys()) {
				t.Errorf("%d of %d are copied", len(us.Keys()), len(eu.Keys()))
			}
			if left := leftovers(t, n); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	})
	t.Run("superseded", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f, b := newFleet(t), &buckettest.Fake{}
			n := f.add("a", "eu", withBucket(b))
			b.SetFault(func(op buckettest.Op, key string) *buckettest.Fault {
				if op == buckettest.Get && strings.Contains(key, "blobs") {
					time.Sleep(200 * time.Millisecond)
				}
				return nil
			})
			f.push(b, "op", "eu", "two", nil)
			n.sync.Look()
			settle(300 * time.Millisecond)
			f.push(b, "op", "eu", "three", nil)
			n.sync.Look()
			settle(time.Minute)
			n.want("three")
			if left := leftovers(t, n); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	})
	t.Run("another process", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f, b := newFleet(t), &buckettest.Fake{}
			n := f.add("a", "eu", withBucket(b))
			settle(time.Second)
			n.kill()
			for _, name := range []string{strings.Repeat("0", 64), strings.Repeat("1", 64) + ".part", strings.Repeat("1", 64) + ".map", ".plain-123"} {
				if err := os.WriteFile(filepath.Join(n.sync.incoming, name), []byte("x"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			n.restart()
			settle(time.Second)
			if left := leftovers(t, n); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	})
}

// A copy for the region looks at the room first, as a fetch does.
func TestCopyWithoutRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, eu, us := newFleet(t), &buckettest.Fake{}, &buckettest.Fake{}
		f.push(eu, "op", "eu", "one", nil)
		n := f.add("us", "us", func(n *testNode) {
			n.cfg.Models, n.cfg.Own, n.cfg.Remotes = nil, named(us, "us"), []NamedBucket{*named(eu, "eu")}
			n.full.Store(true)
		})
		settle(30 * time.Second)
		if got := eu.BytesRead("blobs"); got > 10 || n.failures(ReasonDisk) == 0 { // 10 are free
			t.Errorf("%d bytes were read, %v failures of the disk", got, n.failures(ReasonDisk))
		}
		n.full.Store(false)
		settle(5 * time.Minute)
		if len(us.Keys()) != len(eu.Keys()) {
			t.Errorf("copied %v", us.Keys())
		}
	})
}

// With more manifests than a model may have, the oldest that do not count go, and what is published still arrives.
func TestManyManifests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{Now: time.Now}
		m := f.push(b, "op", "eu", "one", nil)
		for i := range maxVersions {
			again := *m
			again.Clock = m.Clock + Clock(i) + 1
			if err := PutManifest(t.Context(), b, &again); err != nil {
				t.Fatal(err)
			}
		}
		n := f.add("a", "eu", withBucket(b))
		settle(time.Minute)
		n.want("one")
		f.push(b, "op", "eu", "two", nil)
		settle(6 * time.Minute)
		n.want("two")
		if got := len(n.sync.catalog.records("m")); got > maxVersions || got < maxVersions-2*dropAtOnce {
			t.Errorf("%d manifests are kept", got)
		}
		reads := b.Calls(buckettest.Get)
		settle(20 * time.Minute)
		if more := b.Calls(buckettest.Get) - reads; more > 0 {
			t.Errorf("%d more reads: what was dropped is read at each look", more)
		}
		n.restart()
		settle(time.Second)
		n.want("two")
	})
}
