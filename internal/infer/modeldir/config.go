package modeldir

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
)

// Bounds of a number in config.json that sizes something. No published model comes near them.
const (
	maxHidden    = 1 << 16
	maxVocab     = 1 << 24
	maxPositions = 1 << 20
)

// config is the part of config.json that serving needs, whatever the architecture calls it.
type config struct {
	ModelType     string   `json:"model_type"`
	Architectures []string `json:"architectures"`
	HiddenSize    *int     `json:"hidden_size"`
	Dim           *int     `json:"dim"`    // distilbert
	NEmbd         *int     `json:"n_embd"` // gpt2, nomic_bert
	DModel        *int     `json:"d_model"`
	VocabSize     *int     `json:"vocab_size"`
	MaxPosition   *int     `json:"max_position_embeddings"`
	NPositions    *int     `json:"n_positions"`
	PadTokenID    *int     `json:"pad_token_id"`
	TextConfig    any      `json:"text_config"`
}

func readConfig(f files) (config, error) {
	var c config
	ok, err := f.json("config.json", maxConfigBytes, &c)
	if err != nil {
		return config{}, err
	}
	if !ok {
		return config{}, fmt.Errorf("config.json: no such file; this is not a Hugging Face model directory")
	}
	return c, nil
}

// offsetPositions says whether the position of the first token is PadID+1, as in fairseq's models.
func (c config) offsetPositions() bool {
	switch c.ModelType {
	case "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet":
		return true
	}
	return false
}

func (c config) fill(spec *Spec) error {
	if c.ModelType == "" {
		return fmt.Errorf("model_type is missing")
	}
	if c.TextConfig != nil {
		return fmt.Errorf("text_config: models of more than text are not supported")
	}
	hidden := firstSet(c.HiddenSize, c.Dim, c.NEmbd, c.DModel)
	if err := within("hidden_size (or dim, n_embd, d_model)", hidden, 1, maxHidden); err != nil {
		return err
	}
	if err := within("vocab_size", c.VocabSize, 1, maxVocab); err != nil {
		return err
	}
	// The defaults of transformers' configuration classes, for a file that leaves the key out.
	pad := 0
	if c.offsetPositions() {
		pad = 1
	}
	if c.PadTokenID != nil {
		pad = *c.PadTokenID
	}
	if err := within("pad_token_id", &pad, 0, *c.VocabSize-1); err != nil {
		return err
	}
	spec.Architecture, spec.Hidden, spec.Vocab, spec.PadID = c.ModelType, *hidden, *c.VocabSize, int32(pad)
	return nil
}

// maxTokens gives the longest input. See Spec.MaxTokens.
func maxTokens(f files, c config, spec Spec) (int, error) {
	positions := firstSet(c.MaxPosition, c.NPositions)
	limit := 0
	if positions != nil {
		if err := within("max_position_embeddings", positions, 1, maxPositions); err != nil {
			return 0, fmt.Errorf("config.json: %w", err)
		}
		limit = *positions
		if c.offsetPositions() {
			limit -= int(spec.PadID) + 1
		}
		if limit < 1 {
			return 0, fmt.Errorf("config.json: max_position_embeddings %d leaves no position for a token after pad_token_id %d", *positions, spec.PadID)
		}
	}
	asked, err := readSequenceLimit(f)
	if err != nil {
		return 0, err
	}
	switch {
	case asked == 0 && limit == 0:
		return 0, fmt.Errorf("no limit of input length: set max_seq_length in sentence_bert_config.json")
	case asked == 0:
		return limit, nil
	case limit == 0:
		return asked, nil
	}
	return min(asked, limit), nil
}

// sentenceConfig is the settings of sentence-transformers' Transformer module.
type sentenceConfig struct {
	MaxSeqLength *int    `json:"max_seq_length"`
	DoLowerCase  bool    `json:"do_lower_case"`
	Task         *string `json:"transformer_task"`
	OutputName   *string `json:"module_output_name"`

	Processing      map[string]json.RawMessage `json:"processing_kwargs"`
	ProcessorKwargs map[string]json.RawMessage `json:"processor_kwargs"`
	TokenizerArgs   map[string]json.RawMessage `json:"tokenizer_args"`
}

// readSequenceLimit gives max_seq_length, else the tokenizer's model_max_length, else 0.
func readSequenceLimit(f files) (int, error) {
	for _, name := range sentenceConfigNames() {
		var s sentenceConfig
		ok, err := f.json(name, maxConfigBytes, &s)
		if err != nil {
			return 0, err
		}
		if !ok {
			continue
		}
		if err := s.check(); err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		if s.MaxSeqLength != nil {
			return *s.MaxSeqLength, nil
		}
		break
	}
	var t struct {
		// A float: transformers writes 1000000000000000019884624838656 for "no limit".
		ModelMaxLength *float64 `json:"model_max_length"`
	}
	if _, err := f.json("tokenizer_config.json", maxConfigBytes, &t); err != nil {
		return 0, err
	}
	if t.ModelMaxLength == nil || *t.ModelMaxLength > maxPositions {
		return 0, nil
	}
	if n := *t.ModelMaxLength; n < 1 || n != math.Trunc(n) {
		return 0, fmt.Errorf("tokenizer_config.json: model_max_length %v is not a positive whole number", n)
	}
	return int(*t.ModelMaxLength), nil
}

// sentenceConfigNames is the names that sentence-transformers has used, in the order in which it looks.
func sentenceConfigNames() []string {
	return []string{
		"sentence_bert_config.json", "sentence_roberta_config.json", "sentence_distilbert_config.json",
		"sentence_camembert_config.json", "sentence_albert_config.json", "sentence_xlm-roberta_config.json",
		"sentence_xlnet_config.json",
	}
}

func (s sentenceConfig) check() error {
	switch {
	case s.MaxSeqLength != nil && (*s.MaxSeqLength < 1 || *s.MaxSeqLength > maxPositions):
		return fmt.Errorf("max_seq_length is %d, must be 1 to %d", *s.MaxSeqLength, maxPositions)
	case s.DoLowerCase:
		return fmt.Errorf("do_lower_case true is not supported; put a Lowercase normalizer into tokenizer.json and set it to false")
	case s.Task != nil && *s.Task != "feature-extraction":
		return fmt.Errorf("transformer_task %q is not supported; supported: feature-extraction", *s.Task)
	case s.OutputName != nil && *s.OutputName != "token_embeddings":
		return fmt.Errorf("module_output_name %q is not supported; supported: token_embeddings", *s.OutputName)
	}
	for key, args := range map[string]map[string]json.RawMessage{
		"processing_kwargs": s.Processing, "processor_kwargs": s.ProcessorKwargs, "tokenizer_args": s.TokenizerArgs,
	} {
		for name := range args {
			if name != "trust_remote_code" && name != "model_max_length" {
				return fmt.Errorf("%s has %q: settings of the tokenizer beside tokenizer.json are not supported", key, name)
			}
		}
	}
	return nil
}

// causal says whether the model was trained to continue text, so that its last token knows the whole text.
func (c config) causal() bool {
	return len(c.Architectures) > 0 && strings.HasSuffix(c.Architectures[0], "ForCausalLM")
}

func firstSet(values ...*int) *int {
	for _, v := range values {
		if v != nil {
			return v
		}
	}
	return nil
}

func within(key string, v *int, low, high int) error {
	if v == nil {
		return fmt.Errorf("%s is missing", key)
	}
	if *v < low || *v > high {
		return fmt.Errorf("%s is %d, must be %d to %d", key, *v, low, high)
	}
	return nil
}
