package infer

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/infer/graph"
	"github.com/akidb/akidbd/internal/infer/modeldir"
	"github.com/akidb/akidbd/internal/infer/pooling"
	"github.com/akidb/akidbd/internal/tokenizer"
)

const (
	// graphFile is the graph that is built for a directory without one. Names with this prefix are no part of a
	// model's digest, and the store never takes one from outside.
	graphFile = "akidb-graph.onnx"

	maxTokenizerBytes = 64 << 20
)

// prepare reads everything that is not the backend's.
func prepare(m embedding.Model, dir string, s Settings) (*instance, error) {
	spec, err := modeldir.Read(dir)
	if err != nil {
		return nil, err
	}
	if m.Precision == "" {
		m.Precision = "fp32"
	}
	in := &instance{settings: s, maxTokens: spec.MaxTokens, normalize: spec.Normalize, truncate: true}
	if s.Pooling != "" {
		if spec.Pooling, err = pooling.Parse(s.Pooling); err != nil {
			return nil, err
		}
	}
	if s.MaxTokens > 0 {
		if s.MaxTokens > spec.MaxTokens {
			return nil, fmt.Errorf("max_tokens is %d, the model takes at most %d", s.MaxTokens, spec.MaxTokens)
		}
		in.maxTokens = s.MaxTokens
	}
	if s.Normalize != nil {
		in.normalize = *s.Normalize
	}
	if s.Truncate != nil {
		in.truncate = *s.Truncate
	}
	if err := in.setPrompts(spec, s); err != nil {
		return nil, err
	}
	if in.tokenizer, err = readTokenizer(dir); err != nil {
		return nil, err
	}
	if n := in.tokenizer.VocabSize(); n > spec.Vocab {
		return nil, fmt.Errorf("tokenizer.json has %d tokens, config.json's vocab_size is %d: they do not belong together", n, spec.Vocab)
	}
	in.artifact = Artifact{Dir: dir, Spec: spec, Model: m}
	in.artifact.Graph, err = graphPath(dir, spec)
	return in, err
}

func (in *instance) setPrompts(spec modeldir.Spec, s Settings) error {
	in.prompts, in.defaultPrompt = map[string]string{}, spec.DefaultPrompt
	for _, more := range []map[string]string{spec.Prompts, s.Prompts} {
		for name, text := range more {
			in.prompts[name] = text
		}
	}
	if s.DefaultPrompt != "" {
		in.defaultPrompt = s.DefaultPrompt
	}
	if _, ok := in.prompts[in.defaultPrompt]; in.defaultPrompt != "" && !ok {
		return fmt.Errorf("default prompt %q is not among the model's prompts %v", in.defaultPrompt, in.promptNames())
	}
	return nil
}

func readTokenizer(dir string) (*tokenizer.Tokenizer, error) {
	f, err := os.Open(filepath.Join(dir, "tokenizer.json"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxTokenizerBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxTokenizerBytes {
		return nil, fmt.Errorf("tokenizer.json is over %d MiB", maxTokenizerBytes>>20)
	}
	t, err := tokenizer.Load(data)
	if err != nil {
		return nil, fmt.Errorf("tokenizer.json: %w", err)
	}
	return t, nil
}

// graphPath checks the ready-made graph, or builds one: every time, for it takes a few milliseconds and the
// builder may be newer than the file.
func graphPath(dir string, spec modeldir.Spec) (string, error) {
	if spec.ONNX != "" {
		return filepath.Join(dir, spec.ONNX), graph.CheckExternalData(dir, spec.ONNX)
	}
	path := filepath.Join(dir, graphFile)
	return path, graph.Build(dir, path)
}
