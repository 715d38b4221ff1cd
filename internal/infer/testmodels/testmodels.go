// Package testmodels holds tiny random-weight models in the layout of sentence-transformers and what the
// reference libraries answer for them. Tests only; make.py makes the files and documents their format.
package testmodels

import (
	"embed"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"testing"
)

//go:embed models expected
var files embed.FS

// The models. All have 32 dimensions, 2 layers and 64 positions.
const (
	BERT         = "bert"          // 4 heads, gelu, mean, normalized; old file forms; golden.json
	BERTGeluNew  = "bert-gelu-new" // 8 heads, gelu_new, max; tensors named "bert.…"; new file forms
	RoBERTa      = "roberta"       // byte-level BPE, cls, normalized; golden.json
	XLMRoBERTa   = "xlm-roberta"   // Unigram, mean, normalized; tensors named "roberta.…"; prompts, golden.json
	DistilBERT   = "distilbert"    // 2 heads, relu, last token
	ONNXExternal = "onnx-external" // BERT's weights as onnx/model.onnx and model.onnx_data, wants token_type_ids
	ONNXSentence = "onnx-sentence" // the same as model.onnx with outputs token_embeddings, sentence_embedding
)

// Names lists the models.
func Names() []string {
	return []string{BERT, BERTGeluNew, RoBERTa, XLMRoBERTa, DistilBERT, ONNXExternal, ONNXSentence}
}

// Dir copies a model into a directory that lasts as long as the test, and gives its path.
func Dir(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	sub, err := fs.Sub(files, "models/"+name)
	if err == nil {
		err = os.CopyFS(dir, sub)
	}
	if err != nil {
		t.Fatalf("test model %s: %v", name, err)
	}
	return dir
}

// Expected is what a model must answer, as transformers and sentence-transformers compute it in float32.
// Another float32 implementation differs by some 1e-5; absolute values are about 1.
//
// ONNXSentence's sentence_embedding is Pooled["mean"], normalized.
type Expected struct {
	Dim    int
	Rows   [][]int32              // token ids, 1 to 60 a row
	Hidden [][]float32            // last_hidden_state of each row, len(row) x Dim
	Pooled map[string][][]float32 // by pooling.Mode: the vector of each row, not normalized
}

// Load reads what a model must answer.
func Load(t testing.TB, name string) Expected {
	t.Helper()
	e, err := load(name)
	if err != nil {
		t.Fatalf("expected answers of %s: %v", name, err)
	}
	return e
}

func load(name string) (Expected, error) {
	head, err := files.ReadFile("expected/" + name + ".json")
	if err != nil {
		return Expected{}, err
	}
	var index struct {
		Hidden int       `json:"hidden"`
		Rows   [][]int32 `json:"rows"`
		Pooled []string  `json:"pooled"`
	}
	if err := json.Unmarshal(head, &index); err != nil {
		return Expected{}, err
	}
	data, err := files.ReadFile("expected/" + name + ".f32")
	if err != nil {
		return Expected{}, err
	}
	floats := Floats(data)
	tokens := 0
	for _, r := range index.Rows {
		tokens += len(r)
	}
	if want := index.Hidden * (tokens + len(index.Pooled)*len(index.Rows)); len(floats) != want {
		return Expected{}, fmt.Errorf("%d floats, want %d", len(floats), want)
	}
	take := func(n int) []float32 {
		v := floats[:n:n]
		floats = floats[n:]
		return v
	}
	e := Expected{Dim: index.Hidden, Rows: index.Rows, Pooled: make(map[string][][]float32)}
	for _, r := range e.Rows {
		e.Hidden = append(e.Hidden, take(len(r)*e.Dim))
	}
	for _, mode := range index.Pooled {
		for range e.Rows {
			e.Pooled[mode] = append(e.Pooled[mode], take(e.Dim))
		}
	}
	return e, nil
}

// Floats reads little-endian float32s.
func Floats(b []byte) []float32 {
	v := make([]float32, len(b)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return v
}
