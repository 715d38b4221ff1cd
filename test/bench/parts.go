package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/loadgen"
)

func shuffle(b []infer.Batch) {
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(b), func(i, j int) { b[i], b[j] = b[j], b[i] })
}

func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

// shapes shows how the shape of a batch decides the tokens per second of the machine.
func (b *bench) shapes(ctx context.Context) error {
	fmt.Printf("\n## ONNX Runtime by shape: %d runs at once of one core each, and one run at a time over all cores\n\n"+
		"| rows x tokens | narrow tokens/s | wide tokens/s | wide / narrow | narrow run |\n|---|---|---|---|---|\n", b.cores)
	for _, s := range [][2]int{{1, 8}, {1, 16}, {1, 32}, {1, 64}, {1, 128}, {1, 256}, {4, 16}, {8, 16}, {4, 32}, {8, 32}, {16, 32}, {2, 64}, {4, 64}, {2, 128}, {4, 128}} {
		rows := make([][]int32, s[0])
		for i := range rows {
			rows[i] = make([]int32, s[1])
			for j := range rows[i] {
				rows[i][j] = int32(1000 + i*37 + j*11)
			}
		}
		narrow, err := b.throughput(ctx, []infer.Batch{{Rows: rows}}, b.cores, b.step/5)
		if err != nil {
			return err
		}
		wide, err := b.throughput(ctx, []infer.Batch{{Rows: rows, Wide: true}}, 1, b.step/5)
		if err != nil {
			return err
		}
		fmt.Printf("| %d x %d | %.0f | %.0f | %.2f | %.1f ms |\n", s[0], s[1], narrow, wide, wide/narrow,
			float64(1000*b.cores*s[0]*s[1])/narrow)
	}
	return nil
}

// full compares the server under 32 clients with the ceiling.
func (b *bench) full(ctx context.Context) error {
	fmt.Printf("\n## 32 clients, one text a request, against equal-length batches in the same process\n\n" +
		"| texts | server tokens/s | ceiling tokens/s | ratio | texts/s | p50 | p95 | p99 |\n|---|---|---|---|---|---|---|---|\n")
	for _, lengths := range []string{"mixed", "short"} {
		rows, err := b.rows(lengths, 7, 4000)
		if err != nil {
			return err
		}
		s, err := b.serve(ctx, infer.WideAuto)
		if err != nil {
			return err
		}
		var ratios, served, ceilings []float64
		var last loadgen.Summary
		for round := range b.rounds {
			c1, err := b.ceiling(ctx, rows, b.step/2)
			if err != nil {
				return err
			}
			sum, err := b.load(ctx, s, lengths, uint64(100+round), loadgen.Plan{Clients: 32, Duration: b.step, Warmup: b.step / 5})
			if err != nil {
				return err
			}
			c2, err := b.ceiling(ctx, rows, b.step/2)
			if err != nil {
				return err
			}
			rate := float64(sum.Total.WindowTokens) / sum.Window.Seconds()
			ratios, served, ceilings = append(ratios, rate/((c1+c2)/2)), append(served, rate), append(ceilings, (c1+c2)/2)
			last = sum
		}
		if err := s.stop(); err != nil {
			return err
		}
		t := last.Total
		fmt.Printf("| %s | %.0f | %.0f | **%.3f** | %.0f | %v | %v | %v |\n", lengths, median(served), median(ceilings), median(ratios),
			float64(t.WindowTexts)/last.Window.Seconds(), ms(t.Quantile(50)), ms(t.Quantile(95)), ms(t.Quantile(99)))
	}
	return nil
}

// open compares the choice between wide and narrow runs with both fixed modes, at arrivals that do not wait.
func (b *bench) open(ctx context.Context) error {
	fmt.Printf("\n## Open loop: p95 by mode, Poisson arrivals at a share of capacity\n\n" +
		"| texts | load | auto | always wide | never wide | auto / better fixed |\n|---|---|---|---|---|---|\n")
	modes := []infer.WideMode{infer.WideAuto, infer.WideAlways, infer.WideNever}
	servers := map[infer.WideMode]*server{}
	for _, m := range modes {
		s, err := b.serve(ctx, m)
		if err != nil {
			return err
		}
		servers[m] = s
	}
	for _, lengths := range []string{"mixed", "short"} {
		sum, err := b.load(ctx, servers[infer.WideAuto], lengths, 300, loadgen.Plan{Clients: 32, Duration: b.step, Warmup: b.step / 5})
		if err != nil {
			return err
		}
		capacity := float64(sum.Total.WindowTexts) / sum.Window.Seconds()
		for _, share := range []float64{0.3, 0.6} {
			p95 := map[infer.WideMode][]float64{}
			for round := range b.rounds {
				for i := range modes {
					m := modes[(i+round)%len(modes)] // each mode comes first once
					sum, err := b.load(ctx, servers[m], lengths, uint64(400+round),
						loadgen.Plan{Clients: 512, Rate: capacity * share, Duration: 2 * b.step, Warmup: b.step / 5})
					if err != nil {
						return err
					}
					p95[m] = append(p95[m], sum.Total.Quantile(95).Seconds()*1000)
				}
			}
			auto, wide, narrow := median(p95[infer.WideAuto]), median(p95[infer.WideAlways]), median(p95[infer.WideNever])
			fmt.Printf("| %s | %.0f %% of %.0f/s | %.1f ms | %.1f ms | %.1f ms | **%.2f** |\n", lengths, 100*share, capacity, auto, wide, narrow,
				auto/min(wide, narrow))
		}
	}
	for _, s := range servers {
		if err := s.stop(); err != nil {
			return err
		}
	}
	return nil
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1000) }
