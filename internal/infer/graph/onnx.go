package graph

import (
	"encoding/binary"
	"math"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// Versions written. Opset 17 is the first with LayerNormalization and is taken by ONNX Runtime 1.12 and
// TensorRT 8.6 and later; 8 is the IR version that came with it.
const (
	opset     = 17
	irVersion = 8
)

// Element types of ONNX's TensorProto.DataType that a built graph uses.
const (
	elemFloat = 1
	elemInt32 = 6
	elemInt64 = 7
)

// writer gathers the parts of a GraphProto in the order in which they are added, so that equal models give
// equal bytes. Values are referred to by name.
type writer struct {
	weights      string // location of external data
	nodes        []byte
	initializers []byte
	inputs       []byte
	outputs      []byte
	used         map[string]bool // tensors of the weights that are initializers already
}

// attr is an encoded AttributeProto.
type attr []byte

// Attribute types of ONNX's AttributeProto.AttributeType.
const (
	attrFloat = 1
	attrInt   = 2
	attrInts  = 7
)

func intAttr(name string, v int64) attr {
	b := appendString(nil, 1, name)
	b = appendVarint(b, 3, uint64(v))
	return appendVarint(b, 20, attrInt)
}

func floatAttr(name string, v float32) attr {
	b := appendString(nil, 1, name)
	b = protowire.AppendTag(b, 2, protowire.Fixed32Type)
	b = protowire.AppendFixed32(b, math.Float32bits(v))
	return appendVarint(b, 20, attrFloat)
}

func intsAttr(name string, v ...int64) attr {
	b := appendString(nil, 1, name)
	for _, n := range v {
		b = appendVarint(b, 8, uint64(n))
	}
	return appendVarint(b, 20, attrInts)
}

// node adds a node with one output, which has the node's name, and gives that name.
func (w *writer) node(name, op string, inputs []string, attrs ...attr) string {
	var b []byte
	for _, in := range inputs {
		b = appendString(b, 1, in)
	}
	b = appendString(b, 2, name)
	b = appendString(b, 3, name)
	b = appendString(b, 4, op)
	for _, a := range attrs {
		b = appendBytes(b, 5, a)
	}
	w.nodes = appendBytes(w.nodes, 1, b)
	return name
}

// external adds a float initializer whose data lies in the weights file and gives its name.
func (w *writer) external(name string, t tensor) string {
	if w.used[name] {
		return name
	}
	if w.used == nil {
		w.used = make(map[string]bool)
	}
	w.used[name] = true
	b := tensorHead(name, elemFloat, t.shape)
	for _, e := range [][2]string{
		{"location", w.weights},
		{"offset", strconv.FormatInt(t.offset, 10)},
		{"length", strconv.FormatInt(t.length, 10)},
	} {
		b = appendBytes(b, 13, appendString(appendString(nil, 1, e[0]), 2, e[1]))
	}
	b = appendVarint(b, 14, 1) // data_location EXTERNAL
	w.initializers = appendBytes(w.initializers, 5, b)
	return name
}

// int64s adds an initializer of one dimension.
func (w *writer) int64s(name string, v ...int64) string {
	return w.constant(name, elemInt64, []int64{int64(len(v))}, int64Bytes(v))
}

func (w *writer) int64Scalar(name string, v int64) string {
	return w.constant(name, elemInt64, nil, int64Bytes([]int64{v}))
}

func (w *writer) int32Scalar(name string, v int32) string {
	return w.constant(name, elemInt32, nil, binary.LittleEndian.AppendUint32(nil, uint32(v)))
}

func (w *writer) floatScalar(name string, v float32) {
	w.constant(name, elemFloat, nil, binary.LittleEndian.AppendUint32(nil, math.Float32bits(v)))
}

// constant adds an initializer with its data inline.
func (w *writer) constant(name string, elem uint64, shape []int64, raw []byte) string {
	w.initializers = appendBytes(w.initializers, 5, appendBytes(tensorHead(name, elem, shape), 9, raw))
	return name
}

func (w *writer) input(name string, elem uint64, dims ...string) {
	w.inputs = appendBytes(w.inputs, 11, valueInfo(name, elem, dims))
}

func (w *writer) output(name string, elem uint64, dims ...string) {
	w.outputs = appendBytes(w.outputs, 12, valueInfo(name, elem, dims))
}

// file encodes the ModelProto.
func (w *writer) file(name string) []byte {
	g := append([]byte(nil), w.nodes...)
	g = appendString(g, 2, name)
	g = append(g, w.initializers...)
	g = append(g, w.inputs...)
	g = append(g, w.outputs...)

	b := appendVarint(nil, 1, irVersion)
	b = appendString(b, 2, "akidbd")
	b = appendBytes(b, 7, g)
	return appendBytes(b, 8, appendVarint(appendString(nil, 1, ""), 2, opset))
}

// valueInfo encodes a ValueInfoProto. A dim that is a number is fixed, any other is symbolic.
func valueInfo(name string, elem uint64, dims []string) []byte {
	var shape []byte
	for _, d := range dims {
		dim := appendString(nil, 2, d)
		if n, err := strconv.ParseInt(d, 10, 64); err == nil {
			dim = appendVarint(nil, 1, uint64(n))
		}
		shape = appendBytes(shape, 1, dim)
	}
	t := appendBytes(appendVarint(nil, 1, elem), 2, shape)
	return appendBytes(appendString(nil, 1, name), 2, appendBytes(nil, 1, t))
}

// tensorHead encodes dims, data_type and name of a TensorProto.
func tensorHead(name string, elem uint64, shape []int64) []byte {
	var b []byte
	for _, n := range shape {
		b = appendVarint(b, 1, uint64(n))
	}
	return appendString(appendVarint(b, 2, elem), 8, name)
}

func int64Bytes(v []int64) []byte {
	b := make([]byte, 0, 8*len(v))
	for _, n := range v {
		b = binary.LittleEndian.AppendUint64(b, uint64(n))
	}
	return b
}

func appendVarint(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func appendString(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}
