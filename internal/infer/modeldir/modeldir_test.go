package modeldir_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/akidb/akidbd/internal/infer/modeldir"
	"github.com/akidb/akidbd/internal/infer/pooling"
	"github.com/akidb/akidbd/internal/infer/testmodels"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRead(t *testing.T) {
	for name, want := range map[string]modeldir.Spec{
		testmodels.BERT: {
			Architecture: "bert", MaxTokens: 48, Pooling: pooling.Mean, Normalize: true, Safetensors: "model.safetensors",
		},
		testmodels.BERTGeluNew: {
			Architecture: "bert", MaxTokens: 64, Pooling: pooling.Max, Safetensors: "model.safetensors",
		},
		// 64 positions, of which the first two belong to padding, and max_seq_length says 128.
		testmodels.RoBERTa: {
			Architecture: "roberta", MaxTokens: 62, Pooling: pooling.CLS, Normalize: true, PadID: 1, Safetensors: "model.safetensors",
		},
		testmodels.XLMRoBERTa: {
			Architecture: "xlm-roberta", MaxTokens: 60, Pooling: pooling.Mean, Normalize: true, PadID: 1, Safetensors: "model.safetensors",
			DefaultPrompt: "passage",
		},
		testmodels.DistilBERT: {
			Architecture: "distilbert", MaxTokens: 64, Pooling: pooling.Last, Safetensors: "model.safetensors",
		},
		testmodels.ONNXExternal: {
			Architecture: "bert", MaxTokens: 48, Pooling: pooling.Mean, Normalize: true, ONNX: "onnx/model.onnx",
		},
		testmodels.ONNXSentence: {
			Architecture: "bert", MaxTokens: 48, Pooling: pooling.Mean, Normalize: true, ONNX: "model.onnx",
		},
	} {
		got, err := modeldir.Read(testmodels.Dir(t, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got.Hidden != 32 || got.Vocab < 100 {
			t.Errorf("%s: hidden %d, vocab %d", name, got.Hidden, got.Vocab)
		}
		if got.Architecture != want.Architecture || got.MaxTokens != want.MaxTokens || got.Pooling != want.Pooling ||
			got.Normalize != want.Normalize || got.PadID != want.PadID || got.DefaultPrompt != want.DefaultPrompt ||
			got.ONNX != want.ONNX || got.Safetensors != want.Safetensors {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, want)
		}
	}
}

func TestReadPromptsAndGolden(t *testing.T) {
	spec, err := modeldir.Read(testmodels.Dir(t, testmodels.XLMRoBERTa))
	if err != nil {
		t.Fatal(err)
	}
	if len(spec.Prompts) != 2 || spec.Prompts["query"] != "query: " {
		t.Errorf("prompts are %q", spec.Prompts)
	}
	if g := spec.Golden; g == nil || len(g.Texts) != 5 || len(g.Vectors) != 5 || len(g.Vectors[4]) != 32 {
		t.Errorf("golden is %+v", g)
	}
}

// edit is a change of one model directory, by file: nil removes a file, a string replaces it, a map sets keys
// of a JSON object and a nil in it removes the key.
type edit map[string]any

func (e edit) apply(t *testing.T, dir string) {
	t.Helper()
	for name, change := range e {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch c := change.(type) {
		case nil:
			err = os.RemoveAll(path)
		case string:
			err = os.WriteFile(path, []byte(c), 0o644)
		case map[string]any:
			object := map[string]any{}
			if old, err := os.ReadFile(path); err == nil {
				if err := json.Unmarshal(old, &object); err != nil {
					t.Fatal(err)
				}
			}
			for key, v := range c {
				if object[key] = v; v == nil {
					delete(object, key)
				}
			}
			var b []byte
			if b, err = json.Marshal(object); err == nil {
				err = os.WriteFile(path, b, 0o644)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

type keys = map[string]any

func TestReadVariants(t *testing.T) {
	for name, c := range map[string]struct {
		model string
		edit  edit
		check func(modeldir.Spec) bool
	}{
		"no sentence-transformers files": {testmodels.BERT, edit{
			"modules.json": nil, "1_Pooling": nil, "sentence_bert_config.json": nil,
		}, func(s modeldir.Spec) bool { return s.Pooling == pooling.Mean && s.Normalize && s.MaxTokens == 64 }},
		"no modules.json but a pooling": {testmodels.DistilBERT, edit{"modules.json": nil},
			func(s modeldir.Spec) bool { return s.Pooling == pooling.Last && s.Normalize }},
		"a causal model": {testmodels.BERT, edit{
			"modules.json": nil, "1_Pooling": nil, "config.json": keys{"architectures": []string{"Qwen3ForCausalLM"}},
		}, func(s modeldir.Spec) bool { return s.Pooling == pooling.Last }},
		"the tokenizer's limit": {testmodels.BERT, edit{
			"sentence_bert_config.json": nil, "tokenizer_config.json": keys{"model_max_length": 17},
		}, func(s modeldir.Spec) bool { return s.MaxTokens == 17 }},
		"max_seq_length null": {testmodels.BERT, edit{
			"sentence_bert_config.json": `{"max_seq_length": null}`,
		}, func(s modeldir.Spec) bool { return s.MaxTokens == 64 }},
		"another name of sentence_bert_config.json": {testmodels.RoBERTa, edit{
			"sentence_bert_config.json": nil, "sentence_roberta_config.json": `{"max_seq_length": 20}`,
		}, func(s modeldir.Spec) bool { return s.MaxTokens == 20 }},
		"no limit but the positions": {testmodels.RoBERTa, edit{"sentence_bert_config.json": nil},
			func(s modeldir.Spec) bool { return s.MaxTokens == 62 }},
		"pad_token_id left out": {testmodels.RoBERTa, edit{"config.json": keys{"pad_token_id": nil}},
			func(s modeldir.Spec) bool { return s.PadID == 1 }},
		"a pooling list of one": {testmodels.RoBERTa, edit{"1_Pooling/config.json": keys{"pooling_mode": []string{"weightedmean"}}},
			func(s modeldir.Spec) bool { return s.Pooling == pooling.WeightedMean }},
		"no pooling flag is set": {testmodels.BERT, edit{"1_Pooling/config.json": `{"word_embedding_dimension": 32}`},
			func(s modeldir.Spec) bool { return s.Pooling == pooling.Mean }},
		"mean_sqrt_len": {testmodels.BERT, edit{"1_Pooling/config.json": keys{
			"pooling_mode_mean_tokens": false, "pooling_mode_mean_sqrt_len_tokens": true,
		}}, func(s modeldir.Spec) bool { return s.Pooling == pooling.MeanSqrtLen }},
		"one graph of another name": {testmodels.BERT, edit{"onnx/model_O2.onnx": "x"},
			func(s modeldir.Spec) bool { return s.ONNX == "onnx/model_O2.onnx" }},
		"several graphs beside weights": {testmodels.BERT, edit{"onnx/model_O2.onnx": "x", "onnx/model_O3.onnx": "x"},
			func(s modeldir.Spec) bool { return s.ONNX == "" && s.Safetensors != "" }},
		"several graphs, one is model.onnx": {testmodels.BERT, edit{"onnx/model.onnx": "x", "onnx/model_O3.onnx": "x"},
			func(s modeldir.Spec) bool { return s.ONNX == "onnx/model.onnx" }},
		"a null prompt": {testmodels.BERT, edit{"config_sentence_transformers.json": `{"prompts": {"query": null, "document": "d: "}, "default_prompt_name": null}`},
			func(s modeldir.Spec) bool { return s.Prompts["document"] == "d: " && s.DefaultPrompt == "" }},
	} {
		t.Run(name, func(t *testing.T) {
			dir := testmodels.Dir(t, c.model)
			c.edit.apply(t, dir)
			spec, err := modeldir.Read(dir)
			if err != nil {
				t.Fatal(err)
			}
			if spec.Golden = nil; !c.check(spec) {
				t.Errorf("got %+v", spec)
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	module := func(types ...string) string {
		var list []keys
		for i, typ := range types {
			path := ""
			if i == 1 {
				path = "1_Pooling"
			} else if i > 1 {
				path = "2_More"
			}
			list = append(list, keys{"idx": i, "path": path, "type": typ})
		}
		b, _ := json.Marshal(list)
		return string(b)
	}
	const st = "sentence_transformers.models."
	for name, c := range map[string]struct {
		edit edit
		want string // in the error
	}{
		"no config.json":            {edit{"config.json": nil}, "config.json: no such file"},
		"no JSON":                   {edit{"config.json": "{"}, "config.json: unexpected end"},
		"no model_type":             {edit{"config.json": keys{"model_type": nil}}, "config.json: model_type is missing"},
		"no hidden size":            {edit{"config.json": keys{"hidden_size": nil}}, "hidden_size"},
		"huge hidden size":          {edit{"config.json": keys{"hidden_size": 1 << 30}}, "hidden_size (or dim, n_embd, d_model) is 1073741824, must be 1 to 65536"},
		"no vocabulary":             {edit{"config.json": keys{"vocab_size": 0}}, "vocab_size is 0"},
		"padding outside":           {edit{"config.json": keys{"pad_token_id": 170}}, "pad_token_id is 170, must be 0 to 169"},
		"more than text":            {edit{"config.json": keys{"text_config": keys{}}}, "text_config"},
		"Dense":                     {edit{"modules.json": module(st+"Transformer", st+"Pooling", st+"Dense")}, `modules.json: module 2 of type "sentence_transformers.models.Dense" is not supported`},
		"code of the model's":       {edit{"modules.json": module("custom_st.Transformer", st+"Pooling")}, `module 0 of type "custom_st.Transformer"`},
		"no pooling":                {edit{"modules.json": module(st + "Transformer")}, "modules.json: 1 modules, no Pooling"},
		"no modules":                {edit{"modules.json": "[]"}, "no Pooling"},
		"a folder outside":          {edit{"modules.json": `[{"path":"","type":"sentence_transformers.models.Transformer"},{"path":"../p","type":"sentence_transformers.models.Pooling"}]`}, `path "../p" of module 1 is not a folder`},
		"Transformer in a folder":   {edit{"modules.json": `[{"path":"0_Transformer","type":"sentence_transformers.models.Transformer"}]`}, `path of module 0 is "0_Transformer"`},
		"Pooling without settings":  {edit{"1_Pooling": nil}, "1_Pooling/config.json: no such file"},
		"unknown pooling":           {edit{"1_Pooling/config.json": `{"pooling_mode": "attention"}`}, `1_Pooling/config.json: pooling_mode: unknown pooling "attention"`},
		"two poolings":              {edit{"1_Pooling/config.json": keys{"pooling_mode_max_tokens": true}}, "2 poolings at once (max, mean)"},
		"two poolings, new form":    {edit{"1_Pooling/config.json": `{"pooling_mode": ["cls", "mean"]}`}, "2 poolings at once (cls, mean)"},
		"an unknown pooling key":    {edit{"1_Pooling/config.json": keys{"pooling_mode_splade": true}}, `unknown key "pooling_mode_splade"`},
		"prompts left out":          {edit{"1_Pooling/config.json": keys{"include_prompt": false}}, "include_prompt false"},
		"pooling of another size":   {edit{"1_Pooling/config.json": keys{"word_embedding_dimension": 64}}, "word_embedding_dimension is 64, but the hidden size of config.json is 32"},
		"normalizing tokens":        {edit{"2_Normalize/config.json": `{"module_input_name": "token_embeddings"}`}, `module_input_name "token_embeddings"`},
		"max_seq_length 0":          {edit{"sentence_bert_config.json": `{"max_seq_length": 0}`}, "sentence_bert_config.json: max_seq_length is 0"},
		"lower case":                {edit{"sentence_bert_config.json": `{"max_seq_length": 9, "do_lower_case": true}`}, "do_lower_case"},
		"another task":              {edit{"sentence_bert_config.json": `{"transformer_task": "fill-mask"}`}, `transformer_task "fill-mask"`},
		"settings of the tokenizer": {edit{"sentence_bert_config.json": `{"processing_kwargs": {"text": {"padding_side": "left"}}}`}, "processing_kwargs"},
		"model_max_length -1":       {edit{"sentence_bert_config.json": nil, "tokenizer_config.json": `{"model_max_length": -1}`}, "model_max_length"},
		"no limit at all":           {edit{"sentence_bert_config.json": nil, "config.json": keys{"max_position_embeddings": nil}}, "no limit of input length"},
		"unknown default prompt":    {edit{"config_sentence_transformers.json": `{"default_prompt_name": "query"}`}, `default_prompt_name "query"`},
		"no weights":                {edit{"model.safetensors": nil}, "no model.onnx, onnx/model*.onnx or model.safetensors"},
		"pickled weights":           {edit{"model.safetensors": nil, "pytorch_model.bin": "x"}, "pickle"},
		"weights in pieces":         {edit{"model.safetensors": nil, "model.safetensors.index.json": "{}"}, "several safetensors files"},
		"several graphs":            {edit{"model.safetensors": nil, "onnx/model_O1.onnx": "x", "onnx/model_O2.onnx": "x"}, "several graphs"},
		"golden of another size":    {edit{"golden.json": `{"texts": ["a"], "vectors": [[1, 2]]}`}, "golden.json: vector 0 has 2 dimensions, the model has 32"},
		"golden without vectors":    {edit{"golden.json": `{"texts": ["a"]}`}, "golden.json: 1 texts and 0 vectors"},
		"golden of zeros":           {edit{"golden.json": `{"texts": ["a"], "vectors": [[` + strings.Repeat("0,", 31) + `0]]}`}, "no direction"},
		"an endless config.json":    {edit{"config.json": strings.Repeat(" ", 5<<20)}, "config.json: over 4194304 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := testmodels.Dir(t, testmodels.BERT)
			c.edit.apply(t, dir)
			_, err := modeldir.Read(dir)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestReadFollowsNoLinks(t *testing.T) {
	outside := t.TempDir()
	for _, name := range []string{"config.json", "model.safetensors", "1_Pooling/config.json", "golden.json"} {
		dir := testmodels.Dir(t, testmodels.BERT)
		path := filepath.Join(dir, filepath.FromSlash(name))
		target := filepath.Join(outside, filepath.Base(name))
		if err := os.Rename(path, target); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		if _, err := modeldir.Read(dir); err == nil || !strings.Contains(err.Error(), name+": not a regular file") {
			t.Errorf("%s is a link: error is %v", name, err)
		}
	}
	dir := testmodels.Dir(t, testmodels.BERT)
	if err := os.Rename(filepath.Join(dir, "1_Pooling"), filepath.Join(outside, "p")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(outside, "p"), filepath.Join(dir, "1_Pooling")); err != nil {
		t.Fatal(err)
	}
	if _, err := modeldir.Read(dir); err == nil || !strings.Contains(err.Error(), "escapes") {
		t.Errorf("1_Pooling is a link: error is %v", err)
	}
}

func TestReadNoDirectory(t *testing.T) {
	if _, err := modeldir.Read(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("reads a directory that is not there")
	}
}
