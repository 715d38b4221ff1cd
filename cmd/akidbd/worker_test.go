package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/infer/backendtest"
	"github.com/akidb/akidbd/internal/infer/modeldir"
	"github.com/akidb/akidbd/internal/infer/testmodels"
	"github.com/akidb/akidbd/internal/infer/worker"
)

// TestWorkerConforms: ONNX Runtime behind `akidbd worker` is the backend that it is without. The worker is this test
// binary: run as worker it is akidbd (TestMain).
func TestWorkerConforms(t *testing.T) {
	library := os.Getenv("AKIDB_TEST_ORT")
	if library == "" {
		t.Skip("AKIDB_TEST_ORT does not name an ONNX Runtime library: run make test")
	}
	dir := testmodels.Dir(t, testmodels.ONNXSentence)
	spec, err := modeldir.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	a := infer.Artifact{Dir: dir, Graph: filepath.Join(dir, spec.ONNX), Spec: spec, Model: embedding.Model{Name: "m", Digest: "sha256-0"}}
	host := worker.NewHost(worker.Config{Command: []string{"/proc/self/exe", "worker"}, Name: "akidbd", Library: library})
	t.Cleanup(func() {
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	})
	backendtest.Conformance(t, func(t *testing.T) backendtest.Subject {
		b, err := host.Open(t.Context(), a, infer.Options{Threads: 2})
		if err != nil {
			t.Fatal(err)
		}
		return backendtest.Subject{Backend: b, MaxTokens: spec.MaxTokens, Vocab: spec.Vocab}
	})
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(maps, []byte("libonnxruntime")) {
		t.Error("ONNX Runtime is loaded in the host process")
	}
}
