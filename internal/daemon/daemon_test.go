package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/akidb/akidbd/internal/api"
	"github.com/akidb/akidbd/internal/config"
	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/infer/backendtest"
	"github.com/akidb/akidbd/internal/infer/testmodels"
	"github.com/akidb/akidbd/internal/node"
	"github.com/akidb/akidbd/internal/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a whole node over a fake backend, in this process.
type rig struct {
	*Daemon
	cfg   *config.Config
	fake  atomic.Pointer[backendtest.Fake]
	fail  atomic.Pointer[error] // of the next opens
	url   string
	stop  context.CancelFunc
	ended chan error
	once  sync.Once
}

func newRig(t *testing.T, change func(*config.Config)) *rig {
	t.Helper()
	return newRigWith(t, func(*Options) {}, change)
}

func newRigWith(t *testing.T, options func(*Options), change func(*config.Config)) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{cfg: config.Default(), ended: make(chan error, 1)}
	r.cfg.Node.Name, r.cfg.Node.Region, r.cfg.Node.Cluster = "n1", "eu", "c1"
	r.cfg.Listen[0].Address = "127.0.0.1:0"
	r.cfg.Admin.Socket = filepath.Join(dir, "a.sock")
	r.cfg.StateDir, r.cfg.CacheDir = filepath.Join(dir, "state"), filepath.Join(dir, "cache")
	r.cfg.DrainDelay = 0
	r.cfg.Models = []config.Model{{Name: "tiny", Path: testmodels.Dir(t, testmodels.BERTGeluNew), Precision: "fp32"}}
	if change != nil {
		change(r.cfg)
	}
	running := *r.cfg
	opt := Options{
		Config: &running, Load: func() (*config.Config, error) { c := *r.cfg; return &c, c.Validate() },
		Open: r.open, Telemetry: telemetry.New(telemetry.Config{}, io.Discard), Version: "test",
	}
	options(&opt)
	var err error
	r.Daemon, err = New(opt)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.ended <- r.Run(ctx) }()
	t.Cleanup(func() { r.end(t) })
	r.url = "http://" + r.Addrs()[0].String()
	<-r.Loaded()
	return r
}

// end stops the node; the second time does nothing.
func (r *rig) end(t *testing.T) {
	t.Helper()
	r.once.Do(func() {
		r.stop()
		if err := <-r.ended; err != nil {
			t.Errorf("the node ended with %v", err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
}

func (r *rig) open(_ context.Context, a infer.Artifact, _ infer.Options) (infer.Backend, error) {
	if err := r.fail.Load(); err != nil {
		return nil, *err
	}
	f := backendtest.NewFake(infer.Caps{Provider: "cpu", Lanes: 2, MaxTokens: 512, Dimensions: a.Spec.Hidden, Wide: true}, a.Spec.MaxTokens)
	r.fake.Store(f)
	return f, nil
}

func (r *rig) get(t *testing.T, path string) (int, string) {
	t.Helper()
	res, err := http.Get(r.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func (r *rig) embed(t *testing.T, body string) (int, string, http.Header) {
	t.Helper()
	res, err := http.Post(r.url+"/api/v1/embed", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(data), res.Header
}

func TestNodeServes(t *testing.T) {
	r := newRig(t, nil)
	status, body, header := r.embed(t, `{"texts": ["one", "two"]}`)
	var got struct {
		Embeddings [][]float32
		Model      string
		ServedBy   struct{ Node, Region, Route string } `json:"served_by"`
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil || status != http.StatusOK {
		t.Fatalf("%d %s: %v", status, body, err)
	}
	if len(got.Embeddings) != 2 || !strings.HasPrefix(got.Model, "tiny@") || got.ServedBy.Node != "n1" || got.ServedBy.Region != "eu" || got.ServedBy.Route != "local" {
		t.Errorf("got %+v", got)
	}
	if header.Get("x-akidb-node") != "n1" || header.Get("x-akidb-model") != got.Model {
		t.Errorf("headers %v", header)
	}
	if status, body := r.get(t, "/metrics"); status != http.StatusOK ||
		!strings.Contains(body, `akidb_infer_model_info{digest="sha256-`) || !strings.Contains(body, "akidb_router_decisions_total") {
		t.Errorf("metrics: %d", status)
	}
	if s := r.Status(); s.State != "ready" || s.Health != "healthy" || len(s.Models) != 1 || len(s.Listeners) != 2 {
		t.Errorf("status %+v", s)
	}
}

// TestReadiness: without a model the node is not ready and unhealthy, with one of two it is ready and degraded.
func TestReadiness(t *testing.T) {
	empty := newRig(t, func(c *config.Config) { c.Models = nil })
	if status, body := empty.get(t, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "no model is configured") {
		t.Errorf("without models: %d %s", status, body)
	}
	if status, _ := empty.get(t, "/livez"); status != http.StatusOK {
		t.Errorf("without models the node is not live: %d", status)
	}
	if status, _ := empty.get(t, "/health"); status != http.StatusServiceUnavailable {
		t.Errorf("health without models: %d", status)
	}
	half := newRig(t, func(c *config.Config) {
		c.Models = append(c.Models, config.Model{Name: "gone", Path: "/nowhere", Precision: "fp32"})
	})
	if status, _ := half.get(t, "/readyz"); status != http.StatusOK {
		t.Errorf("with one model of two: %d", status)
	}
	status, body := half.get(t, "/health")
	if status != http.StatusOK || !strings.Contains(body, `"degraded"`) || !strings.Contains(body, "gone") {
		t.Errorf("health with one model of two: %d %s", status, body)
	}
}

// TestReadinessFollowsTheBackend: a node whose backend is lost and cannot be opened again is not ready within a
// second.
func TestReadinessFollowsTheBackend(t *testing.T) {
	r := newRig(t, nil)
	err := errors.New("no device")
	r.fail.Store(&err)
	r.fake.Load().Lose()
	began := time.Now()
	for r.Health().Ready {
		if time.Since(began) > time.Second {
			t.Fatal("still ready a second after the backend was lost")
		}
		time.Sleep(time.Millisecond)
	}
	if status, body, _ := r.embed(t, `{"text": "one"}`); status != http.StatusServiceUnavailable || strings.Contains(body, "no device") && !strings.Contains(body, "tiny") {
		t.Errorf("%d %s", status, body)
	}
	r.fail.Store(nil)
	for end := time.Now().Add(10 * time.Second); !r.Health().Ready; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not ready again")
		}
	}
}

// TestGoldenVectorsAreChecked: the fake does not compute what the model's golden.json says, so the model must
// not serve.
func TestGoldenVectorsAreChecked(t *testing.T) {
	r := newRig(t, func(c *config.Config) { c.Models[0].Path = testmodels.Dir(t, testmodels.BERT) })
	if status, body := r.get(t, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "golden.json") {
		t.Errorf("%d %s", status, body)
	}
}

func TestReload(t *testing.T) {
	r := newRig(t, nil)
	second := testmodels.Dir(t, testmodels.DistilBERT)
	r.cfg.Models = append(r.cfg.Models[:1:1], config.Model{Name: "second", Path: second, Precision: "fp32"})
	r.cfg.API.MaxInputs = 1
	r.cfg.Log.Level = "debug"
	r.cfg.StateDir = "/elsewhere"
	done, err := r.Reload(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(done.NeedsRestart) != "[state_dir]" || !strings.Contains(fmt.Sprint(done.Applied), "api.max_inputs") {
		t.Errorf("applied %v, needs restart %v", done.Applied, done.NeedsRestart)
	}
	if status, _, _ := r.embed(t, `{"text": "one", "model": "second"}`); status != http.StatusOK {
		t.Errorf("the new model answers %d", status)
	}
	if status, body, _ := r.embed(t, `{"texts": ["one", "two"]}`); status != http.StatusUnprocessableEntity || !strings.Contains(body, "2") {
		t.Errorf("two inputs at max_inputs 1: %d %s", status, body)
	}

	r.cfg.Models = r.cfg.Models[1:]
	if _, err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, _, _ := r.embed(t, `{"text": "one", "model": "tiny"}`); status != http.StatusNotFound {
		t.Errorf("a removed model answers %d", status)
	}
	if status, _, _ := r.embed(t, `{"text": "one"}`); status != http.StatusOK {
		t.Errorf("the default after the first model was removed answers %d", status)
	}

	r.cfg.API.MaxInputs = -1
	if _, err := r.Reload(t.Context()); err == nil {
		t.Error("an invalid configuration was taken")
	}
	if status, _, _ := r.embed(t, `{"text": "one"}`); status != http.StatusOK {
		t.Error("after a failed reload the node does not answer")
	}
}

// TestReloadMovesTheDefaultAndRepairs: the default follows the order of the list, and what failed is tried again
// although the configuration did not change.
func TestReloadMovesTheDefaultAndRepairs(t *testing.T) {
	r := newRig(t, nil)
	late := filepath.Join(t.TempDir(), "late")
	first := r.cfg.Models[0]
	r.cfg.Models = []config.Model{{Name: "late", Path: late, Precision: "fp32"}, first}
	if _, err := r.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "late") {
		t.Fatalf("a model without files: %v", err)
	}
	if status, _, _ := r.embed(t, `{"text": "one", "model": "tiny"}`); status != http.StatusOK {
		t.Errorf("the other model answers %d", status)
	}
	if err := os.CopyFS(late, os.DirFS(testmodels.Dir(t, testmodels.DistilBERT))); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, body, _ := r.embed(t, `{"text": "one"}`); !strings.Contains(body, `"late@`) {
		t.Errorf("the default is not the first model: %.200s", body)
	}
	before := r.fake.Load()
	if _, err := r.Reload(t.Context()); err != nil || r.fake.Load() != before {
		t.Errorf("a reload without a change opened a model again: %v", err)
	}
}

// TestReloadKeepsWhatServes: a model whose successor cannot be loaded serves on under all its names, and goes when the
// successor is there.
func TestReloadKeepsWhatServes(t *testing.T) {
	r := newRig(t, nil)
	late := filepath.Join(t.TempDir(), "late")
	r.cfg.Models = []config.Model{{Name: "late", Path: late, Precision: "fp32", Default: true}}
	if _, err := r.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "late") {
		t.Fatalf("a model without files: %v", err)
	}
	for _, body := range []string{`{"text": "one", "model": "tiny"}`, `{"text": "one"}`} {
		if status, got, _ := r.embed(t, body); status != http.StatusOK || !strings.Contains(got, `"tiny@`) {
			t.Errorf("%s after the reload failed: %d %.200s", body, status, got)
		}
	}
	if status, _ := r.get(t, "/readyz"); status != http.StatusOK {
		t.Errorf("/readyz is %d", status)
	}
	if err := os.CopyFS(late, os.DirFS(testmodels.Dir(t, testmodels.DistilBERT))); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, got, _ := r.embed(t, `{"text": "one"}`); status != http.StatusOK || !strings.Contains(got, `"late@`) {
		t.Errorf("the default after the second reload: %d %.200s", status, got)
	}
	if status, _, _ := r.embed(t, `{"text": "one", "model": "tiny"}`); status != http.StatusNotFound {
		t.Errorf("the model that is gone answers %d", status)
	}
}

// TestNewSaysWhatCannotBeHad and leaves nothing open.
func TestNewSaysWhatCannotBeHad(t *testing.T) {
	r := newRig(t, nil)
	try := func(change func(*config.Config)) error {
		cfg := *r.cfg
		cfg.Listen = []config.Listen{{Address: "127.0.0.1:0", Roles: []string{"public"}}}
		cfg.StateDir = filepath.Join(t.TempDir(), "state")
		cfg.Admin.Socket = filepath.Join(t.TempDir(), "b.sock")
		change(&cfg)
		_, err := New(Options{Config: &cfg, Open: r.open, Telemetry: telemetry.New(telemetry.Config{}, io.Discard)})
		return err
	}
	for name, c := range map[string]struct {
		change func(*config.Config)
		want   string
	}{
		"port":   {func(c *config.Config) { c.Listen[0].Address = r.Addrs()[0].String() }, "listen.address " + r.Addrs()[0].String()},
		"state":  {func(c *config.Config) { c.StateDir = r.cfg.StateDir }, "in use by"},
		"socket": {func(c *config.Config) { c.Admin.Socket = r.cfg.Admin.Socket }, "another akidbd answers"},
		"keys":   {func(c *config.Config) { c.API.KeysFile = "/nowhere/keys" }, "/nowhere/keys"},
	} {
		if err := try(c.change); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if err := try(func(*config.Config) {}); err != nil {
		t.Errorf("a good configuration: %v", err)
	}
}

// TestDrainKeepsAnswering: a draining node is not ready but answers until its delay is over.
func TestDrainKeepsAnswering(t *testing.T) {
	r := newRig(t, func(c *config.Config) { c.DrainDelay = config.Duration(500 * time.Millisecond) })
	r.stop()
	for r.Health().Ready {
		time.Sleep(time.Millisecond)
	}
	if status, body := r.get(t, "/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "draining") {
		t.Errorf("readyz %d %s", status, body)
	}
	if status, _, _ := r.embed(t, `{"text": "one"}`); status != http.StatusOK {
		t.Errorf("a request while draining: %d", status)
	}
	if h := r.Health(); h.Status != api.Healthy || h.Reason == "" {
		t.Errorf("health %+v", h)
	}
}

func TestDrainByAnOperator(t *testing.T) {
	r := newRig(t, nil)
	<-r.Loaded()
	if state, err := r.SetDrain(true); err != nil || state != node.Draining {
		t.Fatalf("drain: %s, %v", state, err)
	}
	if code, body := r.get(t, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "akidbd undrain") {
		t.Errorf("readiness of a drained node: %d %s", code, body)
	}
	if code, body, _ := r.embed(t, `{"text":"x"}`); code != http.StatusOK {
		t.Errorf("a drained node must answer what still comes: %d %s", code, body)
	}
	if state, err := r.SetDrain(false); err != nil || state != node.Ready {
		t.Fatalf("undrain: %s, %v", state, err)
	}
	if code, body := r.get(t, "/readyz"); code != http.StatusOK {
		t.Errorf("readiness after undrain: %d %s", code, body)
	}
}

func TestModelsOfADaemonAreTheEngines(t *testing.T) {
	r := newRig(t, nil)
	m := r.Models()
	if len(m) != 1 || m[0].State != embedding.ModelReady || fmt.Sprint(m[0].Aliases) != "[default]" || m[0].Model.Precision != "fp32" {
		t.Errorf("got %+v", m)
	}
}
