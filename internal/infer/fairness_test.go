package infer_test

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/infer/backendtest"
)

// TestFairnessOfMixedLengths: a long request with texts of all lengths does not hold up a short one, nor one that
// happens to ask for the last of its texts.
func TestFairnessOfMixedLengths(t *testing.T) {
	for _, last := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, nil)
			f := r.install("m")
			f.Set(backendtest.Knobs{Cost: measuredCost})
			rng := rand.New(rand.NewPCG(1, 1))
			texts := make([]string, 600)
			for i := range texts {
				texts[i] = words(4+rng.IntN(120), 100*(i+1))
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				if _, err := r.ask(texts...); err != nil {
					t.Error(err)
				}
			}()
			time.Sleep(time.Second)
			small := "w99"
			if last {
				small = texts[len(texts)-1]
			}
			began := time.Now()
			if _, err := r.ask(small); err != nil {
				t.Error(err)
			}
			if d := time.Since(began); d > 500*time.Millisecond {
				t.Errorf("the small request waited %v", d)
			}
			<-done
			r.close()
		})
	}
}

// TestNobodyStarves: under a full load of requests of one to three texts each is answered in about the time that one
// round over all takes.
func TestNobodyStarves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		f := r.install("m")
		f.Set(backendtest.Knobs{Cost: measuredCost})
		var mu sync.Mutex
		var wg sync.WaitGroup
		worst := time.Duration(0)
		for c := range 32 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(c), 1))
				for i := range 40 {
					texts := make([]string, 1+rng.IntN(3))
					for k := range texts {
						texts[k] = words(3+rng.IntN(120), 100*(c*1000+i*10+k+1))
					}
					began := time.Now()
					if _, err := r.ask(texts...); err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					worst = max(worst, time.Since(began))
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		t.Logf("the longest wait was %v", worst)
		if worst > 5*time.Second { // a round is about 32 requests x 125 tokens at 7,400 tokens/s: 0.5 s
			t.Errorf("a request waited %v", worst)
		}
		r.close()
	})
}
