package graph

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/akidb/akidbd/internal/infer/testmodels"
)

// file makes a safetensors file of a header and size bytes of data.
func file(header string, size int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, size)...)
}

func entry(name, dtype, shape string, begin, end int) string {
	return fmt.Sprintf(`"%s":{"dtype":"%s","shape":%s,"data_offsets":[%d,%d]}`, name, dtype, shape, begin, end)
}

func TestReadSafetensors(t *testing.T) {
	header := "{" + `"__metadata__":{"format":"pt"},` + entry("b", "F32", "[2,3]", 2, 26) + "," + entry("a", "I8", "[2]", 0, 2) +
		"," + entry("none", "F32", "[0,7]", 26, 26) + "," + entry("scalar", "I64", "[]", 26, 34) + "}   "
	b := file(header, 34)
	tensors, err := readSafetensors(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	start := int64(8 + len(header))
	if got := tensors["b"]; got.dtype != "F32" || got.offset != start+2 || got.length != 24 || len(got.shape) != 2 {
		t.Errorf("b is %+v, data starts at %d", got, start)
	}
	if len(tensors) != 4 {
		t.Errorf("%d tensors, want 4", len(tensors))
	}
}

func TestReadSafetensorsRefuses(t *testing.T) {
	one := entry("a", "F32", "[2]", 0, 8)
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"empty file":             {nil, "too short"},
		"cut in the length":      {make([]byte, 7), "too short"},
		"header beyond the file": {binary.LittleEndian.AppendUint64(nil, 1), "header length 1"},
		"header over the limit":  {binary.LittleEndian.AppendUint64(nil, 1<<63), "header length 9223372036854775808"},
		"no header":              {file("", 0), "begin with {"},
		"a list":                 {file("[]", 0), "begin with {"},
		"a space before":         {file(" {}", 0), "begin with {"},
		"something after":        {file("{}x", 0), "after the closing }"},
		"cut header":             {file("{"+one, 8), "header"},
		"a tensor twice":         {file("{"+one+","+one+"}", 8), `tensor "a" is there twice`},
		"no dtype":               {file(`{"a":{"shape":[2],"data_offsets":[0,8]}}`, 8), "missing"},
		"no offsets":             {file(`{"a":{"dtype":"F32","shape":[2]}}`, 8), "missing"},
		"a null":                 {file(`{"a":null}`, 8), "missing"},
		"three offsets":          {file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,9]}}`, 8), "missing"},
		"unknown dtype":          {file("{"+entry("a", "F31", "[2]", 0, 8)+"}", 8), `unknown dtype "F31"`},
		"negative dimension":     {file("{"+entry("a", "F32", "[-1,-2]", 0, 8)+"}", 8), "negative dimension"},
		"overflowing shape":      {file("{"+entry("a", "F32", "[4294967296,4294967296,4]", 0, 8)+"}", 8), "overflows"},
		"a number over 64 bits":  {file("{"+entry("a", "F32", "[99999999999999999999]", 0, 8)+"}", 8), `tensor "a"`},
		"many dimensions":        {file("{"+entry("a", "F32", "["+strings.Repeat("1,", 16)+"1]", 0, 4)+"}", 4), "17 dimensions"},
		"bytes of another shape": {file("{"+entry("a", "F32", "[3]", 0, 8)+"}", 8), "span 8 bytes, F32 [3] takes 12"},
		"offsets backwards":      {file("{"+entry("a", "F32", "[0]", 8, 4)+"}", 8), "lie outside"},
		"negative offset":        {file("{"+entry("a", "F32", "[2]", -8, 0)+"}", 8), "lie outside"},
		"beyond the data":        {file("{"+one+"}", 7), "lie outside of the 7 bytes"},
		"hole at the beginning":  {file("{"+entry("a", "F32", "[2]", 4, 12)+"}", 12), "overlap or hole"},
		"hole":                   {file("{"+one+","+entry("b", "I8", "[1]", 9, 10)+"}", 10), "overlap or hole"},
		"overlap":                {file("{"+one+","+entry("b", "I8", "[4]", 6, 10)+"}", 10), "overlap or hole"},
		"data left over":         {file("{"+one+"}", 9), "end at byte 8 of 9"},
		"metadata of numbers":    {file(`{"__metadata__":{"a":1}}`, 0), "__metadata__"},
	} {
		_, err := readSafetensors(bytes.NewReader(c.b), int64(len(c.b)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error is %v, want one with %q", name, err, c.want)
		}
	}
}

// Whatever is accepted lies in the file, and a graph over it passes our own check of foreign graphs.
func FuzzSafetensors(f *testing.F) {
	f.Add(file("{}", 0))
	f.Add(file("{"+entry("a", "F32", "[2]", 0, 8)+"}", 8))
	f.Add(file("{"+entry("a", "F32", "[0]", 0, 0)+","+entry("b", "BF16", "[1,2]", 0, 4)+"}", 4))
	f.Add(file(`{"__metadata__":{"a":"b"}}`, 0))
	if b, err := os.ReadFile(filepath.Join(testmodels.Dir(f, testmodels.DistilBERT), "model.safetensors")); err == nil {
		f.Add(b[:8+binary.LittleEndian.Uint64(b)])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tensors, err := readSafetensors(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		total := int64(0)
		for name, x := range tensors {
			if x.offset < 8 || x.length < 0 || x.offset+x.length > int64(len(b)) {
				t.Errorf("tensor %q has %d bytes at %d of %d", name, x.length, x.offset, len(b))
			}
			total += x.length
		}
		if header := int64(binary.LittleEndian.Uint64(b)); total != int64(len(b))-8-header {
			t.Errorf("tensors have %d bytes of a file of %d with a header of %d", total, len(b), header)
		}
	})
}
