package infer

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/infer/modeldir"
)

// Artifact is a verified model on disk, ready to be opened by a Backend.
type Artifact struct {
	Dir   string        // model directory in the node's own store; never written by others while open
	Graph string        // path of the ONNX graph, absolute
	Spec  modeldir.Spec // what config.json and its neighbours say
	Model embedding.Model
}

// Caps is what an opened Backend can do. It does not change while the Backend is open.
type Caps struct {
	Provider  string // execution provider in use: "cpu", "cuda" or "tensorrt"
	Precision string // of the computation; "" means as asked
	MaxRows   int    // rows of one Run; 0 means that only MaxTokens limits them
	Lanes     int    // calls of Run that gain from running at once, >= 1
	MaxTokens int    // padded tokens (rows x longest row) of one Run, >= Spec.MaxTokens
	// RunOverhead is what one Run costs besides its rows, in padded tokens: the engine weighs padding against it
	// when it fills a batch. 0 means that padding never pays.
	RunOverhead int
	Wide        bool // Run obeys Batch.Wide: one call may use all cores
	Dimensions  int  // length of a pooled vector
}

// Batch is token rows that are computed together. It is plain data: it fits over a socket.
type Batch struct {
	Rows [][]int32 // ids per input, specials included, not padded, each of 1 to Spec.MaxTokens
	Wide bool      // use all cores for this one; ignored without Caps.Wide
}

// PaddedTokens is rows x longest row: what the batch costs.
func (b Batch) PaddedTokens() int {
	longest := 0
	for _, r := range b.Rows {
		longest = max(longest, len(r))
	}
	return longest * len(b.Rows)
}

// Output answers a Batch: one pooled vector per row, not normalized.
type Output struct {
	Vectors [][]float32
}

// Backend turns token batches into pooled vectors: ONNX Runtime in this process (infer/ort), or anything
// else that passes backendtest.Conformance.
//
//   - Run is safe for concurrent use; it returns when the computation ended, and after ctx ends it aborts the
//     computation if it can and returns ctx's error. It does not keep Batch or its rows after it returned.
//   - A Run that fails hits its own batch only; other calls go on.
//   - Done is closed when the backend is lost for good: every call in flight and after fails.
//   - Close waits for calls in flight, frees everything and closes Done. Calling it again does nothing.
type Backend interface {
	Caps() Caps
	Run(ctx context.Context, b Batch) (Output, error)
	Done() <-chan struct{}
	Close() error
}

// SafeRun runs the batch and checks what comes back: a panic of the backend, and an answer of other rows or dimensions
// than asked, are errors that hit this batch only.
func SafeRun(ctx context.Context, b Backend, batch Batch) (out Output, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in the backend: %v\n%s", p, debug.Stack())
		}
	}()
	if out, err = b.Run(ctx, batch); err == nil {
		err = out.check(len(batch.Rows), b.Caps().Dimensions)
	}
	return out, err
}

func (o Output) check(rows, dims int) error {
	if len(o.Vectors) != rows {
		return fmt.Errorf("the backend answered %d vectors for %d rows", len(o.Vectors), rows)
	}
	for _, v := range o.Vectors {
		if len(v) != dims {
			return fmt.Errorf("the backend answered a vector of %d dimensions, the model has %d", len(v), dims)
		}
	}
	return nil
}

// Hosted is a Backend in a process of its own. The engine looks for it.
type Hosted interface {
	Backend
	Process() Process
	// Err is why Done was closed; nil while the Backend lives and after a Close.
	Err() error
	// Kill ends the process, with the calls in flight. It does not wait.
	Kill(reason string)
}

// Process is one process as its host knows it.
type Process struct {
	PID int
	RSS uint64 // resident memory in bytes, about a second old
}

// Open opens an Artifact. ctx bounds the opening only.
type Open func(ctx context.Context, a Artifact, opt Options) (Backend, error)

// Options tunes a Backend; the zero value serves on the CPU with all cores.
type Options struct {
	Providers []string // execution providers in order of preference; empty means cpu
	Threads   int      // cores to use; 0 means what the cgroup and the affinity mask give
	CacheDir  string   // for TensorRT's engines; "" means none are kept
	Precision string   // "fp32" or "fp16" where the provider can; "" means fp32
}

// Names of execution providers.
const (
	ProviderCPU      = "cpu"
	ProviderCUDA     = "cuda"
	ProviderTensorRT = "tensorrt"
)
