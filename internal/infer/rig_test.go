package infer_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/infer/backendtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testDims      = 8
	testMaxTokens = 256
)

// modelDir writes a model directory whose words are w0 to w99. Its graph is never run: the backend is a fake.
func modelDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	vocab := []string{`"[PAD]":0,"[UNK]":1,"[CLS]":2,"[SEP]":3`}
	for i := range 100 {
		vocab = append(vocab, fmt.Sprintf(`"w%d":%d`, i, i+4))
	}
	files := map[string]string{
		"config.json": fmt.Sprintf(`{"model_type":"bert","hidden_size":%d,"vocab_size":104,"max_position_embeddings":%d}`, testDims, testMaxTokens),
		"tokenizer.json": `{"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},
			"pre_tokenizer":{"type":"BertPreTokenizer"},
			"post_processor":{"type":"BertProcessing","sep":["[SEP]",3],"cls":["[CLS]",2]},
			"model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{` + strings.Join(vocab, ",") + `}}}`,
		"model.onnx": "\x3a\x03\x12\x01g", // a graph called g with nothing in it
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// words is a text of n tokens, specials included, different for different seeds.
func words(n, seed int) string {
	list := make([]string, n-2)
	for i := range list {
		list[i] = fmt.Sprintf("w%d", (seed+i*i)%100)
		if i > 0 && seed >= 100 {
			list[i] = fmt.Sprintf("w%d", (seed/100+i)%100)
		}
	}
	return strings.Join(list, " ")
}

// rig is an engine over fakes, one per open.
type rig struct {
	*infer.Engine
	t     *testing.T
	dir   string
	stop  context.CancelFunc
	ended chan error

	mu    sync.Mutex
	fakes []*backendtest.Fake
	fail  error // of the next opens
	knobs backendtest.Knobs
	caps  infer.Caps
}

func newRig(t *testing.T, change func(*infer.Config)) *rig {
	t.Helper()
	r := &rig{t: t, dir: modelDir(t), caps: infer.Caps{Provider: "cpu", Lanes: 2, MaxTokens: 4096, Dimensions: testDims, RunOverhead: 8, Wide: true}}
	cfg := infer.Config{Open: r.open, Options: infer.Options{Threads: 2}, Registerer: prometheus.NewRegistry()}
	if change != nil {
		change(&cfg)
	}
	var err error
	if r.Engine, err = infer.New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop, r.ended = cancel, make(chan error, 1)
	go func() { r.ended <- r.Run(ctx) }()
	t.Cleanup(r.close)
	return r
}

func (r *rig) close() {
	r.stop()
	if err := <-r.ended; err != nil {
		r.t.Errorf("engine: %v", err)
	}
	r.ended <- nil
}

func (r *rig) open(context.Context, infer.Artifact, infer.Options) (infer.Backend, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return nil, r.fail
	}
	f := backendtest.NewFake(r.caps, testMaxTokens)
	f.Set(r.knobs)
	r.fakes = append(r.fakes, f)
	return f, nil
}

func (r *rig) install(name string) *backendtest.Fake {
	r.t.Helper()
	return r.installVersion(name, "1", infer.Settings{Aliases: []string{"default"}})
}

func (r *rig) installVersion(name, digit string, s infer.Settings) *backendtest.Fake {
	r.t.Helper()
	m := embedding.Model{Name: name, Digest: "sha256-" + strings.Repeat(digit, 64)}
	if err := r.Install(r.t.Context(), m, r.dir, s); err != nil {
		r.t.Fatal(err)
	}
	return r.newest()
}

func (r *rig) newest() *backendtest.Fake {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fakes[len(r.fakes)-1]
}

func (r *rig) ask(texts ...string) (embedding.Result, error) {
	req := embedding.Request{}
	for _, t := range texts {
		req.Inputs = append(req.Inputs, embedding.Input{Text: t})
	}
	return r.Embed(r.t.Context(), req)
}

func code(err error) embedding.Code {
	if err == nil {
		return ""
	}
	return embedding.AsError(err).Code
}

func wantCode(t *testing.T, err error, want embedding.Code, parts ...string) {
	t.Helper()
	if code(err) != want {
		t.Fatalf("got %v, want code %s", err, want)
	}
	for _, p := range parts {
		if !strings.Contains(embedding.AsError(err).Message, p) {
			t.Errorf("message %q does not say %q", embedding.AsError(err).Message, p)
		}
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(end) {
			t.Fatal("the condition did not come true in 10 s")
		}
	}
}

var errTest = errors.New("planted")
