package infer_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/infer/backendtest"
)

// The costs of MiniLM on two AVX2 cores, from docs/benchmarks.md: a run of n padded tokens takes 0.265 ms x (8+n)
// on one core, and 1/1.86 of that on two.
func measuredCost(b infer.Batch) time.Duration {
	d := float64(265*time.Microsecond) * float64(8+b.PaddedTokens())
	if b.Wide {
		d /= 1.86
	}
	return time.Duration(d)
}

// p95 serves Poisson arrivals of texts with log-normal lengths, in virtual time.
func p95(t *testing.T, mode infer.WideMode, rate, mean float64, requests int) time.Duration {
	var took []time.Duration
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *infer.Config) { c.Wide = mode })
		f := r.install("m")
		f.Set(backendtest.Knobs{Cost: measuredCost})
		rng := rand.New(rand.NewPCG(1, 2))
		sigma := 0.8
		mu := math.Log(mean) - sigma*sigma/2
		var mu2 sync.Mutex
		var wg sync.WaitGroup
		for i := range requests {
			time.Sleep(time.Duration(rng.ExpFloat64() / rate * float64(time.Second)))
			n := min(max(int(math.Exp(mu+sigma*rng.NormFloat64())), 3), testMaxTokens)
			wg.Go(func() {
				began := time.Now()
				if _, err := r.ask(words(n, 100*(i+1))); err != nil {
					t.Error(err)
				}
				mu2.Lock()
				took = append(took, time.Since(began))
				mu2.Unlock()
			})
		}
		wg.Wait()
		r.close()
	})
	slices.Sort(took)
	return took[len(took)*95/100]
}

// TestCoresPolicy: the choice between wide and narrow runs is no worse than the better of always wide and never
// wide, from a nearly idle machine to a nearly full one. Virtual time; `make bench` measures the real one.
func TestCoresPolicy(t *testing.T) {
	for _, mean := range []float64{23, 80} {
		for _, load := range []float64{0.1, 0.3, 0.6, 0.8} {
			rate := load * 7400 / mean // of 7,400 tokens/s, the ceiling of those cores
			const requests = 3000
			auto := p95(t, infer.WideAuto, rate, mean, requests)
			wide, narrow := p95(t, infer.WideAlways, rate, mean, requests), p95(t, infer.WideNever, rate, mean, requests)
			ratio := float64(auto) / float64(min(wide, narrow))
			t.Logf("mean %v tokens, load %.0f %%: p95 auto %v, always wide %v, never wide %v: %.2f", mean, 100*load, auto, wide, narrow, ratio)
			if ratio > 1.05 {
				t.Errorf("mean %v tokens, load %.0f %%: p95 is %.2f of the better fixed mode's", mean, 100*load, ratio)
			}
		}
	}
}
