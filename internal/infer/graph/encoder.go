package graph

import (
	"fmt"
	"math"
	"slices"
)

// encoder writes the graph of one BERT-like encoder.
type encoder struct {
	writer
	config
	names   names
	tensors map[string]tensor
	err     error // the first tensor that is missing or wrong
}

// encode gives the ONNX file of a model. weights is the location of its external data.
func encode(c config, tensors map[string]tensor, weights string) ([]byte, error) {
	e := &encoder{writer: writer{weights: weights}, config: c, tensors: tensors}
	e.names = namesOf(c.model, tensors)

	e.input("input_ids", elemInt64, "batch", "sequence")
	e.input("attention_mask", elemInt64, "batch", "sequence")
	e.constants()
	mask := e.mask()
	x := e.node("embeddings/rows", "Reshape", []string{e.embeddings(), "rows_shape"})
	for i := range c.layers {
		x = e.layer(i, x, mask)
	}
	x = e.node("last_hidden_state", "Reshape", []string{x, "shape/out"})
	e.output(x, elemFloat, "batch", "sequence", fmt.Sprint(c.hidden))
	if e.err != nil {
		return nil, e.err
	}
	return e.file(c.model), nil
}

// tensor adds the named tensor of the weights as an initializer, after a look at its type and shape.
func (e *encoder) tensor(name string, shape ...int64) string {
	full := e.names.prefix + name
	t, ok := e.tensors[full]
	switch {
	case e.err != nil:
	case !ok:
		e.err = fmt.Errorf("tensor %q is missing; model_type %s with this config.json needs it", full, e.config.model)
	case t.dtype != "F32":
		e.err = fmt.Errorf("tensor %q has type %s; supported: F32", full, t.dtype)
	case !slices.Equal(t.shape, shape):
		e.err = fmt.Errorf("tensor %q has shape %v, config.json makes it %v", full, t.shape, shape)
	default:
		return e.external(full, t)
	}
	return full
}

// constants adds what all layers share: scalars and the shapes between which activations go.
func (e *encoder) constants() {
	e.int64s("axis_0", 0)
	e.int64s("axis_1", 1)
	e.int64s("axis_2", 2)
	e.floatScalar("one", 1)
	e.floatScalar("half", 0.5)
	e.floatScalar("sqrt_head", float32(math.Sqrt(float64(e.hidden/e.heads))))
	e.floatScalar("mask_value", maskValue)

	e.int64s("rows_shape", -1, e.hidden)
	shape := e.node("shape/ids", "Shape", []string{"input_ids"})
	e.node("shape/heads", "Concat", []string{shape, e.int64s("head_dims", e.heads, e.hidden/e.heads)}, intAttr("axis", 0))
	e.node("shape/out", "Concat", []string{shape, e.int64s("hidden_dim", e.hidden)}, intAttr("axis", 0))
	e.node("shape/sequence", "Slice", []string{shape, "axis_1", "axis_2", "axis_0"})
}

// mask gives what is added to attention scores, float [batch, 1, 1, sequence]: 0 for a token, a huge
// negative number for padding.
func (e *encoder) mask() string {
	m := e.node("mask/unsqueeze_1", "Unsqueeze", []string{"attention_mask", "axis_1"})
	m = e.node("mask/unsqueeze_2", "Unsqueeze", []string{m, "axis_2"})
	m = e.node("mask/float", "Cast", []string{m}, intAttr("to", elemFloat))
	m = e.node("mask/inverse", "Sub", []string{"one", m})
	return e.node("mask/additive", "Mul", []string{m, "mask_value"})
}

// embeddings gives the sum of word, position and token type vectors, normalized.
func (e *encoder) embeddings() string {
	words := e.node("embeddings/words", "Gather",
		[]string{e.tensor("embeddings.word_embeddings.weight", e.vocab, e.hidden), "input_ids"}, intAttr("axis", 0))
	table := e.tensor("embeddings.position_embeddings.weight", e.positions, e.hidden)
	var positions string
	if e.offsetPositions() {
		positions = e.node("embeddings/positions", "Gather", []string{table, e.countedPositions()}, intAttr("axis", 0))
	} else {
		positions = e.node("embeddings/positions", "Slice", []string{table, "axis_0", "shape/sequence", "axis_0"})
	}
	if e.types > 0 {
		types := e.tensor("embeddings.token_type_embeddings.weight", e.types, e.hidden)
		row := e.node("embeddings/type", "Gather", []string{types, e.int64Scalar("type_0", 0)}, intAttr("axis", 0))
		positions = e.node("embeddings/positions_and_type", "Add", []string{positions, row})
	}
	sum := e.node("embeddings/sum", "Add", []string{words, positions})
	return e.normalize("embeddings/normalized", sum, "embeddings.LayerNorm")
}

// countedPositions gives the positions of RoBERTa, int64 [batch, sequence]: pad + how many ids up to and with
// this one are not pad, and pad for a pad. Ids count, not the mask: that is how transformers treats a pad
// token in the middle of a text.
func (e *encoder) countedPositions() string {
	pad := e.int64Scalar("pad", e.pad)
	is := e.node("embeddings/is_pad", "Equal", []string{"input_ids", pad})
	not := e.node("embeddings/is_token", "Not", []string{is})
	one := e.node("embeddings/token", "Cast", []string{not}, intAttr("to", elemInt64))
	count := e.node("embeddings/count", "CumSum", []string{one, e.int32Scalar("cumsum_axis", 1)})
	count = e.node("embeddings/count_tokens", "Mul", []string{count, one})
	return e.node("embeddings/position_ids", "Add", []string{count, pad})
}

// layer adds one transformer layer to x, [batch * sequence, hidden]: attention and a feed-forward part, each
// added to its input and normalized.
func (e *encoder) layer(i int64, x, mask string) string {
	at, n := fmt.Sprintf("layer.%d/", i), e.names
	from := func(part string) string { return fmt.Sprintf(n.layer, i) + part }

	a := e.attention(at+"attention/", x, mask, from)
	a = e.linear(at+"attention/output", a, from(n.attentionOut), e.hidden, e.hidden)
	a = e.node(at+"attention/sum", "Add", []string{a, x})
	a = e.normalize(at+"attention/normalized", a, from(n.attentionNorm))

	f := e.linear(at+"feed_forward/inner", a, from(n.inner), e.hidden, e.intermediate)
	f = activations()[e.activation](e, at+"feed_forward/", f)
	f = e.linear(at+"feed_forward/outer", f, from(n.outer), e.intermediate, e.hidden)
	f = e.node(at+"feed_forward/sum", "Add", []string{f, a})
	return e.normalize(at+"normalized", f, from(n.outerNorm))
}

// attention adds multi-head self-attention.
func (e *encoder) attention(at, x, mask string, from func(string) string) string {
	heads := func(part, weight string, perm ...int64) string {
		y := e.linear(at+part, x, from(weight), e.hidden, e.hidden)
		y = e.node(at+part+"_split", "Reshape", []string{y, "shape/heads"})
		return e.node(at+part+"_heads", "Transpose", []string{y}, intsAttr("perm", perm...))
	}
	q := heads("query", e.names.query, 0, 2, 1, 3)
	k := heads("key", e.names.key, 0, 2, 3, 1)
	v := heads("value", e.names.value, 0, 2, 1, 3)
	s := e.node(at+"scores", "MatMul", []string{q, k})
	s = e.node(at+"scores_scaled", "Div", []string{s, "sqrt_head"})
	s = e.node(at+"scores_masked", "Add", []string{s, mask})
	p := e.node(at+"probabilities", "Softmax", []string{s}, intAttr("axis", 3))
	y := e.node(at+"context", "MatMul", []string{p, v})
	y = e.node(at+"context_transposed", "Transpose", []string{y}, intsAttr("perm", 0, 2, 1, 3))
	return e.node(at+"context_merged", "Reshape", []string{y, "rows_shape"})
}

// linear adds x W^T + b. Activations have two dimensions for its sake: a Gemm takes PyTorch's [out, in]
// weights as they lie in the file and the bias with them. A MatMul of three dimensions needs a transposed
// copy of the weights and an Add; on all-MiniLM-L6-v2 that was up to 4 % slower and took 12 MB more.
func (e *encoder) linear(name, x, weights string, in, out int64) string {
	w := e.tensor(weights+".weight", out, in)
	b := e.tensor(weights+".bias", out)
	return e.node(name, "Gemm", []string{x, w, b}, intAttr("transB", 1))
}

func (e *encoder) normalize(name, x, weights string) string {
	scale := e.tensor(weights+".weight", e.hidden)
	bias := e.tensor(weights+".bias", e.hidden)
	return e.node(name, "LayerNormalization", []string{x, scale, bias}, intAttr("axis", -1), floatAttr("epsilon", e.epsilon))
}

// maskValue is BERT's own: its exponential is 0 in float32 unless scores differ by thousands, and it fits
// into a float16.
const maskValue = -10000
