package modeldir_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/akidb/akidbd/internal/infer/modeldir"
	"github.com/akidb/akidbd/internal/infer/pooling"
	"github.com/akidb/akidbd/internal/infer/testmodels"
)

// Whatever the files say, what Read accepts is fit to serve. Run it with -fuzzminimizetime 1x: coverage of file
// access varies, and the fuzzer spends its time on minimizing what it cannot reproduce.
func FuzzRead(f *testing.F) {
	files := []string{"config.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json"}
	for _, name := range []string{testmodels.BERT, testmodels.RoBERTa, testmodels.DistilBERT} {
		dir := testmodels.Dir(f, name)
		var seed [][]byte
		for _, file := range files {
			b, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(file)))
			if err != nil {
				f.Fatal(err)
			}
			seed = append(seed, b)
		}
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	f.Add([]byte(`{"model_type":"x","dim":1,"vocab_size":1,"n_positions":1}`), []byte("[]"), []byte("{}"), []byte("null"))
	f.Fuzz(func(t *testing.T, config, modules, pool, sentence []byte) {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "1_Pooling"), 0o755); err != nil {
			t.Fatal(err)
		}
		for i, b := range [][]byte{config, modules, pool, sentence} {
			if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(files[i])), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "model.onnx"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		s, err := modeldir.Read(dir)
		if err != nil {
			return
		}
		if s.Hidden < 1 || s.Vocab < 1 || s.MaxTokens < 1 || int(s.PadID) >= s.Vocab || s.PadID < 0 || !slices.Contains(pooling.Modes(), s.Pooling) {
			t.Errorf("accepted %+v", s)
		}
	})
}
