// Package reference holds texts and the vectors that sentence-transformers gives for them with
// all-MiniLM-L6-v2: 1,000 texts of 1 to 256 tokens in several scripts and 50 longer ones. Tests only, and only
// those that are given the model's own files; ../make_reference.py makes the data and documents its format.
package reference

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"embed"
	"encoding/binary"
	"encoding/json"
	"math"
	"testing"
)

//go:embed texts.jsonl.gz vectors.f32
var files embed.FS

// Dim is the dimensions of a vector, MaxTokens what the model cuts a text at.
const (
	Dim       = 384
	MaxTokens = 256
)

// Text is one text and its answer.
type Text struct {
	Text   string
	Tokens int       // of the whole text, specials included; over MaxTokens in the last 50
	Vector []float32 // L2-normalized
}

// Texts reads all texts, those over MaxTokens last.
func Texts(t testing.TB) []Text {
	t.Helper()
	packed, err := files.ReadFile("texts.jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	vectors, err := files.ReadFile("vectors.f32")
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	var out []Text
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Text   string `json:"text"`
			Tokens int    `json:"tokens"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if len(vectors) < 4*Dim {
			t.Fatalf("no vector for text %d", len(out))
		}
		v := make([]float32, Dim)
		for i := range v {
			v[i] = math.Float32frombits(binary.LittleEndian.Uint32(vectors[4*i:]))
		}
		vectors = vectors[4*Dim:]
		out = append(out, Text{line.Text, line.Tokens, v})
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if len(vectors) != 0 {
		t.Fatalf("%d bytes of vectors without a text", len(vectors))
	}
	return out
}
