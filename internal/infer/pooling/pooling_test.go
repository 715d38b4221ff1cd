package pooling_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"go.uber.org/goleak"

	"github.com/akidb/akidbd/internal/infer/pooling"
	"github.com/akidb/akidbd/internal/infer/testmodels"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sentence-transformers' own module made the expected vectors.
func TestPoolAsSentenceTransformers(t *testing.T) {
	for _, name := range testmodels.Names() {
		e := testmodels.Load(t, name)
		for _, mode := range pooling.Modes() {
			for i, want := range e.Pooled[string(mode)] {
				got := make([]float32, e.Dim)
				for j := range got {
					got[j] = 77 // what was in dst must not matter
				}
				pooling.Pool(got, mode, e.Hidden[i], len(e.Rows[i]), e.Dim)
				for j := range want {
					if d := math.Abs(float64(got[j] - want[j])); d > 1e-5 {
						t.Fatalf("%s, %s, row %d of %d tokens: dimension %d is %g, want %g", name, mode, i, len(e.Rows[i]), j, got[j], want[j])
					}
				}
			}
		}
	}
}

// Every number of rows and dimensions takes another way through the unrolled loops.
func TestPoolAgainstFloat64(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := 1; n <= 13; n++ {
		for _, dim := range []int{1, 2, 3, 8, 33} {
			hidden := make([]float32, n*dim)
			for i := range hidden {
				hidden[i] = float32(rng.NormFloat64())
			}
			for _, mode := range pooling.Modes() {
				got := make([]float32, dim)
				pooling.Pool(got, mode, hidden, n, dim)
				for j := range got {
					if want := naive(mode, hidden, n, dim, j); math.Abs(float64(got[j])-want) > 1e-5 {
						t.Fatalf("%s of %dx%d: dimension %d is %g, want %g", mode, n, dim, j, got[j], want)
					}
				}
			}
		}
	}
}

func naive(mode pooling.Mode, hidden []float32, n, dim, j int) float64 {
	var sum, weighted, weights float64
	largest := math.Inf(-1)
	for t := range n {
		x := float64(hidden[t*dim+j])
		sum += x
		weighted += float64(t+1) * x
		weights += float64(t + 1)
		largest = max(largest, x)
	}
	switch mode {
	case pooling.CLS:
		return float64(hidden[j])
	case pooling.Last:
		return float64(hidden[(n-1)*dim+j])
	case pooling.Max:
		return largest
	case pooling.MeanSqrtLen:
		return sum / math.Sqrt(float64(n))
	case pooling.WeightedMean:
		return weighted / weights
	}
	return sum / float64(n)
}

func TestPoolKeepsNaN(t *testing.T) {
	hidden := []float32{1, 2, float32(math.NaN()), 4, 5, 6}
	for _, mode := range []pooling.Mode{pooling.Mean, pooling.Max, pooling.MeanSqrtLen, pooling.WeightedMean} {
		got := make([]float32, 2)
		pooling.Pool(got, mode, hidden, 3, 2)
		if got[0] == got[0] || got[1] != got[1] {
			t.Errorf("%s gives %v, want NaN in the first dimension only", mode, got)
		}
	}
}

func TestPoolPanics(t *testing.T) {
	for name, call := range map[string]func(){
		"short hidden": func() { pooling.Pool(make([]float32, 2), pooling.Mean, make([]float32, 3), 2, 2) },
		"short dst":    func() { pooling.Pool(make([]float32, 1), pooling.Mean, make([]float32, 4), 2, 2) },
		"no tokens":    func() { pooling.Pool(make([]float32, 2), pooling.Mean, nil, 0, 2) },
		"unknown mode": func() { pooling.Pool(make([]float32, 2), "median", make([]float32, 4), 2, 2) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("did not panic")
				}
			}()
			call()
		})
	}
}

func TestParse(t *testing.T) {
	for _, m := range pooling.Modes() {
		if got, err := pooling.Parse(string(m)); err != nil || got != m {
			t.Errorf("Parse(%q) = %q, %v", m, got, err)
		}
	}
	for s, want := range map[string]pooling.Mode{
		"lasttoken": pooling.Last, "last-token": pooling.Last, "mean_sqrt_len_tokens": pooling.MeanSqrtLen,
	} {
		if got, err := pooling.Parse(s); err != nil || got != want {
			t.Errorf("Parse(%q) = %q, %v, want %q", s, got, err, want)
		}
	}
	if _, err := pooling.Parse("splade"); err == nil {
		t.Error("Parse takes splade")
	}
}

func TestNormalize(t *testing.T) {
	for _, v := range [][]float32{
		{3, 4},
		{1},
		{-2, 1, 7, 0.5, 9},
		{math.MaxFloat32, math.MaxFloat32, -math.MaxFloat32},
		{1e-11, -2e-11, 3e-11},
	} {
		direction := append([]float32(nil), v...)
		pooling.Normalize(v)
		var length float64
		for _, x := range v {
			length += float64(x) * float64(x)
		}
		if math.Abs(length-1) > 1e-6 {
			t.Errorf("%v has length %g", v, math.Sqrt(length))
		}
		if ratio := float64(v[0]) / float64(direction[0]); ratio <= 0 {
			t.Errorf("%v points elsewhere than %v", v, direction)
		}
	}
	zero := make([]float32, 5)
	pooling.Normalize(zero)
	for _, x := range zero {
		if x != 0 {
			t.Errorf("a zero vector became %v", zero)
		}
	}
	pooling.Normalize(nil)
}

func BenchmarkPool(b *testing.B) {
	const tokens, dim = 80, 384
	hidden, dst := make([]float32, tokens*dim), make([]float32, dim)
	for i := range hidden {
		hidden[i] = float32(i%97) - 48
	}
	for _, mode := range pooling.Modes() {
		b.Run(fmt.Sprintf("%s/%dx%d", mode, tokens, dim), func(b *testing.B) {
			b.SetBytes(4 * tokens * dim)
			for b.Loop() {
				pooling.Pool(dst, mode, hidden, tokens, dim)
			}
		})
	}
}

func BenchmarkNormalize(b *testing.B) {
	v := make([]float32, 384)
	for i := range v {
		v[i] = float32(i) - 100
	}
	b.SetBytes(4 * 384)
	for b.Loop() {
		pooling.Normalize(v)
	}
}
