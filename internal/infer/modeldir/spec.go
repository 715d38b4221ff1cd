package modeldir

import "github.com/akidb/akidbd/internal/infer/pooling"

// Spec is what a model directory says about its model.
type Spec struct {
	Architecture string // model_type of config.json: "bert", "roberta", "xlm-roberta", "distilbert", ...
	Hidden       int    // length of a token vector and of a pooled vector
	Vocab        int    // token ids are 0 to Vocab-1
	// MaxTokens is the longest input in tokens, specials included: max_seq_length of
	// sentence_bert_config.json, else model_max_length of tokenizer_config.json, and never more than the
	// model has positions for. The truncation of tokenizer.json has no say: all-MiniLM-L6-v2's says 128.
	MaxTokens int
	// Pooling is what 1_Pooling/config.json says. Without one it is the mean, or the last token for a
	// model whose architectures says ForCausalLM: what sentence-transformers does with such a directory.
	Pooling pooling.Mode
	// Normalize says that a vector is L2-normalized when the request has no wish. It follows modules.json;
	// a directory without that file is normalized, as text-embeddings-inference does, so that a dot product
	// of its vectors is their cosine.
	Normalize     bool
	Prompts       map[string]string // by name; nil when there are none
	DefaultPrompt string            // name of the prompt of requests that name none; "" means no prompt
	PadID         int32             // id that fills padded positions
	ONNX          string            // ready-made graph, slash-separated and relative; "": build one from Safetensors
	Safetensors   string            // weights, relative; "" when there are none
	Golden        *Golden           // golden.json; nil when there is none
}

// Golden is texts and the vectors that a model must give for them: those of a request without options, so
// with the default prompt and normalized as Spec.Normalize says.
type Golden struct {
	Texts   []string    `json:"texts"`
	Vectors [][]float32 `json:"vectors"` // one per text, each of Spec.Hidden floats
}
