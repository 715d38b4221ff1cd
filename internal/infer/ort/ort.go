// Package ort runs models with ONNX Runtime, in this process. It is the only package that uses cgo. The library
// is loaded when the program starts (Load), not linked: a Jetson brings its own build.
package ort

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"

	onnx "github.com/yalue/onnxruntime_go"

	"github.com/akidb/akidbd/internal/infer"
)

// Runtime is the loaded library. A process has one.
type Runtime struct {
	Path    string // of the library
	Version string // of the library, like "1.32.0"
	log     *slog.Logger
	opening sync.Mutex // held while a session is made
}

// Load loads the ONNX Runtime library at path (see FindLibrary). The error names path, version found and version
// needed. ONNX Runtime's own telemetry is off.
func Load(path string, log *slog.Logger) (*Runtime, error) {
	version, err := checkLibrary(path)
	if err != nil {
		return nil, err
	}
	if onnx.IsInitialized() {
		return nil, errors.New("ONNX Runtime is already loaded in this process")
	}
	onnx.SetSharedLibraryPath(path)
	if err := onnx.InitializeEnvironment(onnx.WithLogLevelError()); err != nil {
		return nil, fmt.Errorf("ONNX Runtime library %s, version %s: %w", path, version, err)
	}
	if err := onnx.DisableTelemetry(); err != nil {
		log.Debug("ONNX Runtime's telemetry cannot be switched off in this build", "err", err)
	}
	return &Runtime{Path: path, Version: version, log: log}, nil
}

// LoadOpen loads the library for as long as the process lives, and gives its version and what opens a model with it.
func LoadOpen(library string, log *slog.Logger) (string, infer.Open, error) {
	r, err := Load(library, log)
	if err != nil {
		return "", nil, err
	}
	return r.Version, r.Open, nil
}

// Close ends the library's environment. Every backend must be closed before.
func (r *Runtime) Close() error { return onnx.DestroyEnvironment() }

// Open is an infer.Open: it opens the artifact with the first provider of opt.Providers that works and says
// loudly when that was not the first. The CPU always works as the last resort.
func (r *Runtime) Open(ctx context.Context, a infer.Artifact, opt infer.Options) (infer.Backend, error) {
	if opt.Threads <= 0 {
		opt.Threads = runtime.GOMAXPROCS(0)
	}
	sig, err := readSignature(a)
	if err != nil {
		return nil, err
	}
	var failures []error
	for _, p := range providerOrder(opt.Providers) {
		if err := ctx.Err(); err != nil {
			return nil, errors.Join(append(failures, err)...)
		}
		b, err := r.open(p, a, opt, sig)
		if err == nil {
			if len(failures) > 0 {
				r.log.Error("model does not run on the provider it should", "model", a.Model, "provider", p, "wanted", opt.Providers,
					"err", errors.Join(failures...))
			}
			return b, nil
		}
		failures = append(failures, fmt.Errorf("%s: %w", p, err))
	}
	return nil, errors.Join(failures...)
}

// providerOrder is the asked order with the CPU behind it.
func providerOrder(asked []string) []string {
	order := make([]string, 0, len(asked)+1)
	for _, p := range asked {
		order = append(order, p)
		if p == infer.ProviderCPU {
			return order
		}
	}
	return append(order, infer.ProviderCPU)
}
