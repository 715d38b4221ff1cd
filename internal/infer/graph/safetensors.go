package graph

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// Limits of a safetensors header. maxHeaderBytes is the format's own; the others are far above any model
// (Llama 405B has 1,100 tensors of at most 2 dimensions) and bound what a crafted header can cost.
const (
	maxHeaderBytes = 100_000_000
	maxTensors     = 1 << 18
	maxRank        = 16
)

// tensor is one array of a safetensors file.
type tensor struct {
	dtype  string
	shape  []int64
	offset int64 // of its first byte in the file
	length int64 // in bytes
}

// readSafetensors reads the header of a safetensors file of size bytes: an 8-byte little-endian length, that
// many bytes of JSON, then the data. As the reference implementation does, it wants the tensors to fill the
// data exactly, without holes or overlaps, and the bytes of each to be those of its type and shape.
func readSafetensors(r io.ReaderAt, size int64) (map[string]tensor, error) {
	var prefix [8]byte
	if size < int64(len(prefix)) {
		return nil, fmt.Errorf("file of %d bytes is too short for a header", size)
	}
	if _, err := r.ReadAt(prefix[:], 0); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(prefix[:])
	if n > maxHeaderBytes || int64(n) > size-8 {
		return nil, fmt.Errorf("header length %d is over the file's %d bytes or over the format's limit of %d", n, size, maxHeaderBytes)
	}
	header := make([]byte, n)
	if _, err := r.ReadAt(header, 8); err != nil && n > 0 {
		return nil, err
	}
	start := 8 + int64(n)
	return parseHeader(header, start, size-start)
}

// parseHeader reads the JSON of a header; the data has size bytes and begins at byte start of the file.
func parseHeader(header []byte, start, size int64) (map[string]tensor, error) {
	if len(header) == 0 || header[0] != '{' {
		return nil, errors.New("header does not begin with {")
	}
	d := json.NewDecoder(bytes.NewReader(header))
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	tensors := make(map[string]tensor)
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("header: %w", err)
		}
		name, _ := token.(string)
		if name == "__metadata__" {
			var metadata map[string]string
			if err := d.Decode(&metadata); err != nil {
				return nil, fmt.Errorf("header: __metadata__: %w", err)
			}
			continue
		}
		t, err := decodeTensor(d, start, size)
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", name, err)
		}
		if _, twice := tensors[name]; twice {
			return nil, fmt.Errorf("tensor %q is there twice", name)
		}
		if len(tensors) == maxTensors {
			return nil, fmt.Errorf("more than %d tensors", maxTensors)
		}
		tensors[name] = t
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if rest := strings.TrimRight(string(header[d.InputOffset():]), " "); rest != "" {
		return nil, fmt.Errorf("header: %d bytes after the closing }", len(rest))
	}
	return tensors, checkContiguous(tensors, start, size)
}

func decodeTensor(d *json.Decoder, start, size int64) (tensor, error) {
	var in struct {
		DType   *string  `json:"dtype"`
		Shape   *[]int64 `json:"shape"`
		Offsets []int64  `json:"data_offsets"`
	}
	if err := d.Decode(&in); err != nil {
		return tensor{}, err
	}
	if in.DType == nil || in.Shape == nil || len(in.Offsets) != 2 {
		return tensor{}, errors.New("dtype, shape or the two data_offsets are missing")
	}
	begin, end := in.Offsets[0], in.Offsets[1]
	if begin < 0 || end < begin || end > size {
		return tensor{}, fmt.Errorf("data_offsets [%d, %d] lie outside of the %d bytes of data", begin, end, size)
	}
	want, err := byteSize(*in.DType, *in.Shape)
	if err != nil {
		return tensor{}, err
	}
	if want != end-begin {
		return tensor{}, fmt.Errorf("data_offsets span %d bytes, %s %v takes %d", end-begin, *in.DType, *in.Shape, want)
	}
	return tensor{dtype: *in.DType, shape: *in.Shape, offset: start + begin, length: end - begin}, nil
}

// byteSize is the bytes of an array of a type and shape.
func byteSize(dtype string, shape []int64) (int64, error) {
	var size int64
	switch dtype {
	case "BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3":
		size = 1
	case "U16", "I16", "F16", "BF16":
		size = 2
	case "U32", "I32", "F32":
		size = 4
	case "U64", "I64", "F64", "C64":
		size = 8
	default:
		return 0, fmt.Errorf("unknown dtype %q", dtype)
	}
	if len(shape) > maxRank {
		return 0, fmt.Errorf("%d dimensions, more than %d", len(shape), maxRank)
	}
	for _, n := range shape {
		if n < 0 {
			return 0, fmt.Errorf("negative dimension in shape %v", shape)
		}
		if n > 0 && size > math.MaxInt64/n {
			return 0, fmt.Errorf("shape %v overflows", shape)
		}
		size *= n
	}
	return size, nil
}

// checkContiguous wants the tensors to fill the data from its first to its last byte.
func checkContiguous(tensors map[string]tensor, start, size int64) error {
	names := make([]string, 0, len(tensors))
	for name := range tensors {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		x, y := tensors[a], tensors[b]
		return cmp.Or(cmp.Compare(x.offset, y.offset), cmp.Compare(x.length, y.length), cmp.Compare(a, b))
	})
	next := start
	for _, name := range names {
		t := tensors[name]
		if t.offset != next {
			return fmt.Errorf("tensor %q begins at byte %d, the one before it ends at %d: overlap or hole", name, t.offset-start, next-start)
		}
		next += t.length
	}
	if next != start+size {
		return fmt.Errorf("tensors end at byte %d of %d bytes of data", next-start, size)
	}
	return nil
}
