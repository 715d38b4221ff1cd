package graph

import (
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
)

// Limits of reading an ONNX file. Weights are stepped over, whatever their size; what is left of the largest
// published graphs is some 100,000 nodes.
const (
	maxFields  = 50_000_000 // fields looked at
	maxDepth   = 16         // graphs inside attributes inside graphs
	maxName    = 4096       // bytes of a name or a location
	windowSize = 64 << 10
)

// wire reads protobuf fields from a file without holding it: it keeps one window of the file in memory.
type wire struct {
	r      io.ReaderAt
	size   int64
	start  int64 // of the window in the file
	window []byte
	fields int // read so far
}

// section is the bytes of one message.
type section struct {
	w   *wire
	off int64
	end int64
}

// field is one field of a message: a number, or the section of a message, string or packed list.
type field struct {
	number protowire.Number
	kind   protowire.Type
	value  uint64
	body   section
}

func newWire(r io.ReaderAt, size int64) *wire { return &wire{r: r, size: size} }

func (w *wire) all() section { return section{w, 0, w.size} }

// more says whether the section has another field.
func (s *section) more() bool { return s.off < s.end }

// next reads a field and moves behind it.
func (s *section) next() (field, error) {
	if s.w.fields++; s.w.fields > maxFields {
		return field{}, fmt.Errorf("more than %d fields", maxFields)
	}
	// A tag is at most 5 bytes, a number or a length 10.
	b, err := s.w.bytes(s.off, min(s.end-s.off, 16))
	if err != nil {
		return field{}, err
	}
	number, kind, n := protowire.ConsumeTag(b)
	if n < 0 {
		return field{}, s.malformed(n)
	}
	f := field{number: number, kind: kind}
	b = b[n:]
	size := 0
	switch kind {
	case protowire.VarintType:
		f.value, size = protowire.ConsumeVarint(b)
	case protowire.Fixed32Type:
		var v uint32
		v, size = protowire.ConsumeFixed32(b)
		f.value = uint64(v)
	case protowire.Fixed64Type:
		f.value, size = protowire.ConsumeFixed64(b)
	case protowire.BytesType:
		f.value, size = protowire.ConsumeVarint(b)
	default:
		return field{}, s.malformed(-1)
	}
	if size < 0 {
		return field{}, s.malformed(size)
	}
	s.off += int64(n + size)
	if kind == protowire.BytesType {
		if f.value > uint64(s.end-s.off) {
			return field{}, s.malformed(-1)
		}
		f.body = section{s.w, s.off, s.off + int64(f.value)}
		s.off = f.body.end
	}
	return f, nil
}

func (s *section) malformed(code int) error {
	if err := protowire.ParseError(code); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("malformed protobuf at byte %d: %w", s.off, err)
	}
	return fmt.Errorf("malformed protobuf at byte %d: cut off or of an unknown kind", s.off)
}

// text gives the section as a string of at most maxName bytes.
func (s section) text() (string, error) {
	n := s.end - s.off
	if n == 0 {
		return "", nil
	}
	if n > maxName {
		return "", fmt.Errorf("name of %d bytes at byte %d, the limit is %d", n, s.off, maxName)
	}
	b, err := s.w.bytes(s.off, n)
	return string(b), err
}

// bytes gives n bytes, at most windowSize, from byte off. They hold until the next call.
func (w *wire) bytes(off, n int64) ([]byte, error) {
	if off < w.start || off+n > w.start+int64(len(w.window)) {
		if w.window == nil {
			w.window = make([]byte, windowSize)
		}
		w.window = w.window[:min(windowSize, w.size-off)]
		w.start = off
		if _, err := w.r.ReadAt(w.window, off); err != nil {
			w.window = w.window[:0]
			return nil, err
		}
	}
	return w.window[off-w.start : off-w.start+n], nil
}
