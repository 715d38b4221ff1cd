//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/akidb/akidbd/internal/infer/testmodels"
)

func (n *node) get(path string) []byte {
	n.t.Helper()
	res, err := http.Get(n.url + path)
	if err != nil {
		n.t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		n.t.Fatalf("%s: %d, %v", path, res.StatusCode, err)
	}
	return data
}

// tinyModel is a model of a few kilobytes that is another version for each tag.
func tinyModel(t *testing.T, tag string) string {
	t.Helper()
	dir := testmodels.Dir(t, testmodels.BERT)
	if err := os.WriteFile(filepath.Join(dir, "tag.json"), fmt.Appendf(nil, "%q", tag), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A model that is pushed in one region serves in the other: a large one in less than 5 s, a small one in less than 1 s
// after it was published, with real S3 servers.
func TestSyncTwoRegions(t *testing.T) {
	f := newSyncFleet(t, "m", 1, "eu", "us")
	f.startNodes()
	zero := f.run(0, "push", tinyModel(t, "zero"), "--name", "m", "--wait", "30s")
	f.serves(1, zero.Digest, 20*time.Second) // from here on both have started
	for _, c := range []struct {
		what, dir string
		limit     float64 // seconds
	}{{"small", tinyModel(t, "one"), 1}, {"large", need(t, "AKIDB_TEST_MODEL"), 5}} {
		p := f.run(0, "push", c.dir, "--name", "m", "--wait", "30s")
		if !p.Serving {
			t.Fatalf("%s: this node does not serve it", c.what)
		}
		f.serves(1, p.Digest, 20*time.Second)
		here, there := f.nodes[0].metric(`akidb_sync_lag_seconds{model="m"}`), f.nodes[1].metric(`akidb_sync_lag_seconds{model="m"}`)
		t.Logf("%s: serves after %.2f s in its region, %.2f s in the other; the push took %.2f s", c.what, here, there, p.Seconds)
		if there > c.limit {
			t.Errorf("%s: served in the other region after %.2f s, the limit is %v s", c.what, there, c.limit)
		}
	}
	f.nodes[1].until(20*time.Second, func() bool { return f.keys(f.regions[0]) == f.keys(f.regions[1]) })
	f.nodes[1].until(20*time.Second, func() bool { return f.nodes[1].metric("akidb_sync_replication_backlog_objects") == 0 })
	a, err := f.nodes[0].embed(t.Context(), http.DefaultClient, "the same vector everywhere")
	if err != nil {
		t.Fatal(err)
	}
	b, err := f.nodes[1].embed(t.Context(), http.DefaultClient, "the same vector everywhere")
	if err != nil || fmt.Sprint(a.Embeddings) != fmt.Sprint(b.Embeddings) {
		t.Errorf("the vectors differ, %v", err)
	}

	// The winner of two pushes at once is the same everywhere, and can be rolled back.
	var wg sync.WaitGroup
	pushed := make([]published, 2)
	dirs := []string{tinyModel(t, "of eu"), tinyModel(t, "of us")}
	for i := range pushed {
		wg.Go(func() { pushed[i] = f.run(i, "push", dirs[i], "--name", "m") })
	}
	wg.Wait()
	winner, loser := pushed[0], pushed[1]
	if loser.Manifest > winner.Manifest {
		winner, loser = loser, winner
	}
	for i := range f.nodes {
		f.serves(i, winner.Digest, 10*time.Second)
	}
	f.nodes[1].until(20*time.Second, func() bool { return f.keys(f.regions[0]) == f.keys(f.regions[1]) })
	if keys := f.keys(f.regions[0]); !strings.Contains(keys, winner.Manifest) || !strings.Contains(keys, loser.Manifest) {
		t.Errorf("not both versions are in the buckets: %s", keys)
	}
	back := f.run(1, "rollback", "m")
	if back.Digest != loser.Digest {
		t.Errorf("rolled back to %s, want %s", back.Digest, loser.Digest)
	}
	for i := range f.nodes {
		f.serves(i, loser.Digest, 10*time.Second)
	}
	// Deleting the store of a node and starting it again gives the same digest.
	f.nodes[1].kill()
	for _, dir := range []string{"models", "sync"} {
		if err := os.RemoveAll(filepath.Join(f.dir, f.names[1], "state", dir)); err != nil {
			t.Fatal(err)
		}
	}
	f.nodes[1] = f.startNode(1)
	f.nodes[1].url = f.nodes[1].address()
	f.serves(1, loser.Digest, 20*time.Second)
}

// Four nodes that start together read one copy from S3.
func TestSyncColdStart(t *testing.T) {
	f := newSyncFleet(t, "m", 4, "eu")
	bucket := []string{"--bucket", "s3://models-eu", "--endpoint", "http://" + f.regions[0].addr, "--path-style", "--socket", "/none"}
	f.akidbd(nil, append([]string{"model", "push", need(t, "AKIDB_TEST_MODEL"), "--name", "m"}, bucket...)...)
	f.startNodes()
	var s3 float64
	for i, n := range f.nodes {
		n.until(60*time.Second, func() bool { s := f.status(i).Models[0]; return s.Serving != "" && s.Serving == s.Wanted })
		s3 += n.metric(`akidb_sync_received_bytes_total{source="s3"}`)
	}
	var version struct{ Bytes float64 }
	list := []struct{ Bytes float64 }{}
	if err := json.Unmarshal(f.akidbd(nil, append([]string{"model", "versions", "m", "--json"}, bucket...)...), &list); err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	version = list[0]
	t.Logf("%.1f MB were read from S3 by four nodes, the model has %.1f MB", s3/1e6, version.Bytes/1e6)
	if s3 > 1.1*version.Bytes {
		t.Errorf("%.0f bytes were read from S3, one copy has %.0f", s3, version.Bytes)
	}
}

// kill -9 at whatever step: the next start serves the version, and nothing is torn.
func TestSyncKill(t *testing.T) {
	f := newSyncFleet(t, "m", 1, "eu")
	f.startNodes()
	small := f.run(0, "push", tinyModel(t, "one"), "--name", "m", "--wait", "20s")
	for round := range 8 {
		old := f.status(0).Models[0].Serving
		dir := t.TempDir()
		for _, name := range []string{"config.json", "tokenizer.json", "model.safetensors"} {
			if err := os.Link(filepath.Join(need(t, "AKIDB_TEST_MODEL"), name), filepath.Join(dir, name)); err != nil {
				data, rerr := os.ReadFile(filepath.Join(need(t, "AKIDB_TEST_MODEL"), name))
				if rerr != nil {
					t.Fatal(err, rerr)
				}
				if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "tag.json"), fmt.Appendf(nil, "%d", round), 0o644); err != nil {
			t.Fatal(err)
		}
		p := f.run(0, "push", dir, "--name", "m")
		time.Sleep(rand.N(1500 * time.Millisecond))
		_ = f.nodes[0].cmd.Process.Signal(syscall.SIGKILL)
		f.nodes[0].kill()
		f.nodes[0] = f.startNode(0)
		f.nodes[0].url = f.nodes[0].address()
		f.serves(0, p.Digest, 20*time.Second)
		if out, err := f.try(0, "model", "verify"); err != nil {
			t.Errorf("round %d: %s, %v", round, out, err)
		}
		if old == p.Digest {
			t.Errorf("round %d served the new version before it was published", round)
		}
	}
	if entries, err := os.ReadDir(filepath.Join(f.dir, f.names[0], "state", "models", "m")); err != nil || len(entries) > 4 {
		t.Errorf("the store keeps %d entries of %s, %v", len(entries), small.Digest, err)
	}
}

// The bucket goes away: what serves goes on, a push fails and says why, and all is well by itself when it is back.
func TestSyncBucketDown(t *testing.T) {
	f := newSyncFleet(t, "m", 1, "eu")
	f.more = "  interval: 10s\n"
	f.startNodes()
	one := f.run(0, "push", tinyModel(t, "one"), "--name", "m", "--wait", "20s")
	f.stopS3(f.regions[0].s3)
	if _, err := f.try(0, "model", "push", tinyModel(t, "two"), "--name", "m"); err == nil {
		t.Error("a push into a bucket that is down succeeded")
	}
	_, _ = f.try(0, "model", "pull", "--wait", "1s")
	f.nodes[0].until(30*time.Second, func() bool { return f.status(0).Buckets[0].Error != "" })
	if _, err := f.nodes[0].embed(t.Context(), http.DefaultClient, "still here"); err != nil {
		t.Error(err)
	}
	// Down at the start, too.
	f.nodes[0].kill()
	f.nodes[0] = f.startNode(0)
	f.nodes[0].url = f.nodes[0].address()
	f.serves(0, one.Digest, 10*time.Second)
	f.startS3(f.regions[0])
	two := f.run(0, "push", tinyModel(t, "two"), "--name", "m")
	f.serves(0, two.Digest, 30*time.Second)
	f.nodes[0].until(30*time.Second, func() bool { return f.status(0).Buckets[0].Error == "" })
}

// A version that loads but fails its golden check is quarantined with its reason; the old one serves on.
func TestSyncGolden(t *testing.T) {
	f := newSyncFleet(t, "m", 1, "eu")
	f.startNodes()
	one := f.run(0, "push", tinyModel(t, "one"), "--name", "m", "--wait", "20s")
	a, err := f.nodes[0].embed(t.Context(), http.DefaultClient, "a text")
	if err != nil {
		t.Fatal(err)
	}
	bad := tinyModel(t, "bad")
	vector := make([]float32, len(a.Embeddings[0]))
	vector[0] = 1
	golden, err := json.Marshal(map[string]any{"texts": []string{"a text"}, "vectors": [][]float32{vector}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bad, "golden.json"), golden, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := f.try(0, "model", "push", bad, "--name", "m", "--wait", "20s")
	if err == nil || !strings.Contains(err.Error(), "golden.json") {
		t.Errorf("push said %s, %v", out, err)
	}
	m := f.status(0).Models[0]
	if m.Serving != one.Digest || len(m.Trouble) != 1 || !m.Trouble[0].Quarantined || m.Trouble[0].Reason != "load" || !strings.Contains(m.Trouble[0].Text, "cosine") {
		t.Errorf("status: %+v", m)
	}
	if f.nodes[0].metric(`akidb_sync_failures_total{reason="load"}`) == 0 || f.nodes[0].metric(`akidb_sync_quarantined_versions{model="m"}`) != 1 {
		t.Error("no metric tells of it")
	}
	if !strings.Contains(f.nodes[0].log.String(), "a version is not served") {
		t.Error("no log tells of it")
	}
	f.run(0, "push", tinyModel(t, "three"), "--name", "m", "--wait", "20s")
}

// Under steady load versions come and go: no request fails, every answer is of one version, and memory stays bounded.
func TestSyncSwapUnderLoad(t *testing.T) {
	f := newSyncFleet(t, "m", 1, "eu")
	f.startNodes()
	dirs := []string{tinyModel(t, "even"), tinyModel(t, "odd")}
	f.run(0, "push", dirs[0], "--name", "m", "--wait", "20s")
	ctx, stop := context.WithCancel(t.Context())
	var done, failed atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				a, err := f.nodes[0].embed(context.Background(), http.DefaultClient, "a text", "another text", "a third")
				if err != nil || len(a.Embeddings) != 3 {
					t.Errorf("request: %v", err)
					failed.Add(1)
				}
				done.Add(1)
			}
		})
	}
	const swaps = 50
	var first float64
	for i := range swaps {
		p := f.run(0, "push", dirs[(i+1)%2], "--name", "m", "--wait", "20s")
		f.serves(0, p.Digest, time.Second)
		if i == 1 {
			first = f.nodes[0].rss()
		}
	}
	last := f.nodes[0].rss()
	stop()
	wg.Wait()
	t.Logf("%d requests over %d swaps, %d failed; %.0f MB of memory after the second, %.0f MB after the last", done.Load(), swaps, failed.Load(), first, last)
	if failed.Load() > 0 || done.Load() < 1000 {
		t.Errorf("%d of %d requests failed", failed.Load(), done.Load())
	}
	if last > 1.3*first {
		t.Errorf("memory grew from %.0f to %.0f MB", first, last)
	}
}

// Only what a trusted key signed is taken.
func TestSyncSigned(t *testing.T) {
	f := newSyncFleet(t, "m", 1, "eu")
	key := filepath.Join(f.dir, "key")
	f.akidbd(nil, "model", "keygen", "--out", key, "--no-password")
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	f.more = "  trusted_keys: [" + strings.TrimSpace(strings.SplitN(string(public), "\n", 2)[1]) + "]\n"
	f.startNodes()
	if _, err := f.try(0, "model", "push", tinyModel(t, "stolen"), "--name", "m", "--wait", "2s"); err == nil {
		t.Error("an unsigned version is served")
	}
	p := f.run(0, "push", tinyModel(t, "one"), "--name", "m", "--key", key, "--wait", "20s")
	if !p.Serving {
		t.Error("the signed version is not served")
	}
}

// A version is staged, moved to one node, then to all, listed, pinned, deleted, and collected.
func TestSyncCommands(t *testing.T) {
	f := newSyncFleet(t, "m", 1, "eu", "us")
	f.startNodes()
	one := f.run(0, "push", tinyModel(t, "one"), "--name", "m", "--wait", "20s", "--note", "the first")
	f.serves(1, one.Digest, 10*time.Second)
	two := f.run(0, "push", tinyModel(t, "two"), "--name", "m", "--stage")
	version := "m@" + strings.TrimPrefix(two.Digest, "sha256-")[:12]
	f.run(0, "activate", version, "--node", f.names[1])
	f.serves(1, two.Digest, 10*time.Second)
	if got := f.status(0).Models[0].Serving; got != one.Digest {
		t.Errorf("the canary is served by the other node too: %s", got)
	}
	if out, err := f.try(1, "model", "pin", version); err != nil {
		t.Errorf("%s, %v", out, err)
	}
	out, err := f.try(1, "model", "versions", "m")
	if err != nil || !strings.Contains(string(out), "current serving here pinned") || !strings.Contains(string(out), "publish, node us-0") || !strings.Contains(string(out), "the first") {
		t.Errorf("versions:\n%s%v", out, err)
	}
	f.run(0, "activate", version)
	f.serves(0, two.Digest, 10*time.Second)
	f.run(1, "rm", version)
	for i := range f.nodes {
		f.serves(i, one.Digest, 10*time.Second)
	}
	if _, err := f.try(0, "model", "rm", "m"); err == nil || !strings.Contains(err.Error(), "--yes") {
		t.Errorf("all versions can be deleted without --yes: %v", err)
	}
	before := f.keys(f.regions[0])
	if out, err := f.try(0, "model", "gc", "m", "--grace", "0s", "--keep", "1"); err != nil || !strings.Contains(string(out), "removed 0 versions of m, 1 files") {
		t.Errorf("gc: %s%v", out, err) // the tag of the deleted version; the rest is of both
	}
	if after := f.keys(f.regions[0]); len(after) >= len(before) {
		t.Errorf("the bucket has\n%s", after)
	}
	to := t.TempDir()
	if out, err := f.try(0, "model", "pull", "m", "--to", to); err != nil {
		t.Errorf("pull: %s%v", out, err)
	}
	if data, err := os.ReadFile(filepath.Join(to, "tag.json")); err != nil || string(data) != `"one"` {
		t.Errorf("pulled %s, %v", data, err)
	}
	if out, err := f.try(0, "model", "verify", "--bucket", "s3://models-eu", "--endpoint", "http://"+f.regions[0].addr, "--path-style"); err != nil {
		t.Errorf("verify: %s%v", out, err)
	}
}
