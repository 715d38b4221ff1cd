package sync

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/akidb/akidbd/internal/node"
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

func TestClockAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		n := f.add("a", "eu", withBucket(b))
		f.push(b, "op", "eu", "one", nil)
		n.sync.Look()
		settle(time.Second)
		ahead := f.push(b, "fast", "eu", "two", func(m *Manifest) { m.Clock = ClockAt(f.now().Add(20 * time.Minute)) })
		n.sync.Look()
		settle(time.Second)
		n.want("one")
		st := n.sync.Status()
		if len(st.Refused) != 1 || st.Refused[0].ID != ahead.ID() || st.Refused[0].Reason != ReasonClock {
			t.Errorf("refused: %+v", st.Refused)
		}
		if n.failures(ReasonClock) != 1 {
			t.Errorf("%v failures by the clock, want one for all looks", n.failures(ReasonClock))
		}
		// It does not push the clock of this node ahead, so that what is published here now still wins over "one".
		if c := n.sync.Clock(); c.Time().After(f.now().Add(time.Minute)) {
			t.Errorf("the clock followed to %v", c.Time())
		}
		settle(30 * time.Minute) // when its time has come, it counts
		n.want("two")

		unset := f.add("unset", "eu", func(n *testNode) { withBucket(b)(n); n.skew = -50 * 365 * 24 * time.Hour })
		settle(time.Second)
		unset.want("two")
		if unset.sync.Status().ClockSet {
			t.Error("a clock in 1976 counts as set")
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

func TestPlainLayout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		b := &buckettest.Fake{Now: f.now}
		nodes := []*testNode{f.add("a", "eu", withBucket(b)), f.add("b", "eu", withBucket(b))}
		set := func(files map[string]string) {
			for p, data := range files {
				b.Set("models/m/"+p, []byte(data))
			}
		}
		half := contents("one")
		delete(half, "tokenizer.json")
		half["README.md"] = "not served"
		set(half)
		for _, n := range nodes {
			n.sync.Look()
		}
		settle(5 * time.Second)
		set(contents("one")) // the copy goes on: the second look sees something else
		settle(11 * time.Second)
		for _, n := range nodes {
			n.wantNothing()
		}
		settle(10 * time.Minute)
		want := manifestOf("m", "", noon, contents("one")).Digest
		for _, n := range nodes {
			n.want("one")
			if got := n.engine.Serving("m"); got != want {
				t.Errorf("digest %s, want %s", got, want)
			}
		}
		set(contents("two"))
		settle(15 * time.Minute)
		for _, n := range nodes {
			n.want("two")
		}
		// A push later than the copy by hand wins.
		f.push(b, "op", "eu", "three", nil)
		settle(6 * time.Minute)
		for _, n := range nodes {
			n.want("three")
		}
	})
}

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

// Only what a manifest names is given out: not what was built here, not what else lies in the store.
func TestOnlyManifestsAreGivenOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		m := f.push(b, "op", "eu", "one", nil)
		n := f.add("a", "eu", withBucket(b))
		settle(time.Second)
		entries, err := n.store.List()
		if err != nil || len(entries) != 1 {
			t.Fatal(entries, err)
		}
		built := []byte("an engine")
		if err := os.WriteFile(filepath.Join(entries[0].Dir, "akidb-engine.trt"), built, 0o600); err != nil {
			t.Fatal(err)
		}
		other, err := n.store.Import(t.Context(), "private", writeDir(t, map[string]string{"config.json": "private"}), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, sha := range []string{sum(built), sum([]byte("private")), other.Model.Digest, "", "../../../../etc/passwd", strings.Repeat("0", 64)} {
			if r, err := n.sync.Blob(t.Context(), sha, 0, -1); !errors.Is(err, ErrNoBlob) {
				if err == nil {
					r.Close()
				}
				t.Errorf("%q is given out: %v", sha, err)
			}
		}
		file := m.Files[1]
		for _, c := range []struct{ offset, length int64 }{{-1, 1}, {0, file.Size + 1}, {file.Size + 1, 0}, {file.Size, 1}} {
			if r, err := n.sync.Blob(t.Context(), file.SHA256, c.offset, c.length); err == nil {
				r.Close()
				t.Errorf("%d bytes from %d of %d are given out", c.length, c.offset, file.Size)
			}
		}
		for _, sha := range []string{n.sync.Catalog(), file.SHA256} {
			r, err := n.sync.Blob(t.Context(), sha, 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(r)
			if err := errors.Join(err, r.Close()); err != nil || sum(data) != sha {
				t.Errorf("%s gives %d bytes, %v", sha, len(data), err)
			}
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
