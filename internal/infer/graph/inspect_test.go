package graph

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/akidb/akidbd/internal/infer/testmodels"
)

// Graphs written by PyTorch's exporter.
func TestInspectExported(t *testing.T) {
	dir := testmodels.Dir(t, testmodels.ONNXExternal)
	info, err := Inspect(dir, "onnx/model.onnx")
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Inputs) != 3 || info.Inputs[2].Name != "token_type_ids" || info.Opset < 17 {
		t.Errorf("opset %d, inputs %v", info.Opset, info.Inputs)
	}
	if v, ok := info.Output("last_hidden_state"); !ok || v.Elem != Float || len(v.Shape) != 3 || v.Shape[2] != 32 {
		t.Errorf("outputs %v", info.Outputs)
	}
	if err := CheckExternalData(dir, "onnx/model.onnx"); err != nil {
		t.Error(err)
	}
	if err := CheckExternalData(dir, filepath.Join(dir, "onnx", "model.onnx")); err != nil {
		t.Error("by absolute path:", err)
	}

	dir = testmodels.Dir(t, testmodels.ONNXSentence)
	info, err = Inspect(dir, "model.onnx")
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := info.Output("sentence_embedding"); !ok || len(v.Shape) != 2 || v.Shape[0] != -1 || v.Shape[1] != 32 {
		t.Errorf("outputs %v", info.Outputs)
	}
	if err := CheckExternalData(dir, "model.onnx"); err != nil {
		t.Error("no external data:", err)
	}
}

// A graph of old writers lists its initializers among the inputs.
func TestInspectLeavesOutInitializers(t *testing.T) {
	w := writer{}
	w.input("w", elemFloat, "2")
	w.input("x", elemInt64, "batch", "7")
	w.constant("w", elemFloat, []int64{2}, make([]byte, 8))
	dir := t.TempDir()
	write(t, dir, w.file("g"))
	info, err := Inspect(dir, "g.onnx")
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Inputs) != 1 || info.Inputs[0].Name != "x" || info.Inputs[0].Shape[0] != -1 || info.Inputs[0].Shape[1] != 7 {
		t.Errorf("inputs are %+v", info.Inputs)
	}
}

func TestInspectRefuses(t *testing.T) {
	nested := []byte{}
	for range maxDepth + 2 { // node > attribute > g
		nested = appendBytes(nil, 1, appendBytes(nil, 5, appendBytes(nil, 6, nested)))
	}
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"empty":            {nil, "no graph in it"},
		"a page of HTML":   {[]byte("<html>"), "byte"},
		"cut off":          {[]byte{0x3a, 0x7f, 0}, "malformed protobuf at byte 2"},
		"a length of 2^63": {protowire.AppendVarint([]byte{0x3a}, 1<<63), "malformed"},
		"two graphs":       {append(appendBytes(nil, 7, nil), appendBytes(nil, 7, nil)...), "two main graphs"},
		"deep":             {appendBytes(nil, 7, nested), "nested deeper than 16"},
		"a long name":      {appendBytes(nil, 7, appendBytes(nil, 5, appendBytes(nil, 8, make([]byte, maxName+1)))), "name of 4097 bytes"},
		"many inputs":      {appendBytes(nil, 7, bytes.Repeat(appendBytes(nil, 11, nil), maxValues+1)), "more than 4096 inputs"},
	} {
		dir := t.TempDir()
		write(t, dir, c.b)
		if _, err := Inspect(dir, "g.onnx"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error is %v, want one with %q", name, err, c.want)
		}
	}
	for _, name := range []string{"../g.onnx", "/etc/passwd", "none.onnx", ""} {
		if _, err := Inspect(t.TempDir(), name); err == nil {
			t.Errorf("reads %q", name)
		}
	}
}

func write(t *testing.T, dir string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "g.onnx"), b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// external encodes a float tensor of 4 elements with external data entries, key and value in turn.
func external(entries ...string) []byte {
	b := tensorHead("w", elemFloat, []int64{2, 2})
	for i := 0; i < len(entries); i += 2 {
		b = appendBytes(b, 13, appendString(appendString(nil, 1, entries[i]), 2, entries[i+1]))
	}
	return appendVarint(b, 14, 1)
}

func TestCheckExternalData(t *testing.T) {
	node := func(attribute []byte) []byte { return appendBytes(nil, 1, appendBytes(nil, 5, attribute)) }
	good := external("location", "data", "offset", "84", "length", "16")
	for name, c := range map[string]struct {
		graph []byte // fields of the GraphProto
		want  string // in the error, "" when there must be none
	}{
		"fits":               {appendBytes(nil, 5, good), ""},
		"in a folder":        {appendBytes(nil, 5, external("location", "sub/data")), ""},
		"without offset":     {appendBytes(nil, 5, external("location", "data", "length", "16")), ""},
		"without length":     {appendBytes(nil, 5, external("location", "data", "offset", "84")), ""},
		"beyond the end":     {appendBytes(nil, 5, external("location", "data", "offset", "85")), "16 bytes at 85 do not fit into data of 100 bytes"},
		"offset overflows":   {appendBytes(nil, 5, external("location", "data", "offset", "9223372036854775807")), "do not fit"},
		"offset over 64 bit": {appendBytes(nil, 5, external("location", "data", "offset", "18446744073709551617")), "is not a number of bytes"},
		"negative offset":    {appendBytes(nil, 5, external("location", "data", "offset", "-4")), "is not a number of bytes"},
		"hexadecimal":        {appendBytes(nil, 5, external("location", "data", "offset", "0x4")), "is not a number of bytes"},
		"another length":     {appendBytes(nil, 5, external("location", "data", "length", "12")), "length is 12, type and shape [2 2] take 16 bytes"},
		"no location":        {appendBytes(nil, 5, external("offset", "0")), "location is missing"},
		"no entries":         {appendBytes(nil, 5, external()), "location is missing"},
		"location twice":     {appendBytes(nil, 5, external("location", "data", "location", "/etc/passwd")), `key "location" is there twice`},
		"parent":             {appendBytes(nil, 5, external("location", "../data")), "not the local name"},
		"inner parent":       {appendBytes(nil, 5, external("location", "sub/../../data")), "not the local name"},
		"absolute":           {appendBytes(nil, 5, external("location", "/etc/passwd")), "not the local name"},
		"directory":          {appendBytes(nil, 5, external("location", "sub")), "not a regular file"},
		"itself":             {appendBytes(nil, 5, external("location", ".")), "not the local name"},
		"backslash":          {appendBytes(nil, 5, external("location", `..\data`)), "not the local name"},
		"an address":         {appendBytes(nil, 5, external("location", "*/_ORT_MEM_ADDR_/*")), "not the local name"},
		"no such file":       {appendBytes(nil, 5, external("location", "none")), "no such file"},
		"link":               {appendBytes(nil, 5, external("location", "link")), "not a regular file"},
		"link to a folder":   {appendBytes(nil, 5, external("location", "linked/data")), "not a regular file"},
		"pipe":               {appendBytes(nil, 5, external("location", "data/x")), "not a regular file"},
		"not marked":         {appendBytes(nil, 5, bytes.TrimSuffix(external("location", "/x"), []byte{0x70, 1})), "not the local name"},
		"a string tensor":    {appendBytes(nil, 5, append(external("location", "data"), appendVarint(nil, 2, 8)...)), "element type 8"},
		"overflowing shape":  {appendBytes(nil, 5, append(external("location", "data"), appendBytes(nil, 1, protowire.AppendVarint(nil, 1<<61))...)), "overflows"},
		"negative dimension": {appendBytes(nil, 5, append(external("location", "data"), appendVarint(nil, 1, 1<<63)...)), "negative dimension"},
		"attribute t":        {node(appendBytes(nil, 5, external("location", "/x"))), "not the local name"},
		"attribute tensors":  {node(appendBytes(nil, 10, external("location", "/x"))), "not the local name"},
		"sub-graph":          {node(appendBytes(nil, 6, appendBytes(nil, 5, external("location", "/x")))), "not the local name"},
		"sub-graphs":         {node(appendBytes(nil, 11, appendBytes(nil, 5, external("location", "/x")))), "not the local name"},
		"deeper":             {node(appendBytes(nil, 6, node(appendBytes(nil, 6, node(appendBytes(nil, 5, external("location", "/x"))))))), "not the local name"},
		"sparse":             {appendBytes(nil, 15, appendBytes(nil, 1, external("location", "/x"))), "not the local name"},
		"sparse indices":     {appendBytes(nil, 15, appendBytes(nil, 2, external("location", "/x"))), "not the local name"},
		"sparse attribute":   {node(appendBytes(nil, 22, appendBytes(nil, 1, external("location", "/x")))), "not the local name"},
		"merged attribute":   {node(append(appendBytes(nil, 5, external("location", "data")), appendBytes(nil, 5, nil)...)), "two values"},
		// Protobuf leaves out a field of the wrong kind; ours must not take another element type from it.
		"a type of wrong kind": {appendBytes(nil, 5, append(external("location", "data", "offset", "92"), protowire.AppendFixed32(protowire.AppendTag(nil, 2, protowire.Fixed32Type), 3)...)), "do not fit"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, appendBytes(nil, 7, c.graph))
			if err := os.WriteFile(filepath.Join(dir, "data"), make([]byte, 100), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "sub", "data"), make([]byte, 16), 0o644); err != nil {
				t.Fatal(err)
			}
			for link, target := range map[string]string{"link": "data", "linked": "sub"} {
				if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
					t.Fatal(err)
				}
			}
			err := CheckExternalData(dir, "g.onnx")
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error is %v, want one with %q", err, c.want)
			}
		})
	}
}

// Functions and training graphs lie beside the main graph.
func TestCheckExternalDataBesideTheGraph(t *testing.T) {
	bad := external("location", "/x")
	node := appendBytes(nil, 5, appendBytes(nil, 5, bad))
	for name, more := range map[string][]byte{
		"node of a function":      appendBytes(nil, 25, appendBytes(nil, 7, node)),
		"attribute of a function": appendBytes(nil, 25, appendBytes(nil, 11, appendBytes(nil, 5, bad))),
		"training":                appendBytes(nil, 20, appendBytes(nil, 1, appendBytes(nil, 5, bad))),
		"training algorithm":      appendBytes(nil, 20, appendBytes(nil, 2, appendBytes(nil, 5, bad))),
	} {
		dir := t.TempDir()
		write(t, dir, append(appendBytes(nil, 7, nil), more...))
		if err := CheckExternalData(dir, "g.onnx"); err == nil || !strings.Contains(err.Error(), "not the local name") {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

// Any bytes: no panic, no endless walk, and nothing outside of the file is read.
func FuzzInspect(f *testing.F) {
	for _, name := range []string{testmodels.ONNXExternal + "/onnx", testmodels.ONNXSentence} {
		model, folder, _ := strings.Cut(name, "/")
		b, err := os.ReadFile(filepath.Join(testmodels.Dir(f, model), folder, "model.onnx"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[:min(len(b), 4096)])
	}
	f.Add(appendBytes(nil, 7, appendBytes(nil, 5, external("location", "data", "offset", "84", "length", "16"))))
	f.Fuzz(func(t *testing.T, b []byte) {
		visit := visitor{
			opset: func(int64) {}, input: func(Value) {}, output: func(Value) {}, initializer: func(string) {},
			external: func(x externalTensor) error {
				if x.offset < 0 || x.length < 0 || x.location == "" {
					t.Errorf("external tensor %+v", x)
				}
				return nil
			},
		}
		walkModel(newWire(bytes.NewReader(b), int64(len(b))).all(), visit)
	})
}

// A file larger than the window, with a tensor's data in it.
func TestInspectSkipsData(t *testing.T) {
	w := writer{}
	w.constant("big", elemFloat, []int64{1 << 18}, make([]byte, 4<<18))
	w.input("x", elemInt64, "batch")
	w.output("y", elemFloat, "batch")
	dir := t.TempDir()
	write(t, dir, w.file("g"))
	info, err := Inspect(dir, "g.onnx")
	if err != nil || len(info.Inputs) != 1 || len(info.Outputs) != 1 {
		t.Errorf("%+v, %v", info, err)
	}
}
