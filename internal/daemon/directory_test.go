package daemon

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/node"
)

func TestMerge(t *testing.T) {
	word := func(epoch, seq uint64, s node.State) node.Word { return node.Word{Epoch: epoch, Seq: seq, State: s} }
	told := []node.Info{
		{ID: "a", Region: "eu", Addr: "a:1", Word: word(1, 5, node.Ready)},
		{ID: "b", Region: "eu", Word: word(1, 9, node.Draining)},
		{ID: "c", Region: "us", Word: word(1, 1, node.Ready)},
	}
	linked := []node.Info{
		{ID: "a", Region: "eu", Word: word(1, 4, node.Starting), Link: node.Link{Up: true, Known: true}},
		{ID: "b", Region: "eu", Word: word(1, 8, node.Ready), Link: node.Link{Known: true, Cause: "timeout"}},
		{ID: "d", Region: "us", Word: word(1, 1, node.Ready), Link: node.Link{Up: true, Known: true}},
		{ID: "e", Region: "us", Word: word(1, 1, node.Ready), Link: node.Link{Known: true}},
	}
	got := merge(told, linked)
	var ids []node.ID
	for _, n := range got {
		ids = append(ids, n.ID)
	}
	if !slices.Equal(ids, []node.ID{"a", "b", "c", "d"}) {
		t.Fatalf("got %v: a node with a link that is up is there without gossip, one without either is not", ids)
	}
	if a := got[0]; a.Word.State != node.Starting || a.Addr != "a:1" || !a.Link.Up {
		t.Errorf("a node's own word on its link comes first: %+v", a)
	}
	if b := got[1]; b.Word.State != node.Draining || b.Link.Cause != "timeout" {
		t.Errorf("gossip speaks for a node whose link is down: %+v", b)
	}
	if c := got[2]; c.Link.Known {
		t.Errorf("no link: %+v", c)
	}
}

func TestDirectoryFollowsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDirectory()
		told := []node.Info{{ID: "a"}}
		ctx, cancel := context.WithCancel(t.Context())
		go d.run(ctx, func() []node.Info { return told }, func() []node.Info { return nil })
		synctest.Wait()
		if n := d.Nodes(); len(n) != 1 {
			t.Fatalf("got %v", n)
		}
		told = []node.Info{{ID: "a"}, {ID: "b"}}
		d.changed()
		d.changed()
		synctest.Wait()
		if n := d.Nodes(); len(n) != 2 {
			t.Fatalf("after a change: %v", n)
		}
		cancel()
	})
}

func TestEpochGrowsWithEachStart(t *testing.T) {
	dir := t.TempDir()
	clock := time.Unix(1000, 0)
	for i, c := range []struct {
		now  time.Time
		want uint64
	}{{clock, 1000}, {clock, 1001}, {time.Unix(0, 0), 1002}, {time.Unix(2000, 0), 2000}} {
		if got, err := nextEpoch(dir, c.now); err != nil || got != c.want {
			t.Errorf("start %d: %d, %v; want %d", i, got, err, c.want)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "epoch"), []byte("torn\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := nextEpoch(dir, time.Unix(3000, 0)); err != nil || got != 3000 {
		t.Errorf("after a torn write: %d, %v", got, err)
	}
}
