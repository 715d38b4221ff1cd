// Command bench measures the whole server against what the machine can do: ONNX Runtime with perfect batches,
// in the same process and the same run, interleaved. It prints ratios, because absolute figures belong to a
// machine. `make bench` runs it; docs/benchmarks.md keeps the results.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/akidb/akidbd/internal/infer/ort"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "worker" {
		if err := beWorker(); err != nil {
			fmt.Fprintln(os.Stderr, "bench worker:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.StringVar(&o.library, "library", "", "ONNX Runtime library")
	flag.StringVar(&o.model, "model", "", "directory of all-MiniLM-L6-v2")
	flag.DurationVar(&o.step, "step", 10*time.Second, "length of one measurement")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds; the median counts")
	only := flag.String("only", "ceiling,full,lone,open", "parts to run")
	flag.Parse()
	o.parts = strings.Split(*only, ",")
	if err := run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	library, model string
	step           time.Duration
	rounds         int
	parts          []string
}

func run(ctx context.Context, o options) error {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	path, err := ort.FindLibrary(o.library)
	if err != nil {
		return err
	}
	runtime, err := ort.Load(path, log)
	if err != nil {
		return err
	}
	defer runtime.Close()
	b, err := newBench(ctx, o, runtime)
	if err != nil {
		return err
	}
	defer b.close()
	for _, part := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"ceiling", b.shapes}, {"full", b.full}, {"lone", b.lone}, {"open", b.open}, {"isolation", b.isolation},
	} {
		if slices.Contains(o.parts, part.name) {
			if err := part.run(ctx); err != nil {
				return fmt.Errorf("%s: %w", part.name, err)
			}
		}
	}
	return nil
}
