package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/infer/ort"
	"github.com/akidb/akidbd/internal/infer/worker"
	"github.com/akidb/akidbd/internal/loadgen"
)

// beWorker makes this program the worker of its own servers, as `akidbd worker` is.
func beWorker() error { return worker.Main(ort.LoadOpen) }

// isolation compares a server that computes in a worker process with one that computes in its own, in short slices
// that alternate and have the same texts: the machine drifts by more than the difference.
func (b *bench) isolation(ctx context.Context) (err error) {
	host := worker.NewHost(worker.Config{Library: b.runtime.Path})
	defer func() { err = errors.Join(err, host.Close()) }()
	opens := []struct {
		name string
		open infer.Open
	}{{"none", b.runtime.Open}, {"process", host.Open}}
	servers := map[string]*server{}
	for _, o := range opens {
		var s *server // err is the named result: a failed stop must reach it
		if s, err = b.serveOver(ctx, "isolation-"+o.name, infer.WideAuto, o.open); err != nil {
			return err
		}
		servers[o.name] = s
		defer func() { err = errors.Join(err, s.stop()) }()
	}
	fmt.Printf("\n## Isolation: the engine in a process of its own against the same in the daemon\n\n" +
		"| texts | clients | measure | none | process | cost |\n|---|---|---|---|---|---|\n")
	for _, lengths := range []string{"short", "mixed"} {
		for _, clients := range []int{1, 32} {
			slice := b.step / 2
			measure := func(name string, seed uint64) (float64, error) {
				sum, err := b.load(ctx, servers[name], lengths, seed, loadgen.Plan{Clients: clients, Duration: slice, Warmup: slice / 5})
				if err != nil {
					return 0, err
				}
				if clients == 1 {
					return sum.Total.Quantile(50).Seconds() * 1000, nil
				}
				return float64(sum.Total.WindowTokens) / sum.Window.Seconds(), nil
			}
			var none, process, cost []float64
			for i := range 4 * b.rounds {
				got := map[string]float64{}
				for j := range opens {
					name := opens[(i+j)%len(opens)].name // each comes first every other time
					if got[name], err = measure(name, uint64(500+i)); err != nil {
						return err
					}
				}
				none, process = append(none, got["none"]), append(process, got["process"])
				if clients == 1 {
					cost = append(cost, got["process"]-got["none"])
				} else {
					cost = append(cost, got["process"]/got["none"])
				}
			}
			if clients == 1 {
				fmt.Printf("| %s | 1 | p50 | %.2f ms | %.2f ms | **%+.2f ms** |\n", lengths, median(none), median(process), median(cost))
			} else {
				fmt.Printf("| %s | %d | tokens/s | %.0f | %.0f | **%.3f** |\n", lengths, clients, median(none), median(process), median(cost))
			}
		}
	}
	return nil
}
