package sync

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/sync/bucket"
	"github.com/akidb/akidbd/internal/sync/bucket/buckettest"
)

// Whatever goes wrong while the version "two" comes, "one" serves on, the reason is told, and when the cause goes it
// comes without anybody's help.
func TestFaults(t *testing.T) {
	for name, c := range map[string]struct {
		fault  func(op buckettest.Op, key string) *buckettest.Fault
		change func(*testNode)
		reason Reason
		after  time.Duration // until it is mended, at most; the default is three minutes
	}{
		"down":           {fault: func(buckettest.Op, string) *buckettest.Fault { return &buckettest.Fault{Err: errDown} }, reason: ReasonUnavailable},
		"blobs down":     {fault: onBlobs(&buckettest.Fault{Err: errDown}), reason: ReasonUnavailable},
		"credentials":    {fault: onBlobs(&buckettest.Fault{Err: fmt.Errorf("ExpiredToken: %w", bucket.ErrDenied)}), reason: ReasonDenied},
		"truncated":      {fault: onBlobs(&buckettest.Fault{Truncate: true}), reason: ReasonUnavailable},
		"bit flipped":    {fault: onBlobs(&buckettest.Fault{Flip: true}), reason: ReasonCorrupt, after: 10 * time.Minute},
		"manifest first": {fault: onBlobs(&buckettest.Fault{Err: fs.ErrNotExist}), reason: ReasonMissing},
		"stalls":         {fault: onBlobs(&buckettest.Fault{Hang: true}), reason: ReasonUnavailable},
		"wrong hash in it": {change: func(n *testNode) {
			n.engine.setFail(func(string) error { return errors.New("golden.json, text 0: cosine 0.5") })
		}, reason: ReasonLoad, after: 10 * time.Minute},
		"disk full": {change: func(n *testNode) { n.full.Store(true) }, reason: ReasonDisk},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, b := newFleet(t), &buckettest.Fake{}
				f.push(b, "op", "eu", "one", nil)
				n := f.add("a", "eu", withBucket(b))
				settle(time.Second)
				n.want("one")
				two := f.push(b, "op", "eu", "two", nil)
				b.SetFault(c.fault)
				if c.change != nil {
					c.change(n)
				}
				before := b.Calls(buckettest.Get)
				n.sync.Look()
				settle(2 * time.Minute)
				n.want("one")
				if n.failures(c.reason) == 0 {
					t.Errorf("no failure by %s was counted", c.reason)
				}
				trouble := n.sync.Status().Models[0].Trouble[two.Digest]
				if name == "down" {
					if err := n.sync.Healthy(); !errors.Is(err, errDown) {
						t.Errorf("healthy says %v", err)
					}
				} else if trouble.Reason != c.reason || trouble.Text == "" || trouble.Quarantined() != c.reason.lasting() {
					t.Errorf("trouble is %+v, want the reason %s", trouble, c.reason)
				}
				// Never a tight loop: a version of three files, tries with growing pauses.
				if calls := b.Calls(buckettest.Get) - before; calls > 500 {
					t.Errorf("%d reads in two minutes", calls)
				}
				b.SetFault(nil)
				n.engine.setFail(nil)
				n.full.Store(false)
				settle(max(c.after, 3*time.Minute))
				n.want("two")
				if left := n.sync.Status().Models[0].Trouble; len(left) > 0 {
					t.Errorf("left: %+v", left)
				}
			})
		})
	}
}

// A version that is at fault is passed over by a node that starts with nothing else, and stays passed over.
func TestQuarantineSurvivesRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		f.push(b, "op", "eu", "one", nil)
		n := f.add("a", "eu", withBucket(b))
		settle(time.Second)
		two := f.push(b, "op", "eu", "two", nil)
		n.engine.setFail(func(digest string) error {
			if digest == two.Digest {
				return errors.New("it crashes")
			}
			return nil
		})
		n.sync.Look()
		settle(time.Second)
		n.restart()
		settle(5 * time.Second)
		n.want("one")
		if n.engine.installs != 1 {
			t.Errorf("%d installs after the restart, the bad one among them", n.engine.installs)
		}
		fresh := f.add("fresh", "eu", func(n *testNode) {
			withBucket(b)(n)
			n.engine.setFail(func(digest string) error {
				if digest == two.Digest {
					return errors.New("it crashes")
				}
				return nil
			})
		})
		settle(5 * time.Second)
		fresh.want("one")
	})
}

// One bit of one answer is wrong: the blob is fetched again, by itself.
func TestOneBadAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		f.push(b, "op", "eu", "one", nil)
		var once atomic.Bool
		bad := onBlobs(&buckettest.Fault{Flip: true})
		b.SetFault(func(op buckettest.Op, key string) *buckettest.Fault {
			if fault := bad(op, key); fault != nil && !once.Swap(true) {
				return fault
			}
			return nil
		})
		n := f.add("a", "eu", withBucket(b))
		settle(10 * time.Second)
		n.want("one")
		if n.failures(ReasonCorrupt) != 1 {
			t.Errorf("%v failures", n.failures(ReasonCorrupt))
		}
	})
}

// A node that gives wrong bytes does not keep the others from the right ones.
func TestBadPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		f.push(b, "op", "eu", "one", nil)
		bad := f.add("bad", "eu", withBucket(b))
		settle(time.Second)
		entries, err := bad.store.List()
		if err != nil || len(entries) != 1 {
			t.Fatal(entries, err)
		}
		path := filepath.Join(entries[0].Dir, "model.safetensors")
		if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, []byte(weights("bad", modelSize)), 0o600)); err != nil {
			t.Fatal(err)
		}
		n := f.add("a", "eu", withBucket(b))
		settle(10 * time.Second)
		n.want("one")
	})
}

// What was fetched before an interruption is not fetched again, also by another process.
func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		f.push(b, "op", "eu", "one", nil)
		var reads atomic.Int32
		b.SetFault(func(op buckettest.Op, key string) *buckettest.Fault {
			if _, _, ok := parseBlobKey(key); ok && op == buckettest.Get && reads.Add(1) > 4 {
				return &buckettest.Fault{Err: errDown}
			}
			return nil
		})
		n := f.add("a", "eu", withBucket(b))
		settle(20 * time.Second)
		n.wantNothing()
		n.kill()
		b.SetFault(nil)
		n.run()
		settle(time.Minute)
		n.want("one")
		if got := b.BytesRead("blobs"); got != blobBytes() {
			t.Errorf("%d bytes were read, there are %d", got, blobBytes())
		}
	})
}

// A process that ends at any step leaves nothing that keeps the next from serving the version, and nothing torn.
func TestInterruptedAtEachStep(t *testing.T) {
	for step := range 16 {
		synctest.Test(t, func(t *testing.T) {
			f, b := newFleet(t), &buckettest.Fake{}
			f.push(b, "op", "eu", "one", nil)
			n := f.add("a", "eu", withBucket(b))
			settle(time.Second)
			f.push(b, "op", "eu", "two", nil)
			var ops atomic.Int32
			stop := n.stop
			b.SetFault(func(buckettest.Op, string) *buckettest.Fault {
				if int(ops.Add(1)) == step+1 {
					stop()
				}
				return nil
			})
			n.sync.Look()
			settle(time.Second)
			b.SetFault(nil)
			n.restart()
			settle(time.Minute)
			n.want("two")
			entries, err := n.store.List()
			if err != nil || len(entries) != 2 {
				t.Errorf("step %d: the store has %v, %v", step, entries, err)
			}
			for _, e := range entries {
				if err := n.store.Verify(t.Context(), e); err != nil {
					t.Errorf("step %d: %v", step, err)
				}
			}
		})
	}
}

// A manifest that is broken, or lies under another's key, is refused and told once; the others count.
func TestBadManifests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		m := f.push(b, "op", "eu", "one", nil)
		raw, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		clock := ClockAt(f.now().Add(time.Minute)).String()
		b.Set("models/m/versions/"+clock+"-x.json", []byte("{"))
		b.Set("models/m/versions/"+clock+"-y.json", raw)
		b.Set("models/m/versions/"+clock+"-z.json", []byte(strings.Replace(string(raw), m.Digest, "sha256-"+strings.Repeat("0", 64), 1)))
		b.Set("models/m/versions/readme.txt", []byte("not ours"))
		n := f.add("a", "eu", withBucket(b))
		settle(time.Second)
		n.want("one")
		settle(time.Hour)
		st := n.sync.Status()
		if len(st.Refused) != 3 || n.failures(ReasonManifest) != 3 {
			t.Errorf("refused %+v, %v failures", st.Refused, n.failures(ReasonManifest))
		}
	})
}

// A Put that failed may have happened: pushing again, and a copy between regions, end well.
func TestPutsThatFailBothWays(t *testing.T) {
	for _, happened := range []bool{false, true} {
		t.Run(fmt.Sprint("happened ", happened), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, eu, us := newFleet(t), &buckettest.Fake{}, &buckettest.Fake{}
				var n atomic.Int32
				flaky := func(op buckettest.Op, _ string) *buckettest.Fault {
					if op == buckettest.Put && n.Add(1)%2 == 1 {
						return &buckettest.Fault{Err: errDown, Happened: happened}
					}
					return nil
				}
				eu.SetFault(flaky)
				us.SetFault(flaky)
				f.push(eu, "op", "eu", "one", nil)
				far := f.add("us", "us", func(n *testNode) { n.cfg.Own, n.cfg.Remotes = named(us, "us"), []NamedBucket{*named(eu, "eu")} })
				settle(time.Minute)
				far.want("one")
				if got, want := strings.Join(us.Keys(), " "), strings.Join(eu.Keys(), " "); got != want {
					t.Errorf("copied %s, want %s", got, want)
				}
			})
		})
	}
}

// A bucket that may not be written keeps nobody from serving, and the backlog shows.
func TestReadOnlyBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, eu, us := newFleet(t), &buckettest.Fake{}, &buckettest.Fake{}
		fails(us, &buckettest.Fault{Err: bucket.ErrDenied}, buckettest.Put)
		f.push(eu, "op", "eu", "one", nil)
		n := f.add("us", "us", func(n *testNode) { n.cfg.Own, n.cfg.Remotes = named(us, "us"), []NamedBucket{*named(eu, "eu")} })
		settle(time.Minute)
		n.want("one")
		if st := n.sync.Status(); st.Backlog == 0 {
			t.Error("no backlog")
		}
		us.SetFault(nil)
		settle(10 * time.Minute)
		if st := n.sync.Status(); st.Backlog != 0 || len(us.Keys()) != len(eu.Keys()) {
			t.Errorf("backlog %d, %v", st.Backlog, us.Keys())
		}
	})
}

// The version is superseded while it is fetched: the fetch ends, the newer one comes.
func TestSuperseded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		two := f.push(b, "op", "eu", "two", nil)
		b.SetFault(func(op buckettest.Op, key string) *buckettest.Fault {
			if key == BlobKey("m", two.Files[1].SHA256) && op == buckettest.Get {
				return &buckettest.Fault{Hang: true}
			}
			return nil
		})
		n := f.add("a", "eu", withBucket(b))
		settle(time.Second)
		if p := n.sync.Status().Models[0].Progress; p.Digest != two.Digest || p.Step != stepFetch || p.Total != blobBytes() {
			t.Errorf("progress %+v", p)
		}
		f.push(b, "op", "eu", "three", nil)
		n.sync.Look()
		settle(time.Second)
		n.want("three")
	})
}

// The rate limit holds for all parts together.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		f.push(b, "op", "eu", "one", nil)
		n := f.add("a", "eu", func(n *testNode) { withBucket(b)(n); n.cfg.Rate = modelSize / 10 })
		settle(5 * time.Second)
		n.wantNothing()
		settle(10 * time.Second)
		n.want("one")
	})
}
