package loadgen

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
)

// verify decodes the vectors of an answer and checks them.
func (h *HTTP) verify(f fields, texts int) error {
	vectors, err := decodeVectors(f)
	if err != nil {
		return err
	}
	if len(vectors) != texts {
		return fmt.Errorf("%d vectors for %d texts", len(vectors), texts)
	}
	for i, v := range vectors {
		if len(v) == 0 {
			return fmt.Errorf("vector %d is empty", i)
		}
		h.dimensions.CompareAndSwap(0, int64(len(v)))
		if want := h.dimensions.Load(); int64(len(v)) != want {
			return fmt.Errorf("vector %d has %d dimensions, the first one had %d", i, len(v), want)
		}
		zero := true
		for k, x := range v {
			if f := float64(x); math.IsNaN(f) || math.IsInf(f, 0) {
				return fmt.Errorf("value %d of vector %d is %g", k, i, x)
			}
			zero = zero && x == 0
		}
		if zero {
			return fmt.Errorf("vector %d is all zeros", i)
		}
	}
	return nil
}

// decodeVectors decodes the vectors of an answer of either API, in the order of the texts.
func decodeVectors(f fields) ([][]float32, error) {
	if f.embeddings != nil {
		if bytes.Contains(f.embeddings, []byte("null")) {
			return nil, errors.New("embeddings: a null instead of a number or a vector")
		}
		var vectors [][]float32
		if err := json.Unmarshal(f.embeddings, &vectors); err != nil {
			return nil, fmt.Errorf("embeddings: %w", err)
		}
		return vectors, nil
	}
	if f.data == nil {
		return nil, errors.New("the answer has no embeddings")
	}
	var data []struct {
		Index     int
		Embedding json.RawMessage
	}
	if err := json.Unmarshal(f.data, &data); err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	vectors := make([][]float32, len(data))
	for i, d := range data {
		if d.Index != i {
			return nil, fmt.Errorf("data: index %d at place %d", d.Index, i)
		}
		v, err := decodeVector(d.Embedding)
		if err != nil {
			return nil, fmt.Errorf("data: embedding %d: %w", i, err)
		}
		vectors[i] = v
	}
	return vectors, nil
}

// decodeVector decodes a list of numbers or base64 of little-endian float32.
func decodeVector(raw json.RawMessage) ([]float32, error) {
	if bytes.HasPrefix(raw, []byte(`"`)) {
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return nil, err
		}
		packed, err := base64.StdEncoding.DecodeString(s)
		if err != nil {
			return nil, err
		}
		if len(packed)%4 != 0 {
			return nil, fmt.Errorf("%d bytes are no whole number of float32", len(packed))
		}
		v := make([]float32, len(packed)/4)
		for i := range v {
			v[i] = math.Float32frombits(binary.LittleEndian.Uint32(packed[4*i:]))
		}
		return v, nil
	}
	if bytes.Contains(raw, []byte("null")) {
		return nil, errors.New("a null instead of a number")
	}
	var v []float32
	err := json.Unmarshal(raw, &v)
	return v, err
}
