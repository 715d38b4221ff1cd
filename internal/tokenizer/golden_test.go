package tokenizer

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func readGzip(t testing.TB, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// minilmJSON is the tokenizer.json of all-MiniLM-L6-v2.
func minilmJSON(t testing.TB) []byte {
	return readGzip(t, filepath.Join("testdata", "minilm.json.gz"))
}

func loadMinilm(t testing.TB) *Tokenizer {
	t.Helper()
	tok, err := Load(minilmJSON(t))
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// goldenTokenizer writes the short tokenizer.json of a golden file out (see testdata/make_golden.py) and loads
// it.
func goldenTokenizer(t *testing.T, short json.RawMessage, minilm map[string]int) *Tokenizer {
	t.Helper()
	var file, model map[string]any
	if err := json.Unmarshal(short, &file); err != nil {
		t.Fatal(err)
	}
	model = file["model"].(map[string]any)
	if model["vocab"] == "minilm" {
		model["vocab"] = minilm
	} else {
		vocab := map[string]int{"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
		chars := strings.Split(model["vocab"].(map[string]any)["chars"].(string), "")
		prefix := model["continuing_subword_prefix"].(string)
		for _, c := range chars {
			vocab[c] = len(vocab)
		}
		if prefix != "" {
			for _, c := range chars {
				vocab[prefix+c] = len(vocab)
			}
		}
		model["vocab"] = vocab
	}
	data, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := Load(data)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func checkGolden(t *testing.T, path string) (texts, encodings int) {
	var minilm struct {
		Model struct{ Vocab map[string]int }
	}
	if err := json.Unmarshal(minilmJSON(t), &minilm); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReaderSize(bytes.NewReader(readGzip(t, path)), 1<<20)
	line := func(v any) bool {
		data, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return false
		}
		if err == nil {
			err = json.Unmarshal(data, v)
		}
		if err != nil {
			t.Fatal(err)
		}
		return true
	}
	var header struct {
		Variants []struct {
			Name string
			JSON json.RawMessage
		}
	}
	line(&header)
	var toks []*Tokenizer
	for _, v := range header.Variants {
		toks = append(toks, goldenTokenizer(t, v.JSON, minilm.Model.Vocab))
	}
	for {
		var row struct {
			T string
			I [][]int32
		}
		if !line(&row) {
			return texts, encodings
		}
		texts++
		for i, want := range row.I {
			if want == nil {
				continue
			}
			encodings++
			got := toks[i].Encode(row.T, 0)
			if !slices.Equal(got.IDs, want) || got.Full != len(want) {
				t.Errorf("%s: %+q:\n got %v (full %d)\nwant %v", header.Variants[i].Name, row.T, got.IDs, got.Full, want)
			}
		}
	}
}

func TestGolden(t *testing.T) {
	texts, encodings := checkGolden(t, filepath.Join("testdata", "golden.jsonl.gz"))
	if texts < 10000 || encodings < 30000 {
		t.Errorf("the golden file has %d texts and %d encodings, want at least 10000 and 30000", texts, encodings)
	}
}

// TestGoldenFile compares with another file of testdata/make_golden.py.
func TestGoldenFile(t *testing.T) {
	path := os.Getenv("AKIDB_GOLDEN")
	if path == "" {
		t.Skip("AKIDB_GOLDEN names no golden file")
	}
	texts, encodings := checkGolden(t, path)
	t.Logf("%d texts, %d encodings compared", texts, encodings)
}
