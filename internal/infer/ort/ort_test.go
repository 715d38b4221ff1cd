package ort

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/infer/backendtest"
	"github.com/akidb/akidbd/internal/infer/graph"
	"github.com/akidb/akidbd/internal/infer/modeldir"
	"github.com/akidb/akidbd/internal/infer/pooling"
	"github.com/akidb/akidbd/internal/infer/testmodels"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// loadRuntime loads the library that $AKIDB_TEST_ORT names. `make test` sets it.
func loadRuntime(t *testing.T, log *slog.Logger) *Runtime {
	t.Helper()
	path := os.Getenv("AKIDB_TEST_ORT")
	if path == "" {
		t.Skip("AKIDB_TEST_ORT does not name an ONNX Runtime library: run make test")
	}
	r, err := Load(path, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func artifact(t *testing.T, dir string) infer.Artifact {
	t.Helper()
	spec, err := modeldir.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	a := infer.Artifact{Dir: dir, Spec: spec, Model: embedding.Model{Name: filepath.Base(dir), Digest: "sha256-0"}}
	if spec.ONNX != "" {
		a.Graph = filepath.Join(dir, spec.ONNX)
		return a
	}
	a.Graph = filepath.Join(dir, "akidb-graph.onnx")
	if err := graph.Build(dir, a.Graph); err != nil {
		t.Fatal(err)
	}
	return a
}

func open(t *testing.T, r *Runtime, a infer.Artifact) infer.Backend {
	t.Helper()
	b, err := r.Open(t.Context(), a, infer.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func TestConformance(t *testing.T) {
	r := loadRuntime(t, slog.New(slog.DiscardHandler))
	for _, name := range []string{testmodels.BERT, testmodels.ONNXSentence} {
		t.Run(name, func(t *testing.T) {
			a := artifact(t, testmodels.Dir(t, name))
			backendtest.Conformance(t, func(t *testing.T) backendtest.Subject {
				return backendtest.Subject{Backend: open(t, r, a), MaxTokens: a.Spec.MaxTokens, Vocab: a.Spec.Vocab}
			})
		})
	}
}

// TestAgainstReference: every architecture and every pooling gives the vectors of transformers and
// sentence-transformers, in one batch with padding and one by one.
func TestAgainstReference(t *testing.T) {
	r := loadRuntime(t, slog.New(slog.DiscardHandler))
	for _, name := range testmodels.Names() {
		want := testmodels.Load(t, name)
		for _, mode := range pooling.Modes() {
			t.Run(fmt.Sprintf("%s/%s", name, mode), func(t *testing.T) {
				a := artifact(t, testmodels.Dir(t, name))
				if name == testmodels.ONNXSentence && mode != pooling.Mean {
					t.Skip("this graph pools by itself")
				}
				a.Spec.Pooling = mode
				a.Spec.MaxTokens = 60 // the graph has positions for 64, the directory asks for less
				b := open(t, r, a)
				batch, err := b.Run(t.Context(), infer.Batch{Rows: want.Rows})
				if err != nil {
					t.Fatal(err)
				}
				for i, row := range want.Rows {
					single, err := b.Run(t.Context(), infer.Batch{Rows: [][]int32{row}})
					if err != nil {
						t.Fatal(err)
					}
					for how, got := range map[string][]float32{"batch": batch.Vectors[i], "single": single.Vectors[0]} {
						if c := backendtest.Cosine(got, want.Pooled[string(mode)][i]); !(c > 0.99999) {
							t.Errorf("row %d of %d tokens, %s: cosine to the reference is %v", i, len(row), how, c)
						}
					}
				}
			})
		}
	}
}

func TestFallsBackToTheCPULoudly(t *testing.T) {
	var log bytes.Buffer
	r := loadRuntime(t, slog.New(slog.NewTextHandler(&log, nil)))
	a := artifact(t, testmodels.Dir(t, testmodels.BERT))
	b, err := r.Open(t.Context(), a, infer.Options{Threads: 1, Providers: []string{"tensorrt", "cuda"}, CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if p := b.Caps().Provider; p != infer.ProviderCPU {
		t.Skipf("this machine runs %s", p)
	}
	for _, part := range []string{"level=ERROR", "provider=cpu", "tensorrt: ", "cuda: "} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("the log does not say %q: %s", part, log.String())
		}
	}
	if _, err := b.Run(t.Context(), infer.Batch{Rows: [][]int32{{1, 2, 3}}}); err != nil {
		t.Error(err)
	}
}

func TestUnknownProvider(t *testing.T) {
	var log bytes.Buffer
	r := loadRuntime(t, slog.New(slog.NewTextHandler(&log, nil)))
	a := artifact(t, testmodels.Dir(t, testmodels.BERT))
	b, err := r.Open(t.Context(), a, infer.Options{Threads: 1, Providers: []string{"npu"}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if !strings.Contains(log.String(), `unknown execution provider \"npu\"`) {
		t.Errorf("the log does not name the provider: %s", log.String())
	}
}

// TestAbort: a run ends soon after its context, and the next one is not hurt.
func TestAbort(t *testing.T) {
	r := loadRuntime(t, slog.New(slog.DiscardHandler))
	a := artifact(t, testmodels.Dir(t, testmodels.BERT))
	b := open(t, r, a)
	rng := rand.New(rand.NewPCG(1, 1))
	big := infer.Batch{}
	for range b.Caps().MaxTokens / a.Spec.MaxTokens {
		row := make([]int32, a.Spec.MaxTokens)
		for i := range row {
			row[i] = int32(rng.IntN(a.Spec.Vocab))
		}
		big.Rows = append(big.Rows, row)
	}
	aborted := 0
	for i := range 50 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*50*time.Microsecond)
		_, err := b.Run(ctx, big)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			aborted++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if aborted == 0 {
		t.Error("no run was aborted")
	}
	if _, err := b.Run(t.Context(), big); err != nil {
		t.Error(err)
	}
}

func TestSignalHandlersArePutBack(t *testing.T) {
	const sigUSR2 = 12
	for range 2 { // a second time: the first one put it back
		n := keepSignalHandlers(func() {
			if !plantSignalHandler(sigUSR2) {
				t.Fatal("the handler cannot be planted")
			}
		})
		if n != 1 {
			t.Errorf("%d handlers were put back, want 1", n)
		}
	}
	if n := keepSignalHandlers(func() {}); n != 0 {
		t.Errorf("%d handlers were put back though none was replaced", n)
	}
}

// TestEngineKey: engines of TensorRT are kept apart by everything they are bound to. ONNX Runtime itself tells
// two models of one topology and different weights not apart.
func TestEngineKey(t *testing.T) {
	base := func() (infer.Artifact, infer.Options, string, gpuInfo) {
		return infer.Artifact{Model: embedding.Model{Digest: "sha256-a"}}, infer.Options{}, "1.22.0", gpuInfo{"100300", "87"}
	}
	a, o, v, g := base()
	keys := map[string]bool{engineKey(a, o, v, g): true}
	for name, change := range map[string]func(){
		"weights": func() { a.Model.Digest = "sha256-b" }, "precision": func() { o.Precision = "fp16" },
		"onnx runtime": func() { v = "1.23.0" }, "tensorrt": func() { g.tensorRT = "100400" }, "gpu": func() { g.arch = "101" },
	} {
		a, o, v, g = base()
		change()
		k := engineKey(a, o, v, g)
		if keys[k] {
			t.Errorf("another %s gives the same directory %s", name, k)
		}
		keys[k] = true
	}
}

func TestTensorRTOptions(t *testing.T) {
	cache := t.TempDir()
	r := &Runtime{Version: "1.22.0"}
	a := infer.Artifact{Spec: modeldir.Spec{MaxTokens: 256}, Model: embedding.Model{Digest: "sha256-a"}}
	sig := signature{inputs: []input{{name: "input_ids"}, {name: "attention_mask", role: inputMask}}}
	o, err := r.tensorRTOptions(a, infer.Options{Precision: "fp16", CacheDir: cache}, sig)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"trt_fp16_enable":         "1",
		"trt_profile_min_shapes":  "input_ids:1x1,attention_mask:1x1",
		"trt_profile_max_shapes":  "input_ids:64x256,attention_mask:64x256",
		"trt_engine_cache_enable": "1",
	} {
		if o[key] != want {
			t.Errorf("%s is %q, want %q", key, o[key], want)
		}
	}
	if info, err := os.Stat(o["trt_engine_cache_path"]); err != nil || !info.IsDir() || !strings.HasPrefix(o["trt_engine_cache_path"], cache) {
		t.Errorf("engines go to %q: %v", o["trt_engine_cache_path"], err)
	}
	o, err = r.tensorRTOptions(a, infer.Options{}, sig)
	if err != nil || o["trt_fp16_enable"] != "" || o["trt_engine_cache_path"] != "" {
		t.Errorf("fp32 without a cache: %v, %v", o, err)
	}
}

// TestLoadTwice: a process has one runtime, and it can be loaded again after it was closed.
func TestLoadTwice(t *testing.T) {
	r := loadRuntime(t, slog.New(slog.DiscardHandler))
	if _, err := Load(r.Path, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a second runtime was loaded")
	}
}
