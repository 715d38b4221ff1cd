package graph_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/akidb/akidbd/internal/infer/graph"
	"github.com/akidb/akidbd/internal/infer/testmodels"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What a graph computes is checked where there is a runtime to run it, in internal/infer/ort.
func TestBuild(t *testing.T) {
	for _, name := range []string{
		testmodels.BERT, testmodels.BERTGeluNew, testmodels.RoBERTa, testmodels.XLMRoBERTa, testmodels.DistilBERT,
	} {
		t.Run(name, func(t *testing.T) {
			dir := testmodels.Dir(t, name)
			out := filepath.Join(dir, "graph.onnx")
			if err := graph.Build(dir, out); err != nil {
				t.Fatal(err)
			}
			if err := graph.CheckExternalData(dir, "graph.onnx"); err != nil {
				t.Error(err)
			}
			info, err := graph.Inspect(dir, out)
			if err != nil {
				t.Fatal(err)
			}
			if info.Opset != 17 || len(info.Inputs) != 2 || len(info.Outputs) != 1 {
				t.Fatalf("opset %d, inputs %v, outputs %v", info.Opset, info.Inputs, info.Outputs)
			}
			for _, in := range []string{"input_ids", "attention_mask"} {
				v, ok := info.Input(in)
				if !ok || v.Elem != graph.Int64 || len(v.Shape) != 2 || v.Shape[0] != -1 || v.Shape[1] != -1 {
					t.Errorf("input %s is %+v", in, v)
				}
			}
			v, ok := info.Output("last_hidden_state")
			if !ok || v.Elem != graph.Float || len(v.Shape) != 3 || v.Shape[1] != -1 || v.Shape[2] != 32 {
				t.Errorf("output is %+v", v)
			}

			first, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if err := graph.Build(dir, out); err != nil {
				t.Fatal(err)
			}
			second, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(first, second) {
				t.Error("two builds differ")
			}
			left, err := filepath.Glob(filepath.Join(dir, "*.tmp"))
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestBuildOutOfTheDirectory(t *testing.T) {
	dir := testmodels.Dir(t, testmodels.BERT)
	err := graph.Build(dir, filepath.Join(t.TempDir(), "graph.onnx"))
	if err == nil || !strings.Contains(err.Error(), "must lie in the directory of its weights") {
		t.Errorf("error is %v", err)
	}
}

func TestBuildLeavesTheOldGraph(t *testing.T) {
	dir := testmodels.Dir(t, testmodels.BERT)
	out := filepath.Join(dir, "graph.onnx")
	if err := os.WriteFile(out, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	setConfig(t, dir, map[string]any{"model_type": "gpt2"})
	if err := graph.Build(dir, out); err == nil {
		t.Fatal("builds gpt2")
	}
	if b, err := os.ReadFile(out); err != nil || string(b) != "old" {
		t.Errorf("the old graph is now %q, %v", b, err)
	}
}

// setConfig sets keys of config.json; nil removes one.
func setConfig(t *testing.T, dir string, set map[string]any) {
	t.Helper()
	path := filepath.Join(dir, "config.json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	object := map[string]any{}
	if err := json.Unmarshal(b, &object); err != nil {
		t.Fatal(err)
	}
	for k, v := range set {
		if object[k] = v; v == nil {
			delete(object, k)
		}
	}
	if b, err = json.Marshal(object); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

type keys = map[string]any

func TestBuildTakesConfigs(t *testing.T) {
	for name, c := range map[string]struct {
		model string
		set   keys
	}{
		"pad_token_id left out":        {testmodels.RoBERTa, keys{"pad_token_id": nil}},
		"pad_token_id null":            {testmodels.BERT, keys{"pad_token_id": json.RawMessage("null")}},
		"absolute positions said":      {testmodels.BERT, keys{"position_embedding_type": "absolute"}},
		"type_vocab_size left out":     {testmodels.BERT, keys{"type_vocab_size": nil}},
		"gelu_pytorch_tanh":            {testmodels.BERT, keys{"hidden_act": "gelu_pytorch_tanh"}},
		"relu":                         {testmodels.BERT, keys{"hidden_act": "relu"}},
		"an epsilon that nobody reads": {testmodels.DistilBERT, keys{"layer_norm_eps": 7}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := testmodels.Dir(t, c.model)
			setConfig(t, dir, c.set)
			if err := graph.Build(dir, filepath.Join(dir, "g.onnx")); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestBuildRefusesConfigs(t *testing.T) {
	for name, c := range map[string]struct {
		model string
		set   keys
		want  string
	}{
		"another model":        {testmodels.BERT, keys{"model_type": "modernbert"}, `config.json: model_type "modernbert": no graph can be built for it (only for bert, distilbert, roberta, xlm-roberta)`},
		"no model type":        {testmodels.BERT, keys{"model_type": nil}, `model_type ""`},
		"relative positions":   {testmodels.BERT, keys{"position_embedding_type": "relative_key"}, `position_embedding_type "relative_key"`},
		"a decoder":            {testmodels.BERT, keys{"is_decoder": true}, "is_decoder"},
		"cross attention":      {testmodels.BERT, keys{"add_cross_attention": true}, "add_cross_attention"},
		"another activation":   {testmodels.BERT, keys{"hidden_act": "silu"}, `activation "silu"`},
		"DistilBERT's":         {testmodels.DistilBERT, keys{"activation": "silu"}, `activation "silu"`},
		"heads that don't fit": {testmodels.BERT, keys{"num_attention_heads": 5}, "hidden_size 32 is not a multiple of num_attention_heads 5"},
		"no heads":             {testmodels.BERT, keys{"num_attention_heads": 0}, "num_attention_heads (n_heads) is 0, must be 1 to 65536"},
		"no layers":            {testmodels.BERT, keys{"num_hidden_layers": nil}, "num_hidden_layers (n_layers) is missing"},
		"many layers":          {testmodels.BERT, keys{"num_hidden_layers": 2000}, "is 2000, must be 1 to 1024"},
		"epsilon 0":            {testmodels.BERT, keys{"layer_norm_eps": 0}, "layer_norm_eps is 0"},
		"no types":             {testmodels.BERT, keys{"type_vocab_size": 0}, "type_vocab_size is 0"},
		"padding outside":      {testmodels.RoBERTa, keys{"pad_token_id": 360}, "pad_token_id is 360, must be 0 to 359"},
		"no free position":     {testmodels.RoBERTa, keys{"pad_token_id": 63}, "leaves no position after pad_token_id 63"},
		"factorized words":     {testmodels.BERT, keys{"embedding_size": 16}, "embedding_size 16"},
		"a wrong size":         {testmodels.BERT, keys{"vocab_size": 171}, `model.safetensors: tensor "embeddings.word_embeddings.weight" has shape [170 32], config.json makes it [171 32]`},
		"a layer too many":     {testmodels.BERT, keys{"num_hidden_layers": 3}, `tensor "encoder.layer.2.attention.self.query.weight" is missing`},
		"names of another":     {testmodels.BERT, keys{"model_type": "distilbert", "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}, `tensor "transformer.layer.0.attention.q_lin.weight" is missing`},
		"a prefixed name":      {testmodels.BERTGeluNew, keys{"num_hidden_layers": 3}, `tensor "bert.encoder.layer.2.attention.self.query.weight" is missing`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := testmodels.Dir(t, c.model)
			setConfig(t, dir, c.set)
			err := graph.Build(dir, filepath.Join(dir, "g.onnx"))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one with %q", err, c.want)
			}
		})
	}
}

// rewriteHeader changes the JSON of a safetensors header and leaves the data as it is.
func rewriteHeader(t *testing.T, path string, change func(map[string]map[string]any)) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := binary.LittleEndian.Uint64(b)
	var header map[string]map[string]any
	if err := json.Unmarshal(b[8:8+n], &header); err != nil {
		t.Fatal(err)
	}
	change(header)
	h, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	out := append(binary.LittleEndian.AppendUint64(nil, uint64(len(h))), h...)
	if err := os.WriteFile(path, append(out, b[8+n:]...), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestBuildRefusesWeights(t *testing.T) {
	const query = "encoder.layer.1.attention.self.query.weight"
	for name, c := range map[string]struct {
		change func(map[string]map[string]any)
		want   string
	}{
		"float16": {func(h map[string]map[string]any) {
			h[query]["dtype"], h[query]["shape"] = "F16", []int{32, 64}
		}, `tensor "` + query + `" has type F16; supported: F32`},
		"bfloat16": {func(h map[string]map[string]any) {
			h[query]["dtype"], h[query]["shape"] = "BF16", []int{32, 64}
		}, "has type BF16"},
		"another shape": {func(h map[string]map[string]any) { h[query]["shape"] = []int{16, 64} },
			`tensor "` + query + `" has shape [16 64], config.json makes it [32 32]`},
		"another name": {func(h map[string]map[string]any) {
			h["x"] = h[query]
			delete(h, query)
		}, `tensor "` + query + `" is missing`},
		"a hole": {func(h map[string]map[string]any) { delete(h, query) }, "overlap or hole"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := testmodels.Dir(t, testmodels.BERT)
			rewriteHeader(t, filepath.Join(dir, "model.safetensors"), c.change)
			err := graph.Build(dir, filepath.Join(dir, "g.onnx"))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestBuildFollowsNoLinks(t *testing.T) {
	for _, name := range []string{"config.json", "model.safetensors"} {
		dir, outside := testmodels.Dir(t, testmodels.BERT), filepath.Join(t.TempDir(), name)
		if err := os.Rename(filepath.Join(dir, name), outside); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(outside, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if err := graph.Build(dir, filepath.Join(dir, "g.onnx")); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s is a link: error is %v", name, err)
		}
	}
	// A link where the temporary file goes must not be written through.
	dir, outside := testmodels.Dir(t, testmodels.BERT), filepath.Join(t.TempDir(), "x")
	if err := os.Symlink(outside, filepath.Join(dir, "g.onnx.tmp")); err != nil {
		t.Fatal(err)
	}
	if err := graph.Build(dir, filepath.Join(dir, "g.onnx")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(outside); err == nil {
		t.Error("wrote through a link")
	}
}

func BenchmarkBuild(b *testing.B) {
	dir := testmodels.Dir(b, testmodels.BERT)
	for b.Loop() {
		if err := graph.Build(dir, filepath.Join(dir, "g.onnx")); err != nil {
			b.Fatal(err)
		}
	}
}
