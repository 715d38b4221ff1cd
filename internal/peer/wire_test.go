package peer

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
	peerv1 "github.com/akidb/akidbd/internal/gen/akidb/peer/v1"
	"github.com/akidb/akidbd/internal/node"
)

// TestNumbersAreHeldInBounds: what a peer counts ends up in counters and sums here.
func TestNumbersAreHeldInBounds(t *testing.T) {
	for what, m := range map[string]*peerv1.EmbedResult{
		"fewer than no tokens": {Vectors: 1, Dimension: 4, Tokens: []int32{-1}},
		"fewer than none cut":  {Vectors: 1, Dimension: 4, Truncated: []int32{math.MinInt32}},
	} {
		if _, err := resultOf(m, 1); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	const inputs = 1 << 14
	if _, err := resultOf(&peerv1.EmbedResult{Vectors: inputs, Dimension: maxDimension}, inputs); err == nil {
		t.Errorf("%d vectors of dimension %d: taken", inputs, maxDimension)
	}
	res, err := resultOf(&peerv1.EmbedResult{Vectors: 1, Dimension: 4, TokenizeNs: -1, QueueNs: math.MaxInt64, RunNs: math.MinInt64}, 1)
	if want := (embedding.Timing{Queue: time.Hour}); err != nil || res.Timing != want {
		t.Errorf("%+v, %v", res.Timing, err)
	}
	for load, want := range map[float64]float64{-1: 0, 0.5: 0.5, 7: 1, math.Inf(1): 1, math.Inf(-1): 0} {
		if got := wordOf(&peerv1.Word{Load: load}).Load; got != want {
			t.Errorf("a load of %v became %v", load, got)
		}
	}
	if w := wordOf(&peerv1.Word{Load: math.NaN(), QueueDelayNs: math.MaxInt64}); w.Load != 0 || w.QueueDelay != time.Hour {
		t.Errorf("%+v", w)
	}
}

func TestTextsAreHeldInBounds(t *testing.T) {
	long := strings.Repeat("x", 1<<16)
	w := wordOf(&peerv1.Word{Models: []*peerv1.Served{{Name: long, Digest: long, Precision: long, Aliases: []string{long}}}})
	if m := w.Models[0]; len(m.Name) > maxName || len(m.Digest) > maxName || len(m.Precision) > maxName || len(m.Aliases[0]) > maxName {
		t.Error("a long text of a model was taken")
	}
	for what, n := range map[string]*peerv1.Node{
		"key":   {Word: &peerv1.Word{}, Labels: map[string]string{long: "v"}},
		"value": {Word: &peerv1.Word{}, Labels: map[string]string{"k": long}},
		"zone":  {Word: &peerv1.Word{}, Zone: long},
	} {
		if _, err := nodeOf(n); err == nil {
			t.Errorf("a long %s was taken", what)
		}
	}
	e := errorOf(&peerv1.EmbedError{Code: "invalid", Message: long + "\xff", Param: long})
	if len(e.Message) > maxText || len(e.Param) > maxName {
		t.Errorf("a message of %d bytes, a parameter of %d", len(e.Message), len(e.Param))
	}
	b, err := appendMessage([]byte{frameVersion, streamHello}, &peerv1.Hello{Node: &peerv1.Node{Word: &peerv1.Word{}}, Observed: "10.0.0.5%" + long + ":1"})
	if err != nil {
		t.Fatal(err)
	}
	if h, err := readHello(bytes.NewReader(b)); err != nil || h.observed.IsValid() {
		t.Errorf("observed %v, %v", h.observed, err)
	}
}

func TestCatalogTravels(t *testing.T) {
	sum := strings.Repeat("0a", 32)
	for said, want := range map[string]string{sum: sum, "": "", "0a": "", strings.Repeat("x", 64): "", sum + "0a": ""} {
		if got := wordOf(wordMessage(node.Word{Catalog: said})).Catalog; got != want {
			t.Errorf("%q became %q, want %q", said, got, want)
		}
	}
	if got := wordOf(&peerv1.Word{Catalog: []byte(sum)}).Catalog; got != "" {
		t.Errorf("a long one became %q", got)
	}
}
