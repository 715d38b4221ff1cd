package pooling

import "math"

// Normalize scales v to length 1 (L2). As in PyTorch's normalize, a length below 1e-12 counts as 1e-12, so a
// zero vector stays zero. Lengths are summed in float64: no float32 value overflows or vanishes.
func Normalize(v []float32) {
	var a, b float64
	i := 0
	for ; i+1 < len(v); i += 2 {
		x, y := float64(v[i]), float64(v[i+1])
		a += x * x
		b += y * y
	}
	if i < len(v) {
		a += float64(v[i]) * float64(v[i])
	}
	scale := 1 / max(math.Sqrt(a+b), 1e-12)
	for i, x := range v {
		v[i] = float32(float64(x) * scale)
	}
}
