package loadgen

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newTexts(t testing.TB, cfg TextsConfig) *Texts {
	t.Helper()
	texts, err := NewTexts(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

// tokens counts as a WordPiece tokenizer would: words, full stops and the two special tokens.
func tokens(text string) int {
	return len(strings.Fields(text)) + strings.Count(text, ".") + specialTokens
}

func TestVocabulary(t *testing.T) {
	words := vocabulary()
	seen := make(map[string]bool)
	for _, w := range words {
		if seen[w] || strings.Trim(w, "abcdefghijklmnopqrstuvwxyz") != "" {
			t.Errorf("%q is there twice or not all lower-case letters", w)
		}
		seen[w] = true
	}
	if len(words) != 1<<wordBits {
		t.Errorf("%d words, want %d", len(words), 1<<wordBits)
	}
}

func TestLengths(t *testing.T) {
	for _, tc := range []struct {
		lengths  string
		lo, hi   int
		mean     float64
		widePart float64 // share that must be over the mean: both ends are used
	}{
		{"short", 5, 64, 23, 0.3},
		{"mixed", 3, 256, 80, 0.3},
		{"", 3, 256, 80, 0.3},
		{"fixed:3", 3, 3, 3, 0},
		{"fixed:128", 128, 128, 128, 0},
	} {
		texts := newTexts(t, TextsConfig{Lengths: tc.lengths, Seed: 7})
		const n = 5_000
		sum, over := 0, 0
		for i := range uint64(n) {
			k := tokens(texts.Text(i))
			if k < tc.lo || k > tc.hi {
				t.Fatalf("%q: text %d has %d tokens, bounds are %d and %d", tc.lengths, i, k, tc.lo, tc.hi)
			}
			sum += k
			if float64(k) > tc.mean {
				over++
			}
		}
		if mean := float64(sum) / n; math.Abs(mean-tc.mean) > 0.03*tc.mean {
			t.Errorf("%q: mean of %.2f tokens, want %.0f", tc.lengths, mean, tc.mean)
		}
		if share := float64(over) / n; share < tc.widePart {
			t.Errorf("%q: %.2f of the texts are over the mean, want at least %.2f", tc.lengths, share, tc.widePart)
		}
	}
}

func TestAllTextsDiffer(t *testing.T) {
	for _, tc := range []struct {
		lengths string
		n       uint64
	}{{"mixed", 30_000}, {"short", 30_000}, {"fixed:3", 1024}, {"fixed:4", 30_000}, {"fixed:7", 30_000}} {
		texts := newTexts(t, TextsConfig{Lengths: tc.lengths})
		seen := make(map[string]uint64)
		for i := range tc.n {
			s := texts.Text(i)
			// Of a mixed load a text in 10,000 is a single word; a thousand different ones is all there are.
			if tokens(s) == minTokens && tc.lengths == "mixed" {
				continue
			}
			if first, ok := seen[s]; ok {
				t.Fatalf("%s: texts %d and %d are both %q", tc.lengths, first, i, s)
			}
			seen[s] = i
		}
	}
}

func TestSameSeedSameTexts(t *testing.T) {
	a, b := newTexts(t, TextsConfig{Seed: 3}), newTexts(t, TextsConfig{Seed: 3})
	other := newTexts(t, TextsConfig{Seed: 4})
	same := 0
	for i := uint64(500); i > 0; i-- {
		if a.Text(i) != b.Text(i) {
			t.Fatalf("text %d is %q and %q with the same seed", i, a.Text(i), b.Text(i))
		}
		if a.Text(i) == other.Text(i) {
			same++
		}
	}
	if same > 0 {
		t.Errorf("%d of 500 texts are the same with another seed", same)
	}
	if got := a.Batch(10, 3); len(got) != 3 || got[2] != a.Text(12) {
		t.Errorf("Batch(10, 3) = %q", got)
	}
}

func TestRepeat(t *testing.T) {
	texts := newTexts(t, TextsConfig{Lengths: "short", Repeat: 0.3})
	const n = 20_000
	seen := make(map[string]bool)
	repeats := 0
	for i := range uint64(n) {
		s := texts.Text(i)
		if seen[s] {
			repeats++
		}
		seen[s] = true
	}
	if share := float64(repeats) / n; math.Abs(share-0.3) > 0.02 {
		t.Errorf("%.3f of the texts are repeats, want 0.3", share)
	}
}

func TestFileOfTexts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "texts")
	if err := os.WriteFile(path, []byte("one\n\n  two \r\nthr\xffee"), 0o644); err != nil {
		t.Fatal(err)
	}
	texts := newTexts(t, TextsConfig{Lengths: "file:" + path})
	want := []string{"one", "two", "thr\uFFFDee"}
	seen := make(map[string]bool)
	for i := range uint64(9_000) {
		s := texts.Text(i)
		if i < 3 && s != want[i] {
			t.Errorf("text %d is %q, want %q", i, s, want[i])
		}
		if !strings.HasPrefix(s, want[i%3]) || seen[s] {
			t.Fatalf("text %d is %q: not line %d or there before", i, s, i%3+1)
		}
		seen[s] = true
	}
	texts = newTexts(t, TextsConfig{Lengths: "file:" + path, SameLines: true})
	if got := texts.Text(4); got != "two" {
		t.Errorf("text 4 is %q, want the second line unchanged", got)
	}
}

func TestTextsConfigErrors(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte(" \n\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	long := filepath.Join(t.TempDir(), "long")
	if err := os.WriteFile(long, make([]byte, maxLineBytes+1), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		cfg  TextsConfig
		want string
	}{
		{TextsConfig{Lengths: "long"}, `not "long"`},
		{TextsConfig{Lengths: "fixed:2"}, `not "2"`},
		{TextsConfig{Lengths: "fixed:x"}, `not "x"`},
		{TextsConfig{Lengths: "fixed"}, `not ""`},
		{TextsConfig{Lengths: "file:/no/such/file"}, "no such file"},
		{TextsConfig{Lengths: "file:" + empty}, "has no line with text"},
		{TextsConfig{Lengths: "file:" + long}, fmt.Sprintf("is longer than %d bytes", maxLineBytes)},
		{TextsConfig{Repeat: 1.5}, "between 0 and 1, not 1.5"},
		{TextsConfig{Repeat: math.NaN()}, "between 0 and 1"},
	} {
		if _, err := NewTexts(tc.cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("NewTexts(%+v): %v, want an error with %q", tc.cfg, err, tc.want)
		}
	}
}

func BenchmarkText(b *testing.B) {
	texts := newTexts(b, TextsConfig{})
	n := uint64(0)
	for b.Loop() {
		texts.Text(n)
		n++
	}
}
