package graph

// names is what an architecture calls its tensors, without ".weight" and ".bias".
type names struct {
	prefix        string // before every name, when the file was saved from a model with a head
	layer         string // format of what precedes a part of layer %d
	query         string
	key           string
	value         string
	attentionOut  string
	attentionNorm string
	inner         string // feed-forward, hidden to intermediate
	outer         string // feed-forward, intermediate to hidden
	outerNorm     string
}

// namesOf gives the names of an architecture, with the prefix that the tensors of a file have.
func namesOf(model string, tensors map[string]tensor) names {
	n := names{
		layer:         "encoder.layer.%d.",
		query:         "attention.self.query",
		key:           "attention.self.key",
		value:         "attention.self.value",
		attentionOut:  "attention.output.dense",
		attentionNorm: "attention.output.LayerNorm",
		inner:         "intermediate.dense",
		outer:         "output.dense",
		outerNorm:     "output.LayerNorm",
	}
	prefix := "bert."
	switch model {
	case "roberta", "xlm-roberta":
		prefix = "roberta."
	case "distilbert":
		prefix = "distilbert."
		n = names{
			layer:         "transformer.layer.%d.",
			query:         "attention.q_lin",
			key:           "attention.k_lin",
			value:         "attention.v_lin",
			attentionOut:  "attention.out_lin",
			attentionNorm: "sa_layer_norm",
			inner:         "ffn.lin1",
			outer:         "ffn.lin2",
			outerNorm:     "output_layer_norm",
		}
	}
	const known = "embeddings.word_embeddings.weight"
	if _, bare := tensors[known]; !bare {
		if _, ok := tensors[prefix+known]; ok {
			n.prefix = prefix
		}
	}
	return n
}
