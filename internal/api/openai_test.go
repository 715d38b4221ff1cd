package api

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"slices"
	"testing"

	"github.com/akidb/akidbd/internal/embedding"
)

type openAIAnswer struct {
	Object string
	Data   []struct {
		Object    string
		Index     int
		Embedding json.RawMessage
	}
	Model string
	Usage struct {
		PromptTokens int `json:"prompt_tokens"`
		TotalTokens  int `json:"total_tokens"`
	}
}

func TestOpenAIEmbed(t *testing.T) {
	d := newDoor(t, Config{TokenIDs: true})
	in := func(texts ...string) (out []embedding.Input) {
		for _, s := range texts {
			out = append(out, embedding.Input{Text: s})
		}
		return out
	}
	for _, tc := range []struct {
		body string
		want []embedding.Input
		dims int
	}{
		{`{"input":"hello","model":"minilm"}`, in("hello"), 0},
		{`{"input":["a","bc"],"model":"default","user":"u1","extra":{"a":[1,{"b":null}]},"encoding_format":"float"}`, in("a", "bc"), 0},
		{`{"input":["a"],"dimensions":3}`, in("a"), 3},
		{`{"input":[7,8]}`, []embedding.Input{{Tokens: []int32{7, 8}}}, 0},
		{`{"input":[[7],[8,2147483647]]}`, []embedding.Input{{Tokens: []int32{7}}, {Tokens: []int32{8, math.MaxInt32}}}, 0},
	} {
		for _, format := range []string{"", "base64"} {
			body := tc.body
			if format != "" && !json.Valid([]byte(body)) {
				t.Fatal(body)
			}
			if format != "" {
				var m map[string]any
				if err := json.Unmarshal([]byte(body), &m); err != nil {
					t.Fatal(err)
				}
				m["encoding_format"] = format
				raw, err := json.Marshal(m)
				if err != nil {
					t.Fatal(err)
				}
				body = string(raw)
			}
			w := d.do("POST", "/v1/embeddings", body)
			if w.Code != 200 {
				t.Fatalf("%s: got %d %s", body, w.Code, w.Body)
			}
			got := decodeJSON[openAIAnswer](t, w.Body.Bytes())
			if got.Object != "list" || got.Model != "minilm" || got.Usage.TotalTokens == 0 || got.Usage.PromptTokens != got.Usage.TotalTokens {
				t.Errorf("%s: got %+v", body, got)
			}
			if len(got.Data) != len(tc.want) {
				t.Fatalf("%s: %d embeddings for %d inputs", body, len(got.Data), len(tc.want))
			}
			for i, item := range got.Data {
				if item.Object != "embedding" || item.Index != i {
					t.Errorf("%s: item %d is %+v", body, i, item)
				}
				if have, want := readVector(t, item.Embedding), fakeVector(tc.want[i], tc.dims, 8); !slices.Equal(have, want) {
					t.Errorf("%s: embedding %d is %v, want %v bit by bit", body, i, have, want)
				}
			}
		}
	}
	checkFailure(t, d.do("POST", "/v1/embeddings", `{"input":[[]]}`), "/v1/", 400, "input[0] has no token ids", "input")
}

func readVector(t *testing.T, raw json.RawMessage) []float32 {
	t.Helper()
	if raw[0] != '"' {
		return decodeJSON[[]float32](t, raw)
	}
	b, err := base64.StdEncoding.DecodeString(decodeJSON[string](t, raw))
	if err != nil || len(b)%4 != 0 {
		t.Fatalf("%v, %d bytes", err, len(b))
	}
	v := make([]float32, len(b)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return v
}

func TestEncodeVectors(t *testing.T) {
	special := []float32{0, float32(math.Copysign(0, -1)), 1, -1, 1e-45, math.MaxFloat32, -math.MaxFloat32, 1e-7, 1e21, 16777216, 0.1}
	for n := range 1030 { // over the piece size of appendBase64, every remainder
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(math.Sin(float64(i))) * 0.05
			if i < len(special) {
				v[i] = special[i]
			}
		}
		for _, raw := range [][]byte{appendVector(nil, v), appendBase64(nil, v)} {
			if got := readVector(t, raw); len(got) != n || !slices.EqualFunc(got, v, func(a, b float32) bool {
				return math.Float32bits(a) == math.Float32bits(b)
			}) {
				t.Fatalf("%d elements do not survive %.80s", n, raw)
			}
		}
	}
}

func TestOpenAIModels(t *testing.T) {
	d := newDoor(t, Config{})
	got := decodeJSON[struct {
		Object string
		Data   []openAIModel
	}](t, d.do("GET", "/v1/models", "").Body.Bytes())
	want := []openAIModel{
		{ID: "minilm", Object: "model", Created: 1700000000, OwnedBy: "akidb"},
		{ID: "default", Object: "model", Created: 1700000000, OwnedBy: "akidb"},
	}
	if got.Object != "list" || !slices.Equal(got.Data, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, id := range []string{"minilm", "default", "minilm@0123456789ab", "minilm@" + fakeDigest} {
		w := d.do("GET", "/v1/models/"+id, "")
		if m := decodeJSON[openAIModel](t, w.Body.Bytes()); w.Code != 200 || m.ID != id {
			t.Errorf("%s: got %d %s", id, w.Code, w.Body)
		}
	}
	for _, id := range []string{"nope", "minilm@0123", "minilm@fff456789abcd", "a/b"} {
		checkFailure(t, d.do("GET", "/v1/models/"+id, ""), "/v1/", 404, "there is no model", "model")
	}
	checkFailure(t, d.do("GET", "/v1/models/slow", ""), "/v1/", 503, "not ready: warming up", "")
}
