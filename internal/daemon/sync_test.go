package daemon

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/akidb/akidbd/internal/api"
	"github.com/akidb/akidbd/internal/config"
	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/infer/testmodels"
	"github.com/akidb/akidbd/internal/store"
	modelsync "github.com/akidb/akidbd/internal/sync"
)

// publish has a node import a directory and publish it, as `akidbd model push` does where there is no bucket.
func (r *rig) publish(t *testing.T, name, dir string) string {
	t.Helper()
	files, err := r.adminSync().Import(t.Context(), name, dir)
	if err != nil {
		t.Fatal(err)
	}
	m := modelsync.NewManifest(modelsync.KindPublish, name, r.self.ID, r.self.Region)
	for _, f := range files {
		m.Files = append(m.Files, store.File(f))
	}
	m.Digest = store.Digest(m.Files)
	r.say(t, m)
	return m.Digest
}

// tagged is a model that is another version for each tag.
func tagged(t *testing.T, tag string) string {
	t.Helper()
	dir := testmodels.Dir(t, testmodels.BERTGeluNew)
	if err := os.WriteFile(filepath.Join(dir, "tag.json"), []byte(tag), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// say publishes a manifest with the clock of now.
func (r *rig) say(t *testing.T, m *modelsync.Manifest) {
	t.Helper()
	clock, err := modelsync.ParseClock(r.adminSync().Clock())
	if err != nil {
		t.Fatal(err)
	}
	m.Clock = clock
	raw, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.adminSync().Publish(raw); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) serves(name string) string { return installer{r.Daemon}.Serving(name) }

// A fleet without any bucket: what is published on one node serves on all, in both regions.
func TestModelsArriveThroughPeers(t *testing.T) {
	fleet := newFleet(t, 4, func(_ int, c *config.Config) {
		c.Models = []config.Model{{Name: "tiny", Precision: "fp32"}}
	})
	if code, body := fleet[1].get(t, "/readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("a fleet without a model is ready: %d %s", code, body)
	}
	await := func(digest string) {
		t.Helper()
		for _, r := range fleet {
			eventually(t, 20*time.Second, string(r.self.ID)+" serves it", func() bool { return r.serves("tiny") == digest })
		}
	}
	first := fleet[0].publish(t, "tiny", tagged(t, "first"))
	await(first)
	for _, r := range fleet {
		if code, body, _ := r.embed(t, `{"text": "hello"}`); code != http.StatusOK {
			t.Errorf("%s: %d %s", r.self.ID, code, body)
		}
	}
	second := fleet[3].publish(t, "tiny", tagged(t, "second"))
	await(second)
	st := fleet[1].adminSync().SyncStatus()
	if len(st.Models) != 1 || st.Models[0].Serving != second || st.Models[0].Wanted != second || !st.UnsignedAccepted || !st.ClockSet {
		t.Errorf("status: %+v", st)
	}
	if v := fleet[2].adminSync().Versions(""); len(v) != 2 || !v[0].Current || !v[0].Serving || v[1].Current {
		t.Errorf("versions: %+v", v)
	}

	// Settings that change go over to what serves.
	fleet[0].cfg.Models = []config.Model{{Name: "tiny", Precision: "fp32", Aliases: []string{"small"}}}
	if _, err := fleet[0].Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if code, body, _ := fleet[0].embed(t, `{"text": "hello", "model": "small"}`); code != http.StatusOK || fleet[0].serves("tiny") != second {
		t.Errorf("the new alias: %d %s", code, body)
	}

	gone := modelsync.NewManifest(modelsync.KindDelete, "tiny", fleet[1].self.ID, "eu")
	fleet[1].say(t, gone)
	await("")
	eventually(t, 5*time.Second, "nobody answers for it", func() bool { // a word is a quarter of a second old
		code, _, _ := fleet[0].embed(t, `{"text": "hello"}`)
		return code != http.StatusOK
	})
	if i := slices.IndexFunc(fleet[0].Models(), func(m embedding.ModelInfo) bool { return strings.Contains(m.Reason, "deleted") }); i < 0 {
		t.Errorf("models: %+v", fleet[0].Models())
	}
}

// The bucket's health is told, and a bucket that is down does not make a node unready.
func TestBucketIsDown(t *testing.T) {
	for _, v := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		t.Setenv(v, "x")
	}
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	r := newRig(t, func(c *config.Config) {
		c.Sync.Bucket, c.Sync.Endpoint, c.Sync.PathStyle = "s3://models", "http://127.0.0.1:1", true
		c.Models = append(c.Models, config.Model{Name: "late", Precision: "fp32"})
	})
	eventually(t, 20*time.Second, "the check fails", func() bool {
		h := r.Health()
		return h.Checks[api.CheckS3].State == api.CheckFailing
	})
	if h := r.Health(); !h.Ready || h.Status != api.Degraded {
		t.Errorf("health: %+v", h)
	}
	if st := r.adminSync().SyncStatus(); len(st.Buckets) != 1 || !strings.Contains(st.Buckets[0].Err, "refused") {
		t.Errorf("status: %+v", st)
	}
}

// A lone node without a bucket has nothing that models could arrive by.
func TestNothingToSync(t *testing.T) {
	r := newRig(t, nil)
	if r.adminSync() != nil || r.word().Catalog != "" {
		t.Error("a lone node syncs")
	}
	if h := r.Health(); h.Checks[api.CheckS3].State != api.CheckDisabled || h.Status != api.Healthy {
		t.Errorf("health: %+v", h)
	}
}

// hubOf is a Hub that has one model under org/tiny.
func hubOf(t *testing.T, dir string, commit *atomic.Pointer[string], asked *atomic.Int64) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := *commit.Load()
		if path, ok := strings.CutPrefix(r.URL.Path, "/org/tiny/resolve/"+c+"/"); ok {
			asked.Add(1)
			http.ServeFile(w, r, filepath.Join(dir, filepath.FromSlash(path)))
			return
		}
		var siblings []map[string]any
		err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			data, err := os.ReadFile(p)
			sum := sha256.Sum256(data)
			rel, _ := filepath.Rel(dir, p)
			siblings = append(siblings, map[string]any{"rfilename": filepath.ToSlash(rel), "size": len(data), "lfs": map[string]any{"sha256": hex.EncodeToString(sum[:]), "size": len(data)}})
			return err
		})
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"sha": c, "siblings": siblings})
	}))
	t.Cleanup(func() { srv.Close(); http.DefaultClient.CloseIdleConnections() })
	t.Setenv("HF_ENDPOINT", srv.URL)
	return srv
}

func TestModelOfTheHub(t *testing.T) {
	var commit atomic.Pointer[string]
	var asked atomic.Int64
	first, second := strings.Repeat("a", 40), strings.Repeat("b", 40)
	commit.Store(&first)
	dir := tagged(t, "first")
	srv := hubOf(t, dir, &commit, &asked)
	r := newRig(t, func(c *config.Config) {
		c.Models = []config.Model{{Name: "tiny", Path: "hf://org/tiny", Precision: "fp32"}}
	})
	files, err := store.Hash(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := store.Digest(files); r.serves("tiny") != want {
		t.Fatalf("serves %q, want %q: %+v", r.serves("tiny"), want, r.Models())
	}
	before := asked.Load()
	if _, err := r.Reload(t.Context()); err != nil || asked.Load() != before {
		t.Errorf("a reload fetched %d files again, %v", asked.Load()-before, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "added.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	old := r.serves("tiny")
	commit.Store(&second)
	if _, err := r.Reload(t.Context()); err != nil || r.serves("tiny") == old {
		t.Errorf("a new commit is not served, %v", err)
	}
	// Without the Hub, what it gave last serves on.
	srv.Close()
	now := r.serves("tiny")
	if _, err := r.Reload(t.Context()); err != nil || r.serves("tiny") != now {
		t.Errorf("without the Hub: %s, %v", r.serves("tiny"), err)
	}
	if left, err := os.ReadDir(filepath.Join(r.opt.Config.StateDir, "hub", "tiny")); err != nil || len(left) != 1 {
		t.Errorf("left of the download: %v, %v", left, err)
	}
}
