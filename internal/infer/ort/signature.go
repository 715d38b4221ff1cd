package ort

import (
	"fmt"
	"strings"

	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/infer/graph"
)

// role is what an input of a graph means.
type role int

const (
	inputIDs       role = iota // token ids
	inputMask                  // 1 for a token, 0 for padding
	inputTypes                 // token types, all 0: one text, not a pair
	inputPositions             // from 0
	inputPast                  // past keys or values: empty
)

type input struct {
	name           string
	role           role
	heads, headDim int64 // of inputPast
}

// signature is how a graph is fed and read.
type signature struct {
	inputs []input
	output graph.Value
	pooled bool // the output is [rows, dim] already
}

func (s signature) has(r role) bool {
	for _, in := range s.inputs {
		if in.role == r {
			return true
		}
	}
	return false
}

func (s signature) inputNames() []string {
	names := make([]string, len(s.inputs))
	for i, in := range s.inputs {
		names[i] = in.name
	}
	return names
}

// readSignature reads the graph's inputs and outputs by name and refuses what it does not know.
func readSignature(a infer.Artifact) (signature, error) {
	info, err := graph.Inspect(a.Dir, a.Graph)
	if err != nil {
		return signature{}, err
	}
	var s signature
	for _, v := range info.Inputs {
		in, err := readInput(v)
		if err != nil {
			return signature{}, fmt.Errorf("%s: %w", a.Graph, err)
		}
		s.inputs = append(s.inputs, in)
	}
	if !s.has(inputIDs) || !s.has(inputMask) {
		return signature{}, fmt.Errorf("%s: the graph needs the inputs input_ids and attention_mask, it has %s", a.Graph, names(info.Inputs))
	}
	if err := s.pickOutput(info.Outputs); err != nil {
		return signature{}, fmt.Errorf("%s: %w", a.Graph, err)
	}
	return s, nil
}

func readInput(v graph.Value) (input, error) {
	known := map[string]role{
		"input_ids": inputIDs, "attention_mask": inputMask, "token_type_ids": inputTypes, "position_ids": inputPositions,
	}
	if strings.HasPrefix(v.Name, "past_key_values.") {
		if v.Elem != graph.Float || len(v.Shape) != 4 || v.Shape[1] < 1 || v.Shape[3] < 1 {
			return input{}, fmt.Errorf("input %s is %v%v, supported is float32 [batch, heads, past, size]", v.Name, v.Elem, v.Shape)
		}
		return input{name: v.Name, role: inputPast, heads: v.Shape[1], headDim: v.Shape[3]}, nil
	}
	r, ok := known[v.Name]
	if !ok {
		return input{}, fmt.Errorf("input %s is unknown, supported are input_ids, attention_mask, token_type_ids, position_ids and past_key_values.*", v.Name)
	}
	if v.Elem != graph.Int64 {
		return input{}, fmt.Errorf("input %s is of type %v, supported is int64", v.Name, v.Elem)
	}
	return input{name: v.Name, role: r}, nil
}

// pickOutput prefers a vector that the graph pooled itself.
func (s *signature) pickOutput(outputs []graph.Value) error {
	for _, name := range []string{"sentence_embedding", "last_hidden_state", "token_embeddings"} {
		for _, v := range outputs {
			if v.Name != name {
				continue
			}
			if v.Elem != graph.Float {
				return fmt.Errorf("output %s is of type %v, supported is float", v.Name, v.Elem)
			}
			s.output, s.pooled = v, name == "sentence_embedding"
			return nil
		}
	}
	return fmt.Errorf("the graph needs an output sentence_embedding, last_hidden_state or token_embeddings, it has %s", names(outputs))
}

func names(values []graph.Value) string {
	list := make([]string, len(values))
	for i, v := range values {
		list[i] = v.Name
	}
	return strings.Join(list, ", ")
}
