package reference

import (
	"math"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTexts(t *testing.T) {
	texts := Texts(t)
	if len(texts) != 1050 {
		t.Fatalf("%d texts, want 1050", len(texts))
	}
	for i, x := range texts {
		if long := i >= 1000; long != (x.Tokens > MaxTokens) {
			t.Errorf("text %d has %d tokens", i, x.Tokens)
		}
		var sum float64
		for _, v := range x.Vector {
			sum += float64(v) * float64(v)
		}
		if math.Abs(sum-1) > 1e-5 {
			t.Errorf("vector %d has length %g", i, math.Sqrt(sum))
		}
	}
}
