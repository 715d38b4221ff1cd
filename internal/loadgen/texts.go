package loadgen

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
)

// Bounds of texts, in tokens with the two special tokens of a BERT model, and of a file of texts.
const (
	minTokens     = 3       // one word
	maxTokens     = 100_000 // of fixed:N
	maxFileBytes  = 256 << 20
	maxLineBytes  = 4 << 20
	specialTokens = 2 // [CLS] and [SEP]
	codeWords     = 4 // words that make a text differ from all others: 40 bits
	repeatWindow  = 1000
)

// TextsConfig says which texts to make.
type TextsConfig struct {
	// Lengths is how long texts are, in tokens, specials included:
	//
	//	short      log-normal, 5 to 64, mean 23: search queries and titles
	//	mixed      log-normal, 3 to 256, mean 80: the default, also for ""
	//	fixed:N    N
	//	file:PATH  the lines of a file, in order and again from the start; empty lines are left out
	Lengths string
	// Seed fixes all texts.
	Seed uint64
	// Repeat is the share of texts, 0 to 1, that equal one of the 1,000 texts before them.
	Repeat float64
	// SameLines sends the lines of a file unchanged when they come round again. Otherwise a word or two is
	// added, so that no two texts are equal.
	SameLines bool
}

// Texts makes English-looking texts of common words, each about one token. A text is a function of its number
// and the seed alone, so that runs can be repeated whatever the order of the answers. Safe for concurrent use.
//
// With Repeat 0 all texts differ: the first four words carry the number of the text (2^40 of them). Texts of
// fewer than six tokens have fewer words to do it with: one word gives 1,024 texts, two give a million.
type Texts struct {
	words     []string
	lines     []string // of a file; nil when texts are made
	length    func(*rand.Rand) int
	seed      uint64
	repeat    float64
	sameLines bool
	about     string
}

// NewTexts makes Texts, reading the file if there is one.
func NewTexts(cfg TextsConfig) (*Texts, error) {
	if !(cfg.Repeat >= 0 && cfg.Repeat <= 1) {
		return nil, fmt.Errorf("the share of repeated texts must be between 0 and 1, not %g", cfg.Repeat)
	}
	t := &Texts{words: vocabulary(), seed: cfg.Seed, repeat: cfg.Repeat, sameLines: cfg.SameLines}
	kind, arg, _ := strings.Cut(cfg.Lengths, ":")
	switch {
	case cfg.Lengths == "mixed" || cfg.Lengths == "":
		t.length = logNormal(4.2334, 0.8, 3, 256)
		t.about = "mixed texts (3 to 256 tokens, mean 80)"
	case cfg.Lengths == "short":
		t.length = logNormal(3.0487, 0.45, 5, 64)
		t.about = "short texts (5 to 64 tokens, mean 23)"
	case kind == "fixed":
		n, err := strconv.Atoi(arg)
		if err != nil || n < minTokens || n > maxTokens {
			return nil, fmt.Errorf("fixed:N needs a number of tokens from %d to %d, specials included, not %q",
				minTokens, maxTokens, arg)
		}
		t.length = func(*rand.Rand) int { return n }
		t.about = fmt.Sprintf("texts of %d tokens", n)
	case kind == "file":
		lines, err := readLines(arg)
		if err != nil {
			return nil, err
		}
		t.lines = lines
		t.about = fmt.Sprintf("%d texts of %s", len(lines), arg)
	default:
		return nil, fmt.Errorf("text lengths are short, mixed, fixed:N or file:PATH, not %q", cfg.Lengths)
	}
	return t, nil
}

// String says what the texts are, for people.
func (t *Texts) String() string { return t.about }

// Batch gives n texts, from the text number first on.
func (t *Texts) Batch(first uint64, n int) []string {
	texts := make([]string, n)
	for i := range texts {
		texts[i] = t.Text(first + uint64(i))
	}
	return texts
}

// Text gives the text number n.
func (t *Texts) Text(n uint64) string {
	for n > 0 && t.repeat > 0 {
		r := rand.New(rand.NewPCG(t.seed, mix(n)))
		if r.Float64() >= t.repeat {
			break
		}
		n -= 1 + r.Uint64N(min(n, repeatWindow))
	}
	if t.lines != nil {
		return t.line(n)
	}
	r := rand.New(rand.NewPCG(mix(t.seed), mix(n)))
	return t.compose(r, n, t.length(r)-specialTokens)
}

// compose writes a text of size tokens: words, and full stops that count as one token each.
func (t *Texts) compose(r *rand.Rand, n uint64, size int) string {
	var b strings.Builder
	b.Grow(size * 7)
	coded := min(size, codeWords)
	code := scatter(n^mix(t.seed), coded*wordBits)
	sentence := 0         // words of this sentence so far
	stop := 8 + r.IntN(9) // words after which it ends
	for i := range size {
		last := i == size-1
		if (sentence >= stop && !last) || (last && sentence > codeWords) {
			b.WriteByte('.')
			sentence, stop = 0, 6+r.IntN(11)
			continue
		}
		var w string
		switch {
		case i < coded:
			w = t.words[code&(1<<wordBits-1)]
			code >>= wordBits
		case r.IntN(5) < 2:
			w = t.words[r.IntN(functionWords)]
		default:
			w = t.words[r.IntN(len(t.words))]
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		if sentence == 0 {
			b.WriteByte(w[0] - 'a' + 'A')
			w = w[1:]
		}
		b.WriteString(w)
		sentence++
	}
	return b.String()
}

// line gives the line number n of a file that is read round and round.
func (t *Texts) line(n uint64) string {
	count := uint64(len(t.lines))
	text, round := t.lines[n%count], n/count
	if t.sameLines {
		return text
	}
	for ; round > 0; round >>= wordBits {
		text += " " + t.words[round&(1<<wordBits-1)]
	}
	return text
}

// logNormal draws whole numbers from lo to hi; mu and sigma are those of the underlying normal distribution,
// chosen so that the mean after the cut is the wanted one.
func logNormal(mu, sigma float64, lo, hi int) func(*rand.Rand) int {
	return func(r *rand.Rand) int {
		for {
			n := int(math.Round(math.Exp(mu + sigma*r.NormFloat64())))
			if n >= lo && n <= hi {
				return n
			}
		}
	}
}

// mix spreads neighbouring numbers over all of uint64 (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// scatter permutes the numbers of so many bits: different numbers stay different.
func scatter(x uint64, bits int) uint64 {
	mask := uint64(1)<<bits - 1
	for range 2 {
		x = x * 0x9e3779b97f4a7c15 & mask
		x ^= x >> (bits/2 + 1)
	}
	return x & mask
}

func readLines(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("texts: %w", err)
	}
	defer f.Close()
	limited := &io.LimitedReader{R: f, N: maxFileBytes + 1}
	sc := bufio.NewScanner(limited)
	sc.Buffer(make([]byte, 64<<10), maxLineBytes)
	var lines []string
	for sc.Scan() {
		if line := strings.TrimSpace(sc.Text()); line != "" {
			lines = append(lines, strings.ToValidUTF8(line, "\uFFFD"))
		}
	}
	switch err := sc.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("texts: text %d of %s is longer than %d bytes", len(lines)+1, path, maxLineBytes)
	case err != nil:
		return nil, fmt.Errorf("texts: %w", err)
	case limited.N == 0:
		return nil, fmt.Errorf("texts: %s is larger than %d bytes", path, maxFileBytes)
	case len(lines) == 0:
		return nil, fmt.Errorf("texts: %s has no line with text", path)
	}
	return lines, nil
}
