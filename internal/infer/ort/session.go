package ort

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	onnx "github.com/yalue/onnxruntime_go"

	"github.com/akidb/akidbd/internal/infer"
)

// gpuTokens is the padded tokens of one run on a GPU.
const gpuTokens = 16384

// What a run costs besides its rows, in padded tokens. CPU: measured with MiniLM (docs/benchmarks.md), a run of n
// tokens takes about as long as 8+n. GPU: an estimate, launching some hundred kernels costs as much as computing
// some hundred tokens.
const (
	cpuRunOverhead = 8
	gpuRunOverhead = 256
)

// tensorRTRows bounds the rows of a run: outside the shapes of its profile an engine does not run.
const tensorRTRows = 64

// gpuLanes: a second run fills the gaps in which the first one copies.
const gpuLanes = 2

// open opens the artifact on one provider.
func (r *Runtime) open(provider string, a infer.Artifact, opt infer.Options, sig signature) (*backend, error) {
	b := &backend{
		sig: sig, spec: a.Spec, done: make(chan struct{}),
		caps: infer.Caps{Provider: provider, Lanes: opt.Threads, MaxTokens: max(4096, a.Spec.MaxTokens), Dimensions: a.Spec.Hidden, RunOverhead: cpuRunOverhead},
	}
	if provider != infer.ProviderCPU {
		b.caps.Lanes, b.caps.MaxTokens, b.caps.RunOverhead = gpuLanes, max(gpuTokens, a.Spec.MaxTokens), gpuRunOverhead
	}
	if provider == infer.ProviderTensorRT {
		b.caps.MaxRows = tensorRTRows
	}
	if opt.Precision == "fp16" && provider != infer.ProviderTensorRT {
		b.caps.Precision = "fp32"
	}
	var err error
	if b.narrow, err = r.session(provider, a, opt, sig, 1); err != nil {
		return nil, err
	}
	if provider == infer.ProviderCPU && opt.Threads > 1 {
		if b.wide, err = r.session(provider, a, opt, sig, opt.Threads); err != nil {
			return nil, errors.Join(err, b.narrow.Destroy())
		}
		b.caps.Wide = true
	}
	return b, nil
}

// session makes one session. Go's signal handlers survive it.
func (r *Runtime) session(provider string, a infer.Artifact, opt infer.Options, sig signature, threads int) (*onnx.DynamicAdvancedSession, error) {
	so, err := sessionOptions(threads)
	if err != nil {
		return nil, err
	}
	defer func() { _ = so.Destroy() }()
	var s *onnx.DynamicAdvancedSession
	r.opening.Lock() // two at once would each take the other's handlers for ours
	defer r.opening.Unlock()
	changed := keepSignalHandlers(func() {
		if err = r.appendProvider(so, provider, a, opt, sig); err == nil {
			s, err = onnx.NewDynamicAdvancedSession(a.Graph, sig.inputNames(), []string{sig.output.Name}, so)
		}
	})
	if changed > 0 {
		r.log.Debug("put back signal handlers that a provider replaced", "provider", provider, "signals", changed)
	}
	return s, err
}

// sessionOptions: sequential execution with all optimizations. One thread per run when many run at once; all of
// them, spinning while the run lasts, for a run that has the machine for itself. The memory pattern would keep
// one plan per shape, and shapes vary with every batch.
func sessionOptions(threads int) (*onnx.SessionOptions, error) {
	so, err := onnx.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	spin := "0"
	if threads > 1 {
		spin = "1"
	}
	err = errors.Join(
		so.SetIntraOpNumThreads(threads),
		so.SetInterOpNumThreads(1),
		so.SetExecutionMode(onnx.ExecutionModeSequential),
		so.SetGraphOptimizationLevel(onnx.GraphOptimizationLevelEnableAll),
		so.SetMemPattern(false),
		so.AddSessionConfigEntry("session.intra_op.allow_spinning", spin),
		so.AddSessionConfigEntry("session.force_spinning_stop", "1"),
	)
	if err != nil {
		return nil, errors.Join(err, so.Destroy())
	}
	return so, nil
}

func (r *Runtime) appendProvider(so *onnx.SessionOptions, provider string, a infer.Artifact, opt infer.Options, sig signature) error {
	switch provider {
	case infer.ProviderCPU:
		return nil
	case infer.ProviderCUDA:
		return appendCUDA(so)
	case infer.ProviderTensorRT:
		options, err := r.tensorRTOptions(a, opt, sig)
		if err != nil {
			return err
		}
		trt, err := onnx.NewTensorRTProviderOptions()
		if err != nil {
			return err
		}
		defer func() { _ = trt.Destroy() }()
		if err := trt.Update(options); err != nil {
			return err
		}
		if err := so.AppendExecutionProviderTensorRT(trt); err != nil {
			return err
		}
		return appendCUDA(so) // for what TensorRT leaves out
	}
	return fmt.Errorf("unknown execution provider %q, known are tensorrt, cuda and cpu", provider)
}

func appendCUDA(so *onnx.SessionOptions) error {
	cuda, err := onnx.NewCUDAProviderOptions()
	if err != nil {
		return err
	}
	defer func() { _ = cuda.Destroy() }()
	if err := cuda.Update(cudaOptions()); err != nil {
		return err
	}
	return so.AppendExecutionProviderCUDA(cuda)
}

// cudaOptions: memory grows by what is asked for, not by powers of two, because a Jetson's GPU shares the RAM;
// cuDNN does not search for algorithms at every new shape.
func cudaOptions() map[string]string {
	return map[string]string{
		"device_id":                 "0",
		"arena_extend_strategy":     "kSameAsRequested",
		"cudnn_conv_algo_search":    "HEURISTIC",
		"do_copy_in_default_stream": "1",
	}
}

// tensorRTOptions also makes the directory that keeps the built engines: a build takes minutes on an Orin.
func (r *Runtime) tensorRTOptions(a infer.Artifact, opt infer.Options, sig signature) (map[string]string, error) {
	o := map[string]string{"device_id": "0"}
	if opt.Precision == "fp16" {
		o["trt_fp16_enable"] = "1"
	}
	shapes := func(rows, tokens int) string {
		var list []string
		for _, in := range sig.inputs {
			list = append(list, fmt.Sprintf("%s:%dx%d", in.name, rows, tokens))
		}
		return strings.Join(list, ",")
	}
	if sig.has(inputPast) {
		return nil, errors.New("graphs with past_key_values have no profile for TensorRT")
	}
	longest := a.Spec.MaxTokens
	o["trt_profile_min_shapes"] = shapes(1, 1)
	o["trt_profile_opt_shapes"] = shapes(tensorRTRows/2, min(64, longest))
	o["trt_profile_max_shapes"] = shapes(tensorRTRows, longest)
	if opt.CacheDir == "" {
		return o, nil
	}
	dir := filepath.Join(opt.CacheDir, "tensorrt", engineKey(a, opt, r.Version, gpu()))
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	o["trt_engine_cache_enable"], o["trt_engine_cache_path"] = "1", dir
	o["trt_timing_cache_enable"], o["trt_timing_cache_path"] = "1", dir
	return o, nil
}

// engineKey names the directory of a model's engines. ONNX Runtime takes an engine of the same topology for its
// own even if the weights differ, so the digest is part of it; engines are bound to the versions and the GPU.
func engineKey(a infer.Artifact, opt infer.Options, version string, g gpuInfo) string {
	precision := opt.Precision
	if precision == "" {
		precision = "fp32"
	}
	return fmt.Sprintf("%s-%s-ort%s-trt%s-sm%s", a.Model.Digest, precision, version, g.tensorRT, g.arch)
}
