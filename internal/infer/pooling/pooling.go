// Package pooling turns the token vectors of one text into one vector, as sentence-transformers' Pooling
// module does, and normalizes vectors. It knows plain slices only.
package pooling

import (
	"fmt"
	"math"
	"strings"
)

// Mode names how token vectors become one vector.
type Mode string

// The modes. n is the number of real tokens, specials included.
const (
	CLS          Mode = "cls"           // vector of the first token
	Mean         Mode = "mean"          // sum / n
	Last         Mode = "last"          // vector of the last token
	Max          Mode = "max"           // largest value of each dimension
	MeanSqrtLen  Mode = "mean_sqrt_len" // sum / sqrt(n)
	WeightedMean Mode = "weightedmean"  // mean with weights 1..n
)

// Modes lists all modes.
func Modes() []Mode {
	return []Mode{CLS, Mean, Last, Max, MeanSqrtLen, WeightedMean}
}

// Parse reads a mode by its own name or by the one that sentence-transformers' `pooling_mode` ("lasttoken",
// "mean_sqrt_len_tokens") or text-embeddings-inference's --pooling ("last-token") has for it.
func Parse(s string) (Mode, error) {
	switch s {
	case "cls":
		return CLS, nil
	case "mean":
		return Mean, nil
	case "last", "lasttoken", "last_token", "last-token":
		return Last, nil
	case "max":
		return Max, nil
	case "mean_sqrt_len", "mean_sqrt_len_tokens":
		return MeanSqrtLen, nil
	case "weightedmean":
		return WeightedMean, nil
	}
	names := make([]string, 0, len(Modes()))
	for _, m := range Modes() {
		names = append(names, string(m))
	}
	return "", fmt.Errorf("unknown pooling %q; supported: %s", s, strings.Join(names, ", "))
}

// Pool pools the token vectors of one text into dst. hidden holds rowTokens x dim floats, token by token,
// real tokens only (no padding); dst has dim floats and does not overlap hidden. A NaN in hidden stays a NaN
// in dst wherever its token counts.
//
// It panics when rowTokens or dim is below 1, hidden or dst is too short, or mode is none of Modes: those are
// bugs of the caller, not of its input.
func Pool(dst []float32, mode Mode, hidden []float32, rowTokens, dim int) {
	if rowTokens < 1 || dim < 1 || len(hidden) < rowTokens*dim || len(dst) < dim {
		panic(fmt.Sprintf("pooling: %d tokens of %d dimensions need as many floats in hidden and one row in dst, have %d and %d",
			rowTokens, dim, len(hidden), len(dst)))
	}
	dst = dst[:dim]
	hidden = hidden[:rowTokens*dim]
	switch mode {
	case CLS:
		copy(dst, hidden)
	case Last:
		copy(dst, hidden[(rowTokens-1)*dim:])
	case Max:
		maxRows(dst, hidden)
	case Mean:
		sumRows(dst, hidden)
		divide(dst, float32(rowTokens))
	case MeanSqrtLen:
		sumRows(dst, hidden)
		divide(dst, float32(math.Sqrt(float64(rowTokens))))
	case WeightedMean:
		weightedSumRows(dst, hidden)
		n := float64(rowTokens)
		divide(dst, float32(n*(n+1)/2))
	default:
		panic(fmt.Sprintf("pooling: unknown mode %q", mode))
	}
}

// sumRows sets dst to the sum of the rows of hidden, each as long as dst. Four rows go at once: dst is read
// and written a quarter as often, and adding in pairs rounds less.
func sumRows(dst, hidden []float32) {
	dim := len(dst)
	clear(dst)
	for len(hidden) >= 4*dim {
		a, b := hidden[:dim], hidden[dim:2*dim]
		c, d := hidden[2*dim:3*dim], hidden[3*dim:4*dim]
		b, c, d = b[:len(a)], c[:len(a)], d[:len(a)]
		out := dst[:len(a)]
		for i := range a {
			out[i] += (a[i] + b[i]) + (c[i] + d[i])
		}
		hidden = hidden[4*dim:]
	}
	for ; len(hidden) > 0; hidden = hidden[dim:] {
		row := hidden[:len(dst)]
		for i, x := range row {
			dst[i] += x
		}
	}
}

// weightedSumRows sets dst to the sum of the rows, the first times 1, the second times 2 and so on.
func weightedSumRows(dst, hidden []float32) {
	dim := len(dst)
	clear(dst)
	w := float32(1)
	for len(hidden) >= 2*dim {
		a, b := hidden[:dim], hidden[dim:2*dim]
		b = b[:len(a)]
		out := dst[:len(a)]
		v := w + 1
		for i := range a {
			out[i] += w*a[i] + v*b[i]
		}
		hidden = hidden[2*dim:]
		w += 2
	}
	if len(hidden) > 0 {
		for i, x := range hidden[:len(dst)] {
			dst[i] += w * x
		}
	}
}

func maxRows(dst, hidden []float32) {
	dim := len(dst)
	copy(dst, hidden)
	for hidden = hidden[dim:]; len(hidden) > 0; hidden = hidden[dim:] {
		row := hidden[:len(dst)]
		for i, x := range row {
			dst[i] = max(dst[i], x)
		}
	}
}

func divide(v []float32, by float32) {
	for i := range v {
		v[i] /= by
	}
}
