package loadgen

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestSkim(t *testing.T) {
	f, err := skim([]byte(` {"a": [1, {"usage": 7}], "s": "\"usage\": \\", "usage" : {"tokens":3} ,"message":null,"code":-1.5e3 }x`))
	if err != nil || string(f.usage) != `{"tokens":3}` || string(f.message) != "null" || string(f.code) != "-1.5e3" {
		t.Errorf("usage %q, message %q, code %q, %v", f.usage, f.message, f.code, err)
	}
	if _, err := skim([]byte(`{}`)); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{
		"", " ", "[]", "{", `{"`, `{"a`, `{"a"`, `{"a":`, `{"a":}`, `{"a":1`, `{"a":"1}`, `{"a":[}`, `{"a":1,}`, `{"a" 1}`, `{a:1}`, `{"a":1 2}`, `{"\"`,
	} {
		if f, err := skim([]byte(bad)); err == nil {
			t.Errorf("%q is taken for an object: %+v", bad, f)
		}
	}
}

// What is valid JSON is read as encoding/json reads it; what is not must do no harm.
func FuzzSkim(f *testing.F) {
	for _, s := range []string{
		goodAnswer, `{}`, `{"usage":1}`, `{"error":{"code":"a","message":"b\"}"}}`, `{"embeddings":[[1,2],["]",{}]],"data":[]}`,
		`{"a":"\\","usage":"}"}`, `[`, `{"usage":{`, `{"usage":tru`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := skim(body)
		var want map[string]json.RawMessage
		if bytes.ContainsRune(body, '\\') && strings.Contains(string(body), `\u`) {
			return // an escaped name is another name to skim
		}
		if json.Unmarshal(body, &want) != nil || want == nil {
			return
		}
		if err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		for name, value := range map[string][]byte{
			"usage": got.usage, "served_by": got.servedBy, "error": got.errorValue, "code": got.code,
			"message": got.message, "embeddings": got.embeddings, "data": got.data,
		} {
			if !bytes.Equal(value, want[name]) {
				t.Errorf("%q: %s is %q, want %q", body, name, value, want[name])
			}
		}
	})
}

func BenchmarkSkim(b *testing.B) {
	body := []byte(`{"embeddings":[[` + strings.Repeat("0.0123456789,", 383) + `1]],"usage":{"tokens":80}}`)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := skim(body); err != nil {
			b.Fatal(err)
		}
	}
}
