package api

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/akidb/akidbd/internal/embedding"
)

// FuzzScanner holds the scanner to encoding/json: the same documents are valid, the same strings come out.
func FuzzScanner(f *testing.F) {
	for _, seed := range []string{
		`{"a":[1,-0.5e+7,true,false,null,"x\u00e9\ud83d\ude00\ud83d",{}]}`, `{}`, `[]`, ` "a" `, `01`, `-`, `1.`, `1e`, `tru`,
		`"\u12"`, `"\`, "\"\x00\"", `{"a"}`, `{"a":}`, `[1,]`, `{,}`, `"\ud83d\u0041"`, `"\ud83d\ud83d\ude00"`, `1 2`, "\"\u2028\x7f\"", ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if !utf8.Valid(b) || strings.Count(string(b), "[")+strings.Count(string(b), "{") >= maxDepth {
			return
		}
		s := &scanner{b: b}
		err := s.skip()
		if err == nil {
			err = s.end()
		}
		if valid := json.Valid(b); valid != (err == nil) {
			t.Fatalf("encoding/json says valid=%t, the scanner says %v", valid, err)
		}
		if err != nil {
			if e := embedding.AsError(err); e.Code != embedding.CodeInvalid {
				t.Fatalf("code %s for a syntax error", e.Code)
			}
			return
		}
		var want string
		if json.Unmarshal(b, &want) == nil && strings.TrimSpace(string(b)) != "null" {
			got, err := (&scanner{b: b}).str()
			if err != nil || got != want {
				t.Fatalf("got %q, %v, want %q", got, err, want)
			}
		}
	})
}

func fuzzBody(f *testing.F, path string, seeds ...string) {
	for _, seed := range seeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		d := newDoor(t, Config{MaxInputs: 4, MaxInputBytes: 64, MaxBodyBytes: 4096, TokenIDs: len(body)%2 == 0})
		req := httptest.NewRequest("POST", path, strings.NewReader(string(body)))
		w := httptest.NewRecorder()
		d.Handler().ServeHTTP(w, req)
		switch w.Code {
		case 200, 400, 404, 413, 422:
		default:
			t.Fatalf("status %d: %s", w.Code, w.Body)
		}
		if !json.Valid(w.Body.Bytes()) {
			t.Fatalf("the answer is not JSON: %s", w.Body)
		}
		if n := d.metric("akidb_api_panics_total"); n != 0 {
			t.Fatalf("it panicked: %s", d.log)
		}
		// What was refused is what the decoder of the standard library would refuse, or breaks a limit.
		if w.Code == 200 && !json.Valid(body) {
			t.Fatalf("an invalid document was answered")
		}
	})
}

func FuzzNative(f *testing.F) {
	fuzzBody(f, "/api/v1/embed", `{"text":"a"}`, `{"texts":["a","b"],"dimensions":4,"normalize":true}`, `{"inputs":[[1],[2]]}`,
		`{"inputs":[1,2,3],"model":"minilm@0123456789ab"}`, `{"text":"`+strings.Repeat("x", 65)+`"}`, `{"texts":["a","b","c","d","e"]}`,
		`{"text":"a","truncate":null,"prompt_name":"q"}`, `{"texts":[]}`, `{"text":1e9}`)
}

func FuzzOpenAI(f *testing.F) {
	fuzzBody(f, "/v1/embeddings", `{"input":"a"}`, `{"input":["a","b"],"encoding_format":"base64","user":{"x":[]}}`, `{"input":[1,2]}`,
		`{"input":[[1],[]]}`, `{"input":[1,"a"]}`, `{"input":"a","dimensions":99}`, `{"input":null}`, `{"model":"x","input":"y"}`)
}

// BenchmarkDecode compares the scanner with what encoding/json would take for the same, without its union of
// inputs and its messages.
func BenchmarkDecode(b *testing.B) {
	one := []byte(`{"text":"` + strings.Repeat("some words ", 10) + `","model":"minilm"}`)
	many := []byte(`{"texts":["` + strings.Repeat(strings.Repeat("some words ", 30)+`","`, 63) + `end"],"model":"minilm"}`)
	lim := limits{inputs: 2048, inputBytes: 1 << 20}
	for name, body := range map[string][]byte{"one": one, "many": many} {
		b.Run("scanner/"+name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if _, err := decodeNative(body, lim); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("encoding-json/"+name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				var doc struct {
					Text       string
					Texts      []string
					Model      string
					Normalize  *bool
					Truncate   *bool
					Dimensions int
				}
				if err := json.Unmarshal(body, &doc); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
