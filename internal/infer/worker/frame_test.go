package worker

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/akidb/akidbd/internal/infer"
)

func TestBatchRoundTrip(t *testing.T) {
	for _, b := range []infer.Batch{
		{Rows: [][]int32{}},
		{Rows: [][]int32{{1}}, Wide: true},
		{Rows: [][]int32{{1, -2, 1 << 30}, {}, {7}}},
	} {
		got, err := parseBatch(appendBatch(nil, b))
		if err != nil || got.Wide != b.Wide || len(got.Rows) != len(b.Rows) {
			t.Fatalf("%v became %v, %v", b, got, err)
		}
		for i := range b.Rows {
			if !bytes.Equal(bytesOf(b.Rows[i]), bytesOf(got.Rows[i])) {
				t.Errorf("row %d of %v became %v", i, b, got)
			}
		}
	}
}

func bytesOf(ids []int32) (out []byte) {
	for _, id := range ids {
		out = append(out, byte(id), byte(id>>8), byte(id>>16), byte(id>>24))
	}
	return out
}

func TestVectorsRoundTrip(t *testing.T) {
	want := [][]float32{{1, -2.5}, {0, 3e30}}
	data := appendVectors(nil, want, 2)
	if got, err := parseVectors(data, 2, 2); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, c := range []struct{ rows, dims int }{{1, 2}, {2, 1}, {4, 1}, {1, 4}} {
		if _, err := parseVectors(data, c.rows, c.dims); err == nil {
			t.Errorf("2 x 2 was taken for %d x %d", c.rows, c.dims)
		}
	}
}

func FuzzParseBatch(f *testing.F) {
	f.Add(appendBatch(nil, infer.Batch{Rows: [][]int32{{1, 2}, {3}}}))
	f.Add([]byte{0, 255, 255, 255, 255})
	f.Add([]byte{1, 2, 0, 0, 0, 255, 255, 255, 255, 1, 0, 0, 0, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := parseBatch(data)
		if err != nil {
			return
		}
		if again := appendBatch(nil, b); !bytes.Equal(again, data) {
			t.Errorf("%x was read as %v, which is %x", data, b, again)
		}
	})
}

func FuzzReadFrame(f *testing.F) {
	f.Add(seal(append(begin(nil, kindRun, 7), 1, 2, 3)))
	f.Add([]byte{255, 255, 255, 255, 3, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		const limit = 64
		r := bytes.NewReader(data)
		for {
			h, err := readHeader(r)
			if err != nil {
				return
			}
			payload, err := readPayload(r, h, limit)
			if err != nil {
				return
			}
			if len(payload) > limit || len(payload) != h.length {
				t.Fatalf("%d bytes for %+v", len(payload), h)
			}
		}
	})
}
