package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"hash/fnv"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/testlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const fakeDigest = "sha256-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// fakeEmbedder embeds by hashing. It keeps to the contract of an Embedder, and holds its caller to it: what an
// API must not let through is a test failure.
type fakeEmbedder struct {
	t     testing.TB
	dims  int
	max   int           // tokens of one input; a byte is a token
	calls atomic.Int64  // Embed was called
	done  atomic.Int64  // Embed answered without an error
	gate  chan struct{} // not nil: an embed of a text that begins with "wait" waits for it to be closed
	// waiting, when not nil, gets a token from each embed that waits.
	waiting chan struct{}

	mu   sync.Mutex
	last embedding.Request
	fail func(embedding.Request) error // before anything is done
	late func(embedding.Request) error // after it was done, as when the answer is lost
	edit func(*embedding.Result)
}

func newFake(t testing.TB) *fakeEmbedder { return &fakeEmbedder{t: t, dims: 8, max: 64} }

func (f *fakeEmbedder) Embed(ctx context.Context, req embedding.Request) (embedding.Result, error) {
	f.calls.Add(1)
	f.mu.Lock()
	f.last = req
	fail, late, edit := f.fail, f.late, f.edit
	f.mu.Unlock()
	if _, ok := ctx.Deadline(); !ok {
		f.t.Error("Embed was called without a deadline")
	}
	if len(req.Inputs) == 0 {
		f.t.Error("Embed was called without inputs")
	}
	if fail != nil {
		if err := fail(req); err != nil {
			return embedding.Result{}, err
		}
	}
	name, digest := embedding.SplitModel(req.Model)
	if name != "" && name != "default" && name != "minilm" ||
		digest != "" && !strings.HasPrefix(strings.TrimPrefix(fakeDigest, "sha256-"), digest) {
		return embedding.Result{}, &embedding.Error{Code: embedding.CodeModelNotFound, Param: "model",
			Message: "there is no model " + req.Model + " here"}
	}
	if req.Dimensions > f.dims {
		e := embedding.Errorf(embedding.CodeUnprocessable, "dimensions may be %d at most, got %d", f.dims, req.Dimensions)
		e.Param = "dimensions"
		return embedding.Result{}, e
	}
	res := embedding.Result{
		Model:  embedding.Model{Name: "minilm", Digest: fakeDigest, Precision: "fp32"},
		Timing: embedding.Timing{Tokenize: time.Millisecond, Queue: 2 * time.Millisecond, Run: 3 * time.Millisecond},
	}
	cut := make([]int, len(req.Inputs))
	for i, in := range req.Inputs {
		if in.Tokens == nil && in.Text == "" || in.Tokens != nil && len(in.Tokens) == 0 {
			f.t.Errorf("Embed was called with the empty input %d", i)
		}
		if f.gate != nil && strings.HasPrefix(in.Text, "wait") {
			if f.waiting != nil {
				f.waiting <- struct{}{}
			}
			select {
			case <-f.gate:
			case <-ctx.Done():
				return embedding.Result{}, ctx.Err()
			}
		}
		tokens := max(len(in.Text), len(in.Tokens))
		if tokens > f.max {
			if req.Truncate != nil && !*req.Truncate {
				return embedding.Result{}, embedding.Errorf(embedding.CodeUnprocessable,
					"input %d may have %d tokens at most, got %d", i, f.max, tokens)
			}
			cut[i] = tokens - f.max
			res.Truncated = cut
			tokens = f.max
		}
		res.Tokens = append(res.Tokens, tokens)
		res.Vectors = append(res.Vectors, fakeVector(in, req.Dimensions, f.dims))
	}
	if edit != nil {
		edit(&res)
	}
	if late != nil {
		if err := late(req); err != nil {
			return embedding.Result{}, err
		}
	}
	f.done.Add(1)
	return res, nil
}

// hold makes embeds of texts that begin with "wait" wait for gate.
func (f *fakeEmbedder) hold() {
	f.gate, f.waiting = make(chan struct{}), make(chan struct{}, 1000)
}

// editing changes every result from now on.
func (f *fakeEmbedder) editing(edit func(*embedding.Result)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.edit = edit
}

func (f *fakeEmbedder) request() embedding.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// fakeVector is a unit vector that depends on all of in.
func fakeVector(in embedding.Input, dims, all int) []float32 {
	if dims == 0 {
		dims = all
	}
	h := fnv.New64a()
	_, _ = io.WriteString(h, in.Text)
	_ = json.NewEncoder(h).Encode(in.Tokens)
	x := h.Sum64()
	v := make([]float32, dims)
	sum := 0.0
	for i := range v {
		x = x*6364136223846793005 + 1442695040888963407
		v[i] = float32(int32(x>>32)) / (1 << 31)
		sum += float64(v[i]) * float64(v[i])
	}
	for i := range v {
		v[i] /= float32(math.Sqrt(sum))
	}
	return v
}

// fakeNode says what it is told to say.
type fakeNode struct {
	mu     sync.Mutex
	health Health
	models []embedding.ModelInfo
}

func newFakeNode() *fakeNode {
	return &fakeNode{
		health: Health{Live: true, Ready: true, Status: Healthy, Node: "n1", Region: "eu-central-1", Cluster: "edge", Version: "1.2.3",
			Checks: map[string]Check{CheckModelCache: {State: CheckOK}}},
		models: []embedding.ModelInfo{
			{Model: embedding.Model{Name: "minilm", Digest: fakeDigest, Precision: "fp32"}, Aliases: []string{"default"},
				State: embedding.ModelReady, Dimensions: 8, MaxTokens: 64, Pooling: "mean", Provider: "cpu",
				Loaded: time.Unix(1700000000, 0)},
			{Model: embedding.Model{Name: "slow"}, State: embedding.ModelLoading, Reason: "warming up"},
		},
	}
}

func (n *fakeNode) Health() Health {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.health
}

func (n *fakeNode) Models() []embedding.ModelInfo { return n.models }

func (n *fakeNode) set(change func(*Health)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(&n.health)
}

// door is an API with its fakes, its metrics and what it logged.
type door struct {
	*API
	t    testing.TB
	fake *fakeEmbedder
	node *fakeNode
	reg  *prometheus.Registry
	log  *testlog.Buffer
}

func newDoor(t testing.TB, cfg Config) *door {
	t.Helper()
	d := &door{t: t, fake: newFake(t), node: newFakeNode(), reg: prometheus.NewRegistry(), log: &testlog.Buffer{}}
	cfg.NodeName, cfg.Region = "n1", "eu-central-1"
	cfg.Registerer, cfg.Gatherer = d.reg, d.reg
	cfg.Logger = slog.New(slog.NewJSONHandler(d.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if d.API, err = New(cfg, d.fake, d.node); err != nil {
		t.Fatal(err)
	}
	return d
}

// do asks for one route. The headers come in pairs.
func (d *door) do(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	d.Handler().ServeHTTP(w, req)
	return w
}

// metric is the value of a counter or gauge; the labels come in pairs.
func (d *door) metric(name string, labels ...string) float64 {
	d.t.Helper()
	families, err := d.reg.Gather()
	if err != nil {
		d.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			have := map[string]string{}
			for _, l := range m.GetLabel() {
				have[l.GetName()] = l.GetValue()
			}
			matches := true
			for i := 0; i < len(labels); i += 2 {
				matches = matches && have[labels[i]] == labels[i+1]
			}
			if matches {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	d.t.Errorf("there is no metric %s%v", name, labels)
	return math.NaN()
}

func decodeJSON[T any](t testing.TB, body []byte) T {
	t.Helper()
	var v T
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		t.Fatalf("something follows the document: %s", body)
	}
	return v
}

type nativeAnswer struct {
	Embeddings [][]float32
	Model      string
	Dimensions int
	Usage      struct{ Tokens int }
	ServedBy   struct{ Node, Region, Route string } `json:"served_by"`
}

var _ http.Flusher = (*call)(nil)
