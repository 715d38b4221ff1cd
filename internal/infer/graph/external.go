package graph

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// externalTensor is a tensor whose data lies in another file.
type externalTensor struct {
	name     string
	location string // relative to the directory of the ONNX file
	offset   int64
	length   int64 // what type and shape take; the file's own length entry must agree
}

// CheckExternalData checks the files that the tensors of an ONNX file lie in, sub-graphs and functions
// included: each must be a regular file of the directory of the ONNX file, with a local name and no symbolic
// link on the way, and long enough. ONNX Runtime opens and maps whatever the graph names, and old versions
// check none of it. name is the ONNX file, relative to dir or absolute and in dir.
func CheckExternalData(dir, name string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	rel, err := inside(dir, name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	sizes := make(map[string]int64)
	err = readModel(dir, rel, visitor{external: func(t externalTensor) error {
		size, ok := sizes[t.location]
		if !ok {
			var err error
			if size, err = regularSize(root, filepath.Dir(rel), t.location); err != nil {
				return fmt.Errorf("tensor %q: external data: %w", t.name, err)
			}
			if len(sizes) == maxDataFiles {
				return fmt.Errorf("external data lies in more than %d files", maxDataFiles)
			}
			sizes[t.location] = size
		}
		if t.offset > size || t.length > size-t.offset {
			return fmt.Errorf("tensor %q: external data: %d bytes at %d do not fit into %s of %d bytes", t.name, t.length, t.offset, t.location, size)
		}
		return nil
	}})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// maxDataFiles bounds the files of external data; some exporters write one per tensor.
const maxDataFiles = 4096

// regularSize gives the size of the file at location, seen from the folder base of root.
func regularSize(root *os.Root, base, location string) (int64, error) {
	// ONNX Runtime takes names like */_ORT_MEM_ADDR_/* for addresses in its own memory, and a backslash for a
	// separator on some systems.
	if !filepath.IsLocal(location) || location == "." || strings.ContainsAny(location, "*\\\x00") {
		return 0, fmt.Errorf("location %q is not the local name of a file", location)
	}
	parts := strings.Split(filepath.ToSlash(filepath.Clean(location)), "/")
	at := base
	for i, part := range parts {
		at = filepath.Join(at, part)
		info, err := root.Lstat(at)
		switch {
		case err != nil:
			return 0, err
		case i < len(parts)-1 && !info.IsDir(), i == len(parts)-1 && !info.Mode().IsRegular():
			return 0, fmt.Errorf("%s is not a regular file (%s)", location, info.Mode().Type())
		case i == len(parts)-1:
			return info.Size(), nil
		}
	}
	return 0, fmt.Errorf("location %q names no file", location)
}

// walkTensor reads a TensorProto without its data.
func walkTensor(s section, v visitor) error {
	var t tensorProto
	if err := walkEach(s, t.field); err != nil {
		return err
	}
	if v.initializer != nil {
		v.initializer(t.name)
	}
	if !t.external && len(t.entries) == 0 || v.external == nil {
		return nil
	}
	found, err := t.locate()
	if err != nil {
		return fmt.Errorf("tensor %q: external data: %w", t.name, err)
	}
	return v.external(found)
}

// tensorProto is the head of a TensorProto.
type tensorProto struct {
	name     string
	elem     uint64
	shape    []int64
	entries  map[string]string // external_data
	external bool              // data_location is EXTERNAL
}

func (t *tensorProto) field(f field) (err error) {
	// A field of another kind than the schema's is an unknown field to protobuf: what ONNX Runtime does not
	// see must not change what is checked.
	number, packed := f.kind == protowire.VarintType, f.kind == protowire.BytesType
	switch f.number {
	case 1:
		if !number && !packed {
			return nil
		}
	case 2, 14:
		if !number {
			return nil
		}
	case 8, 13:
		if !packed {
			return nil
		}
	}
	switch f.number {
	case 1: // dims, one by one or packed
		if number {
			return t.dim(f.value)
		}
		for f.body.more() {
			b, err := f.body.w.bytes(f.body.off, min(f.body.end-f.body.off, 10))
			if err != nil {
				return err
			}
			d, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return f.body.malformed(n)
			}
			f.body.off += int64(n)
			if err := t.dim(d); err != nil {
				return err
			}
		}
	case 2:
		t.elem = f.value
	case 8:
		t.name, err = f.body.text()
	case 13:
		var key, value string
		err = walkEach(f.body, func(e field) (err error) {
			switch e.number {
			case 1:
				key, err = e.body.text()
			case 2:
				value, err = e.body.text()
			}
			return err
		})
		if err != nil {
			return err
		}
		if _, twice := t.entries[key]; twice || len(t.entries) == 16 {
			return fmt.Errorf("tensor %q: external data: key %q is there twice, or there are too many keys", t.name, key)
		}
		if t.entries == nil {
			t.entries = make(map[string]string)
		}
		t.entries[key] = value
	case 14:
		t.external = f.value == 1
	}
	return err
}

func (t *tensorProto) dim(d uint64) error {
	if d > math.MaxInt64 || len(t.shape) == maxRank {
		return fmt.Errorf("tensor %q: a negative dimension or more than %d dimensions", t.name, maxRank)
	}
	t.shape = append(t.shape, int64(d))
	return nil
}

// locate reads the external_data entries.
func (t *tensorProto) locate() (externalTensor, error) {
	out := externalTensor{name: t.name, location: t.entries["location"]}
	if out.location == "" {
		return out, fmt.Errorf("location is missing")
	}
	var err error
	if out.length, err = elemBytes(t.elem, t.shape); err != nil {
		return out, err
	}
	for key, to := range map[string]*int64{"offset": &out.offset, "length": nil} {
		s, ok := t.entries[key]
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 0 {
			return out, fmt.Errorf("%s %q is not a number of bytes", key, s)
		}
		if to != nil {
			*to = n
		} else if n != out.length {
			return out, fmt.Errorf("length is %d, type and shape %v take %d bytes", n, t.shape, out.length)
		}
	}
	return out, nil
}

// elemBytes is the bytes that a tensor of an ONNX element type and a shape takes.
func elemBytes(elem uint64, shape []int64) (int64, error) {
	bits := int64(0)
	switch elem {
	case 21, 22, 23: // uint4, int4, float4
		bits = 4
	case 25, 26: // uint2, int2
		bits = 2
	case 2, 3, 9, 17, 18, 19, 20, 24: // 8-bit integers, bool and 8-bit floats
		bits = 8
	case 4, 5, 10, 16:
		bits = 16
	case 1, 6, 12:
		bits = 32
	case 7, 11, 13, 14:
		bits = 64
	case 15:
		bits = 128
	default:
		return 0, fmt.Errorf("element type %d cannot lie in a file", elem)
	}
	n := int64(1)
	for _, d := range shape {
		if d > 0 && n > (math.MaxInt64-7)/16/d {
			return 0, fmt.Errorf("shape %v overflows", shape)
		}
		n *= d
	}
	if bits < 8 {
		return (n*bits + 7) / 8, nil
	}
	return n * (bits / 8), nil
}
