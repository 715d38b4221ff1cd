package sync

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/sync/bucket"
	"github.com/akidb/akidbd/internal/sync/bucket/buckettest"
)

// into makes a node of us copy from eu's bucket into us's.
func into(us, eu bucket.Bucket, change func(*testNode)) func(*testNode) {
	return func(n *testNode) {
		n.cfg.Own, n.cfg.Remotes = named(us, "us"), []NamedBucket{*named(eu, "eu")}
		if change != nil {
			change(n)
		}
	}
}

// readOnly denies every Put.
type readOnly struct{ bucket.Bucket }

func (readOnly) Put(context.Context, string, io.ReaderAt, int64, func(int64)) error {
	return bucket.ErrDenied
}

// One node of four may write into the bucket, the others are told not to or are denied: it copies everything.
func TestOneWriterOfFour(t *testing.T) {
	for name, change := range map[string]func(*testNode){
		"replicate is off": func(n *testNode) { n.cfg.ReadOnly = true },
		"denied": func(n *testNode) {
			n.cfg.Own.Bucket = readOnly{n.cfg.Own.Bucket}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, eu, us := newFleet(t), &buckettest.Fake{}, &buckettest.Fake{}
				for _, v := range []string{"one", "two", "three", "four"} {
					f.push(eu, "op", "eu", v, nil)
					settle(time.Second)
				}
				for i, id := range []string{"u1", "u2", "u3", "u4"} {
					f.add(id, "us", into(us, eu, func(n *testNode) {
						if i > 0 {
							change(n)
						}
					}))
				}
				settle(15 * time.Minute)
				if len(us.Keys()) != len(eu.Keys()) {
					t.Errorf("us has %d of %d objects", len(us.Keys()), len(eu.Keys()))
				}
			})
		})
	}
}

// A manifest that came without its blobs does not hide that they lack.
func TestManifestWithoutBlobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, eu, us := newFleet(t), &buckettest.Fake{}, &buckettest.Fake{}
		m := f.push(eu, "op", "eu", "one", nil)
		if err := PutManifest(t.Context(), us, m); err != nil {
			t.Fatal(err)
		}
		n := f.add("us", "us", into(us, eu, nil))
		settle(15 * time.Minute)
		n.want("one")
		if len(us.Keys()) != len(eu.Keys()) || n.sync.Status().Backlog != 0 {
			t.Errorf("us has %d of %d objects, backlog %d", len(us.Keys()), len(eu.Keys()), n.sync.Status().Backlog)
		}
	})
}

// What somebody removes from the bucket is copied again, whichever node is chosen for it.
func TestRemovedFromTheBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, eu, us := newFleet(t), &buckettest.Fake{}, &buckettest.Fake{}
		var all []*Manifest
		for _, v := range []string{"one", "two", "three", "four", "five", "six"} {
			all = append(all, f.push(eu, "op", "eu", v, nil))
			settle(time.Second)
		}
		for _, id := range []string{"u1", "u2", "u3"} {
			f.add(id, "us", into(us, eu, nil))
		}
		settle(15 * time.Minute)
		for _, m := range all {
			if err := us.Delete(t.Context(), BlobKey("m", m.Files[1].SHA256)); err != nil {
				t.Fatal(err)
			}
		}
		settle(30 * time.Minute)
		if len(us.Keys()) != len(eu.Keys()) {
			t.Errorf("us has %d of %d objects", len(us.Keys()), len(eu.Keys()))
		}
	})
}
