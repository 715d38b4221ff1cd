package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/akidb/akidbd/internal/config"
	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/infer/ort"
	"github.com/akidb/akidbd/internal/infer/worker"
	"github.com/akidb/akidbd/internal/telemetry"
)

// backendOpener is what computes: ONNX Runtime in worker processes, or in this one.
type backendOpener struct {
	open  infer.Open
	close func() error
}

// loadBackend finds and loads the library, where engine.isolation says. Its errors are for the operator: a restart
// does not help.
func loadBackend(ctx context.Context, cfg *config.Config, tel *telemetry.Telemetry) (*backendOpener, error) {
	path, err := ort.FindLibrary(cfg.Engine.LibraryPath)
	if err != nil {
		return nil, err
	}
	if cfg.Engine.Isolation == "none" {
		runtime, err := ort.Load(path, tel.Logger)
		if err != nil {
			return nil, err
		}
		tel.Logger.Info("onnx runtime loaded", "path", runtime.Path, "version", runtime.Version)
		return &backendOpener{withFaults(runtime.Open), runtime.Close}, nil
	}
	host := worker.NewHost(worker.Config{Library: path, Logger: tel.Logger, Registerer: tel.Registry})
	version, err := host.Start(ctx)
	if err != nil {
		_ = host.Close() // the first error is the one to mend
		return nil, fmt.Errorf("engine worker: %w", err)
	}
	tel.Logger.Info("onnx runtime loaded by a worker", "path", path, "version", version)
	return &backendOpener{host.Open, host.Close}, nil
}

func workerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "worker",
		Short:  "Compute for the daemon that started this process",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_ = os.WriteFile("/proc/self/comm", []byte("akidbd-worker"), 0) // else top and the kernel's logs call it exe
			return worker.Main(func(library string, log *slog.Logger) (string, infer.Open, error) {
				version, open, err := ort.LoadOpen(library, log)
				return version, withFaults(open), err
			})
		},
	}
}
