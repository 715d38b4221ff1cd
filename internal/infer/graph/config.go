package graph

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// config is what a BERT-like encoder's config.json says, under one set of names.
type config struct {
	model        string // model_type
	hidden       int64
	layers       int64
	heads        int64
	intermediate int64
	vocab        int64
	positions    int64 // rows of the position table
	types        int64 // rows of the token type table, 0 without one
	pad          int64
	epsilon      float32 // of every layer normalization
	activation   string
}

// rawConfig is config.json with the keys of every supported architecture. A nil was left out.
type rawConfig struct {
	ModelType      string  `json:"model_type"`
	PositionType   *string `json:"position_embedding_type"`
	IsDecoder      bool    `json:"is_decoder"`
	CrossAttention bool    `json:"add_cross_attention"`

	HiddenSize    *int64   `json:"hidden_size"`
	Layers        *int64   `json:"num_hidden_layers"`
	Heads         *int64   `json:"num_attention_heads"`
	Intermediate  *int64   `json:"intermediate_size"`
	Vocab         *int64   `json:"vocab_size"`
	Positions     *int64   `json:"max_position_embeddings"`
	Types         *int64   `json:"type_vocab_size"`
	Pad           *int64   `json:"pad_token_id"`
	Epsilon       *float64 `json:"layer_norm_eps"`
	HiddenAct     *string  `json:"hidden_act"`
	EmbeddingSize *int64   `json:"embedding_size"`

	// DistilBERT's own names.
	Dim        *int64  `json:"dim"`
	HiddenDim  *int64  `json:"hidden_dim"`
	NLayers    *int64  `json:"n_layers"`
	NHeads     *int64  `json:"n_heads"`
	Activation *string `json:"activation"`
}

// supported is the model types that Build takes.
func supported() []string { return []string{"bert", "distilbert", "roberta", "xlm-roberta"} }

// Bounds of config.json's numbers; no published encoder comes near them.
const (
	maxLayers = 1 << 10
	maxWidth  = 1 << 16
	maxRows   = 1 << 24
)

// parseConfig reads config.json. Errors name the key. Defaults are those of transformers' configuration
// classes for keys that have come and gone between its versions; sizes have none here.
func parseConfig(b []byte) (config, error) {
	var raw rawConfig
	if err := json.Unmarshal(b, &raw); err != nil {
		return config{}, err
	}
	if !slices.Contains(supported(), raw.ModelType) {
		return config{}, fmt.Errorf("model_type %q: no graph can be built for it (only for %s); put a model.onnx into the directory",
			raw.ModelType, strings.Join(supported(), ", "))
	}
	if p := raw.PositionType; p != nil && *p != "absolute" {
		return config{}, fmt.Errorf("position_embedding_type %q is not supported; supported: absolute", *p)
	}
	if raw.IsDecoder || raw.CrossAttention {
		return config{}, fmt.Errorf("is_decoder or add_cross_attention is true: only encoders are supported")
	}
	c := config{model: raw.ModelType, epsilon: 1e-12, activation: "gelu"}
	if raw.ModelType == "distilbert" {
		raw.HiddenSize, raw.Intermediate, raw.Layers, raw.Heads = raw.Dim, raw.HiddenDim, raw.NLayers, raw.NHeads
		raw.HiddenAct, raw.Types, raw.Epsilon = raw.Activation, new(int64), nil
	} else if raw.Types == nil {
		two := int64(2)
		raw.Types = &two
	}
	if e := raw.EmbeddingSize; e != nil && (raw.HiddenSize == nil || *e != *raw.HiddenSize) {
		return config{}, fmt.Errorf("embedding_size %d other than hidden_size is not supported", *e)
	}
	if raw.Epsilon != nil {
		c.epsilon = float32(*raw.Epsilon)
	}
	if raw.HiddenAct != nil {
		c.activation = *raw.HiddenAct
	}
	if raw.Pad != nil {
		c.pad = *raw.Pad
	} else if c.offsetPositions() {
		c.pad = 1
	}
	for _, f := range []struct {
		key       string
		from      *int64
		to        *int64
		low, high int64
	}{
		{"hidden_size (dim)", raw.HiddenSize, &c.hidden, 1, maxWidth},
		{"num_hidden_layers (n_layers)", raw.Layers, &c.layers, 1, maxLayers},
		{"num_attention_heads (n_heads)", raw.Heads, &c.heads, 1, maxWidth},
		{"intermediate_size (hidden_dim)", raw.Intermediate, &c.intermediate, 1, 16 * maxWidth},
		{"vocab_size", raw.Vocab, &c.vocab, 1, maxRows},
		{"max_position_embeddings", raw.Positions, &c.positions, 1, maxRows},
		{"type_vocab_size", raw.Types, &c.types, 0, maxRows},
	} {
		if f.from == nil {
			return config{}, fmt.Errorf("%s is missing", f.key)
		}
		if *f.from < f.low || *f.from > f.high {
			return config{}, fmt.Errorf("%s is %d, must be %d to %d", f.key, *f.from, f.low, f.high)
		}
		*f.to = *f.from
	}
	return c, c.check()
}

func (c config) check() error {
	switch {
	case c.hidden%c.heads != 0:
		return fmt.Errorf("hidden_size %d is not a multiple of num_attention_heads %d", c.hidden, c.heads)
	case !(c.epsilon > 0 && c.epsilon < 1):
		return fmt.Errorf("layer_norm_eps is %g, must be over 0 and under 1", c.epsilon)
	case c.pad < 0 || c.pad >= c.vocab:
		return fmt.Errorf("pad_token_id is %d, must be 0 to %d (vocab_size - 1)", c.pad, c.vocab-1)
	case c.model != "distilbert" && c.types == 0:
		return fmt.Errorf("type_vocab_size is 0, must be at least 1")
	case c.offsetPositions() && c.positions < c.pad+2:
		return fmt.Errorf("max_position_embeddings %d leaves no position after pad_token_id %d", c.positions, c.pad)
	}
	if _, ok := activations()[c.activation]; !ok {
		return fmt.Errorf("activation %q (hidden_act) is not supported; supported: gelu, gelu_new, gelu_pytorch_tanh, relu", c.activation)
	}
	return nil
}

// offsetPositions says whether positions count from pad+1, as in fairseq's models.
func (c config) offsetPositions() bool { return c.model == "roberta" || c.model == "xlm-roberta" }
