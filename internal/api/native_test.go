package api

import (
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
)

func TestNativeEmbed(t *testing.T) {
	yes, no := true, false
	text := func(texts ...string) (in []embedding.Input) {
		for _, s := range texts {
			in = append(in, embedding.Input{Text: s})
		}
		return in
	}
	for _, tc := range []struct {
		name, body string
		want       embedding.Request
	}{
		{"text", `{"text":"hello"}`, embedding.Request{Inputs: text("hello")}},
		{"texts", `{"texts":["a","b"]}`, embedding.Request{Inputs: text("a", "b")}},
		{"inputs list", `{"inputs":["a"]}`, embedding.Request{Inputs: text("a")}},
		{"inputs string", `{"inputs":"a"}`, embedding.Request{Inputs: text("a")}},
		{"texts string", `{"texts":"a"}`, embedding.Request{Inputs: text("a")}},
		{"all fields", ` { "model" : "minilm@0123456789ab" , "text":"x","normalize":true,"truncate":false,"dimensions":4,"prompt_name":"query"} `,
			embedding.Request{Model: "minilm@0123456789ab", Inputs: text("x"), Normalize: &yes, Truncate: &no, Dimensions: 4, PromptName: "query"}},
		{"nulls", `{"model":null,"text":"x","normalize":null,"truncate":null,"dimensions":null,"prompt_name":null}`,
			embedding.Request{Inputs: text("x")}},
		{"escapes", `{"text":"\u00e9\n\ud83d\ude00\u0000\"\\\/"}`, embedding.Request{Inputs: text("é\n😀\x00\"\\/")}},
		{"half a pair", `{"text":"\ud83d!"}`, embedding.Request{Inputs: text("\uFFFD!")}},
		{"spaces are text", `{"text":" "}`, embedding.Request{Inputs: text(" ")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newDoor(t, Config{})
			w := d.do("POST", "/api/v1/embed", tc.body)
			if w.Code != 200 {
				t.Fatalf("got %d %s", w.Code, w.Body)
			}
			if got := d.fake.request(); !reflect.DeepEqual(got, tc.want) {
				t.Errorf("the embedder was asked for %+v, want %+v", got, tc.want)
			}
			got := decodeJSON[nativeAnswer](t, w.Body.Bytes())
			if len(got.Embeddings) != len(tc.want.Inputs) {
				t.Fatalf("%d embeddings for %d inputs", len(got.Embeddings), len(tc.want.Inputs))
			}
			for i, in := range tc.want.Inputs {
				if want := fakeVector(in, tc.want.Dimensions, 8); !slices.Equal(got.Embeddings[i], want) {
					t.Errorf("embedding %d is %v, want %v bit by bit", i, got.Embeddings[i], want)
				}
			}
			if got.Model != "minilm@0123456789ab" || got.Dimensions != len(got.Embeddings[0]) || got.Usage.Tokens == 0 {
				t.Errorf("got %+v", got)
			}
			if got.ServedBy.Node != "n1" || got.ServedBy.Region != "eu-central-1" || got.ServedBy.Route != "local" {
				t.Errorf("served_by is %+v", got.ServedBy)
			}
		})
	}
}

func TestEmbedHeaders(t *testing.T) {
	for _, path := range []string{"/api/v1/embed", "/v1/embeddings"} {
		d := newDoor(t, Config{})
		d.fake.edit = func(r *embedding.Result) {
			r.Origin = embedding.Origin{Node: "n2", Region: "us-west-1", Forwarded: true}
		}
		field := map[string]string{"/api/v1/embed": "inputs", "/v1/embeddings": "input"}[path]
		w := d.do("POST", path, `{"`+field+`":["`+strings.Repeat("x", 70)+`","y"]}`, "x-request-id", "req-1")
		want := map[string]string{
			"X-Akidb-Node": "n2", "X-Akidb-Region": "us-west-1", "X-Akidb-Route": "forwarded",
			"X-Akidb-Model": "minilm@0123456789ab", "X-Akidb-Truncated": "1", "X-Request-Id": "req-1",
			"Content-Type": "application/json",
		}
		for name, value := range want {
			if got := w.Header().Get(name); got != value {
				t.Errorf("%s: %s is %q, want %q", path, name, got, value)
			}
		}
		timing := w.Header().Get("Server-Timing")
		for _, part := range []string{"tokenize;dur=1.000", "queue;dur=2.000", "run;dur=3.000", "total;dur="} {
			if !strings.Contains(timing, part) {
				t.Errorf("%s: server-timing %q lacks %q", path, timing, part)
			}
		}
		if n := d.metric("akidb_api_truncated_inputs_total"); n != 1 {
			t.Errorf("%s: %g truncated inputs were counted, want 1", path, n)
		}
		if n := d.metric("akidb_api_inputs_total"); n != 2 {
			t.Errorf("%s: %g inputs were counted, want 2", path, n)
		}
	}
	d := newDoor(t, Config{})
	w := d.do("POST", "/api/v1/embed", `{"text":"x"}`, "x-request-id", "bad id\n")
	if _, ok := w.Header()["X-Akidb-Truncated"]; ok {
		t.Error("x-akidb-truncated is there although nothing was cut")
	}
	if id := w.Header().Get("X-Request-Id"); len(id) != 32 {
		t.Errorf("an unfit request id gave %q, want one of 32 hex digits", id)
	}
}

// TestBadBodies has every way a body of the JSON routes can be wrong.
func TestBadBodies(t *testing.T) {
	const native, openAI = "/api/v1/embed", "/v1/embeddings"
	long := strings.Repeat("x", 101)
	for _, tc := range []struct {
		path, body string
		status     int
		message    string // part of it
		param      string
	}{
		{native, ``, 400, `the body must be an object, got the end of the body (at byte 0`, ""},
		{native, `[]`, 400, `the body must be an object, got an array`, ""},
		{native, `{`, 400, `expected a field name in quotes, got the end of the body (at byte 1`, ""},
		{native, `{"text":"x"`, 400, `expected ',' or '}' after a field, got the end of the body`, ""},
		{native, `{"text":"x",}`, 400, `expected a field name in quotes`, ""},
		{native, `{"text":"x"} {}`, 400, `2 bytes follow the end of the object (at byte 13`, ""},
		{native, `{"text":"x`, 400, `a string does not end (at byte 8`, "text"},
		{native, "{\"text\":\"x\ny\"}", 400, `control character 0x0a in a string must be escaped`, "text"},
		{native, `{"text":"\x"}`, 400, `unknown escape sequence (at byte 9`, "text"},
		{native, `{"text":"\u12g4"}`, 400, `\u needs four hex digits`, "text"},
		{native, "{\"text\":\"\xff\"}", 400, `not valid UTF-8 (at byte 8`, "text"},
		{native, `{"txet":"x"}`, 400, `unknown field "txet"`, "txet"},
		{native, `{"Text":"x"}`, 400, `unknown field "Text"`, "Text"},
		{native, `{}`, 400, `one of "text", "texts" and "inputs" is needed`, ""},
		{native, `{"text":"x","texts":["y"]}`, 400, `only one of "text", "texts" and "inputs" may be given, got "text" and "texts"`, "texts"},
		{native, `{"text":"x","text":"y"}`, 400, `field "text" is given twice`, "text"},
		{native, `{"text":["x"]}`, 400, `"text" must be a string, got an array (at byte 8`, "text"},
		{native, `{"text":null}`, 400, `"text" must be a string, got null`, "text"},
		{native, `{"texts":7}`, 400, `"texts" must be a string or a list of strings, got a number`, "texts"},
		{native, `{"texts":["a",7]}`, 400, `"texts[1]" is a number, but "texts" starts with a string`, "texts"},
		{native, `{"texts":["a",null]}`, 400, `"texts[1]" is null`, "texts"},
		{native, `{"texts":[{}]}`, 400, `"texts[0]" must be a string, got an object`, "texts"},
		{native, `{"texts":["a" "b"]}`, 400, `expected ',' or ']' after an element of "texts`, "texts"},
		{native, `{"text":"x","model":7}`, 400, `"model" must be a string, got a number`, "model"},
		{native, `{"text":"x","model":"` + strings.Repeat("m", 300) + `"}`, 400, `"model" must be at most 256 bytes, got 300`, "model"},
		{native, `{"text":"x","normalize":"yes"}`, 400, `"normalize" must be true or false, got a string`, "normalize"},
		{native, `{"text":"x","truncate":1}`, 400, `"truncate" must be true or false, got a number`, "truncate"},
		{native, `{"text":"x","dimensions":"4"}`, 400, `"dimensions" must be a whole number, got a string`, "dimensions"},
		{native, `{"text":"x","dimensions":0}`, 422, `"dimensions" must be a whole number between 1 and 1048576, got 0`, "dimensions"},
		{native, `{"text":"x","dimensions":-1}`, 422, `got -1`, "dimensions"},
		{native, `{"text":"x","dimensions":1.5}`, 422, `got 1.5`, "dimensions"},
		{native, `{"text":"x","dimensions":99999999999999999999999}`, 422, `between 1 and 1048576`, "dimensions"},
		{native, `{"text":"x","dimensions":9}`, 422, `dimensions may be 8 at most, got 9`, "dimensions"},
		{native, `{"texts":[]}`, 400, `"texts" is empty: at least 1 input is needed, got 0`, "texts"},
		{native, `{"text":""}`, 400, `text[0] is an empty string`, "text"},
		{native, `{"texts":["a",""]}`, 400, `texts[1] is an empty string`, "texts"},
		{native, `{"texts":["a","b","c","d"]}`, 422, `"texts" may have 3 inputs at most, got 4`, "texts"},
		{native, `{"text":"` + long + `"}`, 422, `text[0] may have 100 bytes at most, got 101`, "text"},
		{native, `{"text":"x","model":"nope"}`, 404, `there is no model nope`, "model"},
		{native, `{"text":"` + long[:70] + `","truncate":false}`, 422, `may have 64 tokens at most, got 70`, ""},
		{native, `{"inputs":[1,2]}`, 400, `check_embedding_ctx_length=False`, "inputs"},
		{native, `{"text":"x","a":` + strings.Repeat("[", 100), 400, `unknown field "a"`, "a"},

		{openAI, ``, 400, `the body must be an object`, ""},
		{openAI, `{"model":"minilm"}`, 400, `"input" is needed`, "input"},
		{openAI, `{"input":null}`, 400, `"input" must be a string or a list of strings, got null`, "input"},
		{openAI, `{"input":{}}`, 400, `got an object`, "input"},
		{openAI, `{"input":[]}`, 400, `"input" is empty: at least 1 input is needed, got 0`, "input"},
		{openAI, `{"input":""}`, 400, `input[0] is an empty string`, "input"},
		{openAI, `{"input":["a","b",""]}`, 400, `input[2] is an empty string`, "input"},
		{openAI, `{"input":["a","b","c","d"]}`, 400, `"input" may have 3 inputs at most, got 4`, "input"},
		{openAI, `{"input":"` + long + `"}`, 400, `input[0] may have 100 bytes at most, got 101`, "input"},
		{openAI, `{"input":"x","input":"y"}`, 400, `given twice`, "input"},
		{openAI, `{"input":"x","dimensions":9}`, 400, `dimensions may be 8 at most, got 9`, "dimensions"},
		{openAI, `{"input":"x","encoding_format":"hex"}`, 400, `"encoding_format" must be "float" or "base64", got "hex"`, "encoding_format"},
		{openAI, `{"input":"x","encoding_format":1}`, 400, `"encoding_format" must be a string, got a number`, "encoding_format"},
		{openAI, `{"input":"x","model":"nope"}`, 404, `there is no model nope`, "model"},
		{openAI, `{"input":[1,2,3]}`, 400, `check_embedding_ctx_length=False`, "input"},
		{openAI, `{"input":[[1,2],[3]]}`, 400, `check_embedding_ctx_length=False`, "input"},
		{openAI, `{"input":[1,"a"]}`, 400, `is a string, but "input" starts with a token id`, "input"},
		{openAI, `{"input":[[1],"a"]}`, 400, `"input[1]" is a string, but "input" starts with a list of token ids`, "input"},
		{openAI, `{"input":[[1.5]]}`, 400, `must be a whole number between 0 and 2147483647, got 1.5`, "input"},
		{openAI, `{"input":[-1]}`, 400, `got -1`, "input"},
		{openAI, `{"input":[2147483648]}`, 400, `got 2147483648`, "input"},
		{openAI, `{"input":[` + strings.Repeat("1,", 25) + `1]}`, 400, `may have 25 token ids at most, got 26`, "input"},
		{openAI, `{"input":[[1],[` + strings.Repeat("1,", 25) + `1]]}`, 400, `"input[1]" may have 25 token ids at most, got 26`, "input"},
		{openAI, `{"input":"x","other":` + strings.Repeat("[", 100), 400, `nested more than 64 levels`, "other"},
		{openAI, `{"input":"x","other":01}`, 400, `malformed JSON`, ""},
		{openAI, `{"input":"x","other":tru}`, 400, `expected true`, "other"},
		{openAI, `{"input":"x"}x`, 400, `1 bytes follow the end`, ""},
	} {
		t.Run(tc.path+" "+tc.body[:min(len(tc.body), 40)], func(t *testing.T) {
			d := newDoor(t, Config{MaxInputs: 3, MaxInputBytes: 100})
			w := d.do("POST", tc.path, tc.body)
			checkFailure(t, w, tc.path, tc.status, tc.message, tc.param)
			if w.Code < 500 && d.fake.done.Load() != 0 {
				t.Error("the embedder computed something all the same")
			}
		})
	}
}

// checkFailure looks at an error answer in the form of the path.
func checkFailure(t *testing.T, w *httptest.ResponseRecorder, path string, status int, message, param string) {
	t.Helper()
	if w.Code != status {
		t.Errorf("status is %d, want %d", w.Code, status)
	}
	var gotMessage, gotParam string
	if strings.HasPrefix(path, "/v1/") {
		e := decodeJSON[openAIError](t, w.Body.Bytes()).Error
		gotMessage = e.Message
		if e.Param != nil {
			gotParam = *e.Param
		}
		if e.Type == "" || e.Code == "" {
			t.Errorf("type or code is missing in %s", w.Body)
		}
	} else {
		e := decodeJSON[nativeError](t, w.Body.Bytes())
		gotMessage, gotParam = e.Error.Message, e.Error.Param
		if e.RequestID == "" || e.RequestID != w.Header().Get("X-Request-Id") {
			t.Errorf("request_id is %q, the header has %q", e.RequestID, w.Header().Get("X-Request-Id"))
		}
	}
	if !strings.Contains(gotMessage, message) {
		t.Errorf("message is\n%s\nwant in it\n%s", gotMessage, message)
	}
	if gotParam != param {
		t.Errorf("param is %q, want %q", gotParam, param)
	}
	if w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("content-type is %q", w.Header().Get("Content-Type"))
	}
}

// TestCodes sends every code through every JSON route.
func TestCodes(t *testing.T) {
	for _, tc := range []struct {
		code           embedding.Code
		native, openAI int
		openAICode     string
		retryAfter     bool
	}{
		{embedding.CodeInvalid, 400, 400, "invalid_value", false},
		{embedding.CodeUnprocessable, 422, 400, "invalid_value", false},
		{embedding.CodeTooLarge, 413, 413, "request_too_large", false},
		{embedding.CodeUnauthenticated, 401, 401, "invalid_api_key", false},
		{embedding.CodeModelNotFound, 404, 404, "model_not_found", false},
		{embedding.CodeOverloaded, 429, 429, "rate_limit_exceeded", true},
		{embedding.CodeUnavailable, 503, 503, "unavailable", true},
		{embedding.CodeDeadline, 504, 504, "deadline_exceeded", false},
		{embedding.CodeCanceled, 499, 499, "canceled", false},
		{embedding.CodeInternal, 500, 500, "internal_error", false},
	} {
		t.Run(string(tc.code), func(t *testing.T) {
			d := newDoor(t, Config{RetryAfter: 1500 * time.Millisecond})
			d.fake.fail = func(embedding.Request) error {
				return &embedding.Error{Code: tc.code, Message: "for people", Err: errors.New("a cause for logs")}
			}
			for _, path := range []string{"/api/v1/embed", "/v1/embeddings"} {
				body, status := `{"text":"x"}`, tc.native
				if path == "/v1/embeddings" {
					body, status = `{"input":"x"}`, tc.openAI
				}
				w := d.do("POST", path, body)
				checkFailure(t, w, path, status, "for people", "")
				if strings.Contains(w.Body.String(), "cause") {
					t.Errorf("the cause got out: %s", w.Body)
				}
				want := ""
				if tc.retryAfter {
					want = "2"
				}
				if got := w.Header().Get("Retry-After"); got != want {
					t.Errorf("%s: retry-after is %q, want %q", path, got, want)
				}
				if (w.Header().Get("WWW-Authenticate") != "") != (tc.code == embedding.CodeUnauthenticated) {
					t.Errorf("%s: www-authenticate is %q", path, w.Header().Get("WWW-Authenticate"))
				}
				if w.Header().Get("X-Akidb-Code") != string(tc.code) {
					t.Errorf("%s: x-akidb-code is %q", path, w.Header().Get("X-Akidb-Code"))
				}
				if path == "/v1/embeddings" {
					if got := decodeJSON[openAIError](t, w.Body.Bytes()).Error.Code; got != tc.openAICode {
						t.Errorf("error.code is %q, want %q", got, tc.openAICode)
					}
				}
				if n := d.metric("akidb_api_requests_total", "route", path, "code", string(tc.code)); n != 1 {
					t.Errorf("%s: %g requests were counted, want 1", path, n)
				}
			}
			if n := d.metric("akidb_embed_requests_total", "region", "eu-central-1", "code", string(tc.code)); n != 2 {
				t.Errorf("%g embed requests were counted, want 2", n)
			}
		})
	}
	if len(embedding.Codes()) != 10 {
		t.Errorf("there are %d codes, this test knows 10", len(embedding.Codes()))
	}
}

func TestBodyLimit(t *testing.T) {
	d := newDoor(t, Config{MaxBodyBytes: 64})
	body := `{"text":"` + strings.Repeat("x", 100) + `"}`
	for _, path := range []string{"/api/v1/embed", "/v1/embeddings"} {
		checkFailure(t, d.do("POST", path, body), path, 413, "64 bytes at most, got 111", "")
		req := httptest.NewRequest("POST", path, strings.NewReader(body))
		req.ContentLength = -1 // chunked
		w := httptest.NewRecorder()
		d.Handler().ServeHTTP(w, req)
		checkFailure(t, w, path, 413, "64 bytes at most, got more", "")
	}
	checkFailure(t, d.do("POST", "/api/v1/embed", `{}`, "Content-Encoding", "gzip"), "/api/v1/embed", 400, `content-encoding "gzip" is not supported`, "")

	req := httptest.NewRequest("POST", "/api/v1/embed", iotest.ErrReader(errors.New("cut")))
	w := httptest.NewRecorder()
	d.Handler().ServeHTTP(w, req)
	checkFailure(t, w, "/api/v1/embed", 400, "the body cannot be read", "")
}

func TestDeadlines(t *testing.T) {
	d := newDoor(t, Config{Deadline: time.Minute})
	d.fake.gate = make(chan struct{})
	for _, asked := range []string{"10ms", "10"} {
		w := d.do("POST", "/api/v1/embed", `{"text":"wait"}`, "x-akidb-timeout", asked)
		checkFailure(t, w, "/api/v1/embed", 504, "deadline", "")
	}
	for _, asked := range []string{"0", "-1s", "soon", "0s"} {
		w := d.do("POST", "/api/v1/embed", `{"text":"x"}`, "x-akidb-timeout", asked)
		checkFailure(t, w, "/api/v1/embed", 400, "x-akidb-timeout must be a duration above 0", "")
	}
	close(d.fake.gate)
	if w := d.do("POST", "/api/v1/embed", `{"text":"wait"}`, "x-akidb-timeout", "10s"); w.Code != 200 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	d = newDoor(t, Config{Deadline: 5 * time.Millisecond})
	d.fake.gate = make(chan struct{})
	checkFailure(t, d.do("POST", "/api/v1/embed", `{"text":"wait"}`, "x-akidb-timeout", "1h"), "/api/v1/embed", 504, "deadline", "")
}

// TestBrokenEmbedder: what an Embedder must not give does not reach a client as a broken document.
func TestBrokenEmbedder(t *testing.T) {
	for name, edit := range map[string]func(*embedding.Result){
		"NaN":             func(r *embedding.Result) { r.Vectors[1][3] = float32(math.NaN()) },
		"infinity":        func(r *embedding.Result) { r.Vectors[0][0] = float32(math.Inf(-1)) },
		"a vector fewer":  func(r *embedding.Result) { r.Vectors = r.Vectors[:1] },
		"ragged":          func(r *embedding.Result) { r.Vectors[1] = r.Vectors[1][:3] },
		"empty vector":    func(r *embedding.Result) { r.Vectors[0] = nil },
		"a count too few": func(r *embedding.Result) { r.Tokens = r.Tokens[:1] },
		"panic":           func(*embedding.Result) { panic("boom") },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDoor(t, Config{})
			d.fake.edit = edit
			checkFailure(t, d.do("POST", "/api/v1/embed", `{"texts":["a","b"]}`), "/api/v1/embed", 500, "", "")
			checkFailure(t, d.do("POST", "/v1/embeddings", `{"input":["a","b"]}`), "/v1/embeddings", 500, "", "")
			want := 0.0
			if name == "panic" {
				want = 2
				if n := strings.Count(d.log.String(), "boom"); n != 2 {
					t.Errorf("the panic is in the log %d times for 2 requests", n)
				}
			}
			if n := d.metric("akidb_api_panics_total"); n != want {
				t.Errorf("%g panics were counted, want %g", n, want)
			}
		})
	}
	// Computed, but the answer got lost: the client must see the failure.
	d := newDoor(t, Config{})
	d.fake.late = func(embedding.Request) error { return embedding.Errorf(embedding.CodeUnavailable, "link lost") }
	checkFailure(t, d.do("POST", "/api/v1/embed", `{"text":"a"}`), "/api/v1/embed", 503, "link lost", "")
}

func TestMaxInflight(t *testing.T) {
	d := newDoor(t, Config{MaxInflight: 1})
	d.fake.hold()
	first := make(chan *httptest.ResponseRecorder)
	go func() { first <- d.do("POST", "/api/v1/embed", `{"text":"wait"}`) }()
	<-d.fake.waiting
	w := d.do("POST", "/api/v1/embed", `{"text":"x"}`)
	checkFailure(t, w, "/api/v1/embed", 429, "answers 1 requests at once at most", "")
	close(d.fake.gate)
	if w := <-first; w.Code != 200 {
		t.Errorf("the first got %d", w.Code)
	}
	if w := d.do("POST", "/api/v1/embed", `{"text":"x"}`); w.Code != 200 {
		t.Errorf("the third got %d", w.Code)
	}
}

func TestNativeModels(t *testing.T) {
	d := newDoor(t, Config{})
	w := d.do("GET", "/api/v1/models", "")
	got := decodeJSON[struct{ Models []nativeModel }](t, w.Body.Bytes()).Models
	if len(got) != 2 || got[0].Name != "minilm" || got[0].Model != "minilm@0123456789ab" || got[0].State != "ready" ||
		!slices.Equal(got[0].Aliases, []string{"default"}) || got[0].Loaded == nil ||
		got[1].State != "loading" || got[1].Reason != "warming up" || got[1].Loaded != nil || got[1].Aliases == nil {
		t.Errorf("got %s", w.Body)
	}
}

func TestUnknownRoutes(t *testing.T) {
	d := newDoor(t, Config{})
	for _, tc := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/nothing", 404, ""},
		{"GET", "/api/v1/nothing", 404, ""},
		{"POST", "/v1/chat/completions", 404, ""},
		{"POST", "/v1/embeddings/", 404, ""},
		{"GET", "/v1/models/", 404, ""},
		{"GET", "/api/v1/embed", 405, "POST"},
		{"PUT", "/v1/embeddings", 405, "POST"},
		{"POST", "/v1/models", 405, "GET, HEAD"},
		{"DELETE", "/v1/models/minilm", 405, "GET, HEAD"},
		{"POST", "/health", 405, "GET, HEAD"},
		{"POST", "/", 405, "GET, HEAD"},
		{"GET", "/akidb.v1.EmbeddingService/Embed", 405, "POST"},
	} {
		w := d.do(tc.method, tc.path, "")
		if w.Code != tc.status || w.Header().Get("Allow") != tc.allow {
			t.Errorf("%s %s: got %d, allow %q, want %d, %q", tc.method, tc.path, w.Code, w.Header().Get("Allow"), tc.status, tc.allow)
		}
		if tc.path != "/akidb.v1.EmbeddingService/Embed" {
			checkFailure(t, w, tc.path, tc.status, tc.path, "")
		}
	}
	if n := d.metric("akidb_api_requests_total", "route", "other", "code", "not_found"); n != 5 {
		t.Errorf("%g unknown routes were counted, want 5", n)
	}
	if w := d.do("HEAD", "/health", ""); w.Code != http.StatusOK {
		t.Errorf("HEAD /health gave %d", w.Code)
	}
}
