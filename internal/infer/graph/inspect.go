package graph

import (
	"fmt"
	"math"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protowire"
)

// Info is what an ONNX file says about how to call it.
type Info struct {
	Opset   int64   // version of the standard operators, 0 when the file names none
	Inputs  []Value // what a caller feeds, in order; inputs with a default (an initializer) are left out
	Outputs []Value // in order
}

// Value is an input or output of a graph.
type Value struct {
	Name string
	Elem ElemType
	// Shape has -1 for a dimension that is known only when the graph runs. It is empty for a scalar, and
	// also when the file does not tell the shape.
	Shape []int64
}

// ElemType is the type of a tensor's elements: ONNX's TensorProto.DataType.
type ElemType int32

// Element types that inputs and outputs of text encoders have.
const (
	Float    ElemType = 1
	Int32    ElemType = 6
	Int64    ElemType = 7
	Bool     ElemType = 9
	Float16  ElemType = 10
	Double   ElemType = 11
	BFloat16 ElemType = 16
)

// Output finds an output by name.
func (i Info) Output(name string) (Value, bool) { return find(i.Outputs, name) }

// Input finds an input by name.
func (i Info) Input(name string) (Value, bool) { return find(i.Inputs, name) }

func find(values []Value, name string) (Value, bool) {
	for _, v := range values {
		if v.Name == name {
			return v, true
		}
	}
	return Value{}, false
}

// maxValues bounds the inputs and the outputs of a graph: a decoder of 100 layers has some 200 of each.
const maxValues = 4096

// Inspect reads inputs and outputs of the ONNX file name, a path relative to dir or absolute and in dir.
// It does not load weights, and it does not look at external data: see CheckExternalData.
func Inspect(dir, name string) (Info, error) {
	var info Info
	defaults := make(map[string]bool)
	err := readModel(dir, name, visitor{
		opset:  func(v int64) { info.Opset = v },
		input:  func(v Value) { info.Inputs = append(info.Inputs, v) },
		output: func(v Value) { info.Outputs = append(info.Outputs, v) },
		initializer: func(name string) {
			defaults[name] = true
		},
	})
	if err != nil {
		return Info{}, fmt.Errorf("%s: %w", name, err)
	}
	inputs := info.Inputs[:0]
	for _, v := range info.Inputs {
		if !defaults[v.Name] {
			inputs = append(inputs, v)
		}
	}
	info.Inputs = inputs
	return info, nil
}

// visitor gets what is found in a model. A nil function is not called.
type visitor struct {
	opset       func(version int64)
	input       func(Value)
	output      func(Value)
	initializer func(name string) // of the main graph
	external    func(externalTensor) error
}

// readModel reads an ONNX file.
func readModel(dir, name string, v visitor) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	rel, err := inside(dir, name)
	if err != nil {
		return err
	}
	f, size, err := openRegular(root, rel)
	if err != nil {
		return err
	}
	defer f.Close()
	return walkModel(newWire(f, size).all(), v)
}

// inside makes name relative to dir.
func inside(dir, name string) (string, error) {
	rel := filepath.FromSlash(name)
	if filepath.IsAbs(rel) {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", err
		}
		if rel, err = filepath.Rel(abs, rel); err != nil {
			return "", err
		}
	}
	if !filepath.IsLocal(rel) {
		return "", fmt.Errorf("not a file of the directory %s", dir)
	}
	return filepath.Clean(rel), nil
}

// walkModel walks a ModelProto.
func walkModel(s section, v visitor) error {
	graphs := 0
	for s.more() {
		f, err := s.next()
		if err != nil {
			return err
		}
		switch f.number {
		case 7: // graph
			// Protobuf would merge a second one into the first; no writer makes two.
			if graphs++; graphs > 1 {
				return fmt.Errorf("two main graphs")
			}
			err = walkGraph(f.body, v, 0)
		case 8: // opset_import
			err = walkOpset(f.body, v)
		case 20: // training_info: initialization, algorithm
			err = walkEach(f.body, func(g field) error {
				if g.number == 1 || g.number == 2 {
					return walkGraph(g.body, v.below(), 1)
				}
				return nil
			})
		case 25: // functions: node, attribute_proto
			err = walkEach(f.body, func(g field) error {
				switch g.number {
				case 7:
					return walkNode(g.body, v, 1)
				case 11:
					return walkAttribute(g.body, v, 1)
				}
				return nil
			})
		}
		if err != nil {
			return err
		}
	}
	if graphs == 0 {
		return fmt.Errorf("no graph in it: not an ONNX file")
	}
	return nil
}

// below is the visitor of graphs that are not the main one: their inputs are nobody's to feed.
func (v visitor) below() visitor { return visitor{external: v.external} }

func walkEach(s section, do func(field) error) error {
	for s.more() {
		f, err := s.next()
		if err != nil {
			return err
		}
		if err := do(f); err != nil {
			return err
		}
	}
	return nil
}

func walkOpset(s section, v visitor) error {
	domain, version := "", int64(0)
	err := walkEach(s, func(f field) (err error) {
		switch {
		case f.number == 1:
			domain, err = f.body.text()
		case f.number == 2 && f.kind == protowire.VarintType:
			version = int64(f.value)
		}
		return err
	})
	if err == nil && (domain == "" || domain == "ai.onnx") && v.opset != nil {
		v.opset(version)
	}
	return err
}

// walkGraph walks a GraphProto.
func walkGraph(s section, v visitor, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("graphs are nested deeper than %d", maxDepth)
	}
	inputs, outputs := 0, 0
	value := func(f field, n *int, to func(Value)) error {
		if *n++; *n > maxValues {
			return fmt.Errorf("more than %d inputs or outputs", maxValues)
		}
		if to == nil {
			return nil
		}
		got, err := readValue(f.body)
		if err == nil {
			to(got)
		}
		return err
	}
	return walkEach(s, func(f field) error {
		switch f.number {
		case 1:
			return walkNode(f.body, v, depth)
		case 5:
			return walkTensor(f.body, v)
		case 11:
			return value(f, &inputs, v.input)
		case 12:
			return value(f, &outputs, v.output)
		case 15:
			return walkSparse(f.body, v.below())
		}
		return nil
	})
}

func walkNode(s section, v visitor, depth int) error {
	return walkEach(s, func(f field) error {
		if f.number == 5 {
			return walkAttribute(f.body, v, depth)
		}
		return nil
	})
}

// walkAttribute walks an AttributeProto: t, g, tensors, graphs, sparse_tensor, sparse_tensors.
func walkAttribute(s section, v visitor, depth int) error {
	single := 0
	return walkEach(s, func(f field) error {
		if f.number == 5 || f.number == 6 || f.number == 22 {
			// As with the main graph: what protobuf would merge must not be looked at in pieces.
			if single++; single > 1 {
				return fmt.Errorf("attribute with two values")
			}
		}
		switch f.number {
		case 5, 10:
			return walkTensor(f.body, v.below())
		case 6, 11:
			return walkGraph(f.body, v.below(), depth+1)
		case 22, 23:
			return walkSparse(f.body, v.below())
		}
		return nil
	})
}

// walkSparse walks a SparseTensorProto: values, indices.
func walkSparse(s section, v visitor) error {
	seen := [3]bool{}
	return walkEach(s, func(f field) error {
		if f.number == 1 || f.number == 2 {
			if seen[f.number] {
				return fmt.Errorf("sparse tensor with two values")
			}
			seen[f.number] = true
			return walkTensor(f.body, v)
		}
		return nil
	})
}

// readValue reads a ValueInfoProto: name, type.
func readValue(s section) (Value, error) {
	var v Value
	err := walkEach(s, func(f field) (err error) {
		switch f.number {
		case 1:
			v.Name, err = f.body.text()
		case 2:
			err = walkEach(f.body, func(g field) error { // TypeProto: tensor_type
				if g.number == 1 {
					return walkEach(g.body, func(h field) error { return readTensorType(h, &v) })
				}
				return nil
			})
		}
		return err
	})
	return v, err
}

// readTensorType reads a field of a TypeProto.Tensor: elem_type, shape.
func readTensorType(f field, v *Value) error {
	switch f.number {
	case 1:
		if f.value > math.MaxInt32 {
			return fmt.Errorf("value %q has element type %d", v.Name, f.value)
		}
		v.Elem = ElemType(f.value)
	case 2:
		return walkEach(f.body, func(d field) error {
			if d.number != 1 {
				return nil
			}
			if len(v.Shape) == maxRank {
				return fmt.Errorf("value %q has more than %d dimensions", v.Name, maxRank)
			}
			size := int64(-1)
			err := walkEach(d.body, func(g field) error {
				if g.number == 1 {
					size = int64(g.value)
				}
				return nil
			})
			v.Shape = append(v.Shape, size)
			return err
		})
	}
	return nil
}
