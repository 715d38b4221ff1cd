package sync

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/sync/bucket/buckettest"
)

// A plain layout is read once for each of its states, also when a file goes and the time of the youngest stays, and
// when it is as it was before.
func TestPlainLayoutIsReadOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		b := &buckettest.Fake{Now: f.now}
		n := f.add("a", "eu", withBucket(b))
		for p, data := range contents("one") {
			b.Set("models/m/"+p, []byte(data))
		}
		time.Sleep(time.Second)
		b.Set("models/m/extra.json", []byte("{}")) // the youngest
		settle(15 * time.Minute)
		n.want("one")
		with := n.engine.Serving("m")
		if err := b.Delete(t.Context(), "models/m/extra.json"); err != nil {
			t.Fatal(err)
		}
		settle(15 * time.Minute)
		without := manifestOf("m", "", noon, contents("one")).Digest
		if got := n.engine.Serving("m"); got != without || got == with {
			t.Errorf("serves %s, want %s", got, without)
		}
		settle(2 * time.Hour)
		if got := b.BytesRead("model.safetensors"); got > 2*modelSize {
			t.Errorf("%d copies of the model were read", got/modelSize)
		}
		b.Set("models/m/extra.json", []byte("{}"))
		settle(15 * time.Minute)
		if got := n.engine.Serving("m"); got != with {
			t.Errorf("serves %s, want %s again", got, with)
		}
	})
}

// A plain layout that is no model is told once, and not read.
func TestPlainLayoutThatIsNoModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		b := &buckettest.Fake{Now: f.now}
		n := f.add("a", "eu", withBucket(b))
		for p, data := range contents("one") {
			b.Set("models/m/"+p, []byte(data))
		}
		for i := range 1100 {
			b.Set(fmt.Sprintf("models/m/file-%04d.json", i), []byte("x"))
		}
		settle(time.Hour)
		if got := b.BytesRead("models/m/"); got > 0 {
			t.Errorf("%d bytes were read", got)
		}
		if n.failures(ReasonUnavailable)+n.failures(ReasonManifest) != 1 {
			t.Errorf("told %v times", n.failures(ReasonUnavailable)+n.failures(ReasonManifest))
		}
		if err := n.sync.Healthy(); err != nil {
			t.Errorf("the bucket is not healthy: %v", err)
		}
	})
}

// A bucket that stops in the middle of a file holds up neither looks nor the node for long.
func TestPlainLayoutThatStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		b := &buckettest.Fake{Now: f.now}
		for p, data := range contents("one") {
			b.Set("models/m/"+p, []byte(data))
		}
		b.SetFault(func(op buckettest.Op, key string) *buckettest.Fault {
			if op == buckettest.Get && key == "models/m/model.safetensors" {
				return &buckettest.Fault{Hang: true}
			}
			return nil
		})
		n := f.add("a", "eu", withBucket(b))
		settle(2 * time.Minute)
		if n.failures(ReasonUnavailable) == 0 {
			t.Error("the stall is not told")
		}
		b.SetFault(nil)
		settle(15 * time.Minute)
		n.want("one")
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
