package loadgen

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

const goodAnswer = `{"embeddings": [[0.5, -1e-3], [0.25, 1]], "model": "m@1", "dimensions": 2,
	"usage": {"tokens": 9}, "served_by": {"node": "n1", "region": "eu-central-1", "route": "forwarded"}}`

// serve starts a server that closes with the test.
func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func answering(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func newHTTP(t *testing.T, cfg HTTPConfig) *HTTP {
	t.Helper()
	h, err := NewHTTP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

// refusing is a URL where nothing listens.
func refusing(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func TestNativeRequest(t *testing.T) {
	var got struct {
		Texts []string
		Model string
	}
	var path, key, kind string
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		path, key, kind = r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("Content-Type")
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
			t.Error(err)
		}
		answering(200, goodAnswer)(w, r)
	})
	h := newHTTP(t, HTTPConfig{URLs: []string{url + "/"}, Key: "secret", Model: "m", Verify: true})
	texts := []string{"Plain text.", "\"quoted\\ \n\u0001 é \u2028 <b>"}
	out := h.Send(t.Context(), 0, texts)
	want := Outcome{Region: "eu-central-1", Route: "forwarded", Tokens: 9, Received: int64(len(goodAnswer))}
	if out.Sent < 50 {
		t.Errorf("%d bytes sent", out.Sent)
	}
	out.Sent = 0
	if fmt.Sprint(out) != fmt.Sprint(want) {
		t.Errorf("outcome %+v, want %+v", out, want)
	}
	if path != "/api/v1/embed" || key != "Bearer secret" || kind != "application/json" {
		t.Errorf("path %q, authorization %q, content type %q", path, key, kind)
	}
	if !slices.Equal(got.Texts, texts) || got.Model != "m" {
		t.Errorf("the server got %+v", got)
	}
}

func TestOpenAIRequest(t *testing.T) {
	packed := make([]byte, 8)
	binary.LittleEndian.PutUint32(packed, math.Float32bits(0.5))
	body := fmt.Sprintf(`{"object":"list","data":[{"index":0,"embedding":[1,2]},{"index":1,"embedding":%q}],
		"usage":{"prompt_tokens":7,"total_tokens":7}}`, base64.StdEncoding.EncodeToString(packed))
	var got struct {
		Input []string
		Model string
	}
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil || r.URL.Path != "/v1/embeddings" {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
		w.Header().Set("X-Akidb-Route", "local")
		answering(200, body)(w, r)
	})
	h := newHTTP(t, HTTPConfig{URLs: []string{url}, API: OpenAI, Verify: true})
	out := h.Send(t.Context(), 0, []string{"a", "b"})
	if out.Code != "" || out.Tokens != 7 || out.Route != "local" {
		t.Errorf("outcome %+v", out)
	}
	if got.Model != "default" || !slices.Equal(got.Input, []string{"a", "b"}) {
		t.Errorf("the server got %+v", got)
	}
}

func TestFailureCodes(t *testing.T) {
	hang := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}
	abort := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	half := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		answering(200, goodAnswer[:100])(w, r)
	}
	for _, tc := range []struct {
		name          string
		h             http.HandlerFunc
		code, message string
	}{
		{"nested", answering(429, `{"error":{"code":"overloaded","message":"queue full"}}`), "overloaded", "429 Too Many Requests: queue full"},
		{"flat", answering(503, `{"code":"unavailable","message":"draining"}`), "unavailable", "503 Service Unavailable: draining"},
		{"string", answering(413, `{"error":"too long","error_type":"Validation"}`), "http_413", "too long"},
		{"code out of the set", answering(400, `{"error":{"code":"boom","message":"x"}}`), "http_400", "400 Bad Request: x"},
		{"header", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Akidb-Code", "internal")
			answering(500, `{"error":{"code":"internal_error","message":"x"}}`)(w, r)
		}, "internal", "500 Internal Server Error: x"},
		{"no JSON", answering(502, `<html>`), "http_502", "502 Bad Gateway"},
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, "http_307", ""},
		{"hangs", hang, "timeout", ""},
		{"aborts", abort, "connection_lost", ""},
		{"half an answer", half, "connection_lost", ""},
		{"no object", answering(200, `[[1,2],[3,4]]`), codeBadAnswer, "not a JSON object"},
		{"cut object", answering(200, goodAnswer[:60]), codeBadAnswer, "not a JSON object"},
		{"bad usage", answering(200, `{"usage":{"tokens":"many"}}`), codeBadAnswer, "usage"},
		{"bad served_by", answering(200, `{"served_by":7}`), codeBadAnswer, "served_by"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			timeout := 10 * time.Second
			if tc.code == "timeout" {
				timeout = 20 * time.Millisecond
			}
			h := newHTTP(t, HTTPConfig{URLs: []string{serve(t, tc.h)}, Timeout: timeout})
			out := h.Send(t.Context(), 0, []string{"a", "b"})
			if out.Code != tc.code || !strings.Contains(out.Message, tc.message) {
				t.Errorf("got %q: %q, want %q: %q", out.Code, out.Message, tc.code, tc.message)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	tlsServer := httptest.NewUnstartedServer(answering(200, goodAnswer))
	tlsServer.Config.ErrorLog = log.New(io.Discard, "", 0)
	tlsServer.StartTLS()
	t.Cleanup(tlsServer.Close)
	plain := strings.Replace(serve(t, answering(200, goodAnswer)), "http:", "https:", 1)
	for url, want := range map[string]string{
		refusing(t):   "connection_refused",
		tlsServer.URL: "tls",
		plain:         "tls",
	} {
		h := newHTTP(t, HTTPConfig{URLs: []string{url}})
		if out := h.Send(t.Context(), 0, []string{"a"}); out.Code != want || !Unreachable(out.Code) {
			t.Errorf("%s: %q (%s), want %q", url, out.Code, out.Message, want)
		}
	}
}

func TestCanceledSend(t *testing.T) {
	h := newHTTP(t, HTTPConfig{URLs: []string{serve(t, answering(200, goodAnswer))}, Failover: true})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if out := h.Send(ctx, 0, []string{"a"}); out.Code != "canceled" || len(out.Retried) != 0 {
		t.Errorf("outcome %+v", out)
	}
}

func TestRoundRobinAndFailover(t *testing.T) {
	good := serve(t, answering(200, goodAnswer))
	full := serve(t, answering(429, `{"error":{"code":"overloaded","message":"full"}}`))
	wrong := serve(t, answering(404, `{"error":{"code":"model_not_found","message":"no such model"}}`))
	urls := []string{good, full, refusing(t), wrong}

	h := newHTTP(t, HTTPConfig{URLs: urls})
	for n, want := range []string{"", "overloaded", "connection_refused", "model_not_found", ""} {
		if out := h.Send(t.Context(), uint64(n), []string{"a"}); out.Code != want || out.URL != n%4 || out.Retried != nil {
			t.Errorf("request %d: %+v, want code %q", n, out, want)
		}
	}

	h = newHTTP(t, HTTPConfig{URLs: urls[:3], Failover: true})
	for n, want := range [][]int{nil, {1, 2}, {2}} {
		if out := h.Send(t.Context(), uint64(n), []string{"a"}); out.Code != "" || out.URL != 0 || !slices.Equal(out.Retried, want) {
			t.Errorf("request %d: %+v, want it answered by 0 after %v", n, out, want)
		}
	}
	// The fault of the client is the same everywhere.
	h = newHTTP(t, HTTPConfig{URLs: []string{wrong, good}, Failover: true})
	if out := h.Send(t.Context(), 0, []string{"a"}); out.Code != "model_not_found" || out.Retried != nil {
		t.Errorf("outcome %+v", out)
	}
	// When all fail, the last one is the one that failed.
	h = newHTTP(t, HTTPConfig{URLs: []string{full, full}, Failover: true})
	if out := h.Send(t.Context(), 0, []string{"a"}); out.Code != "overloaded" || out.URL != 1 || !slices.Equal(out.Retried, []int{0}) {
		t.Errorf("outcome %+v", out)
	}
}

func TestConnectionsAreKept(t *testing.T) {
	opened := 0
	s := httptest.NewUnstartedServer(answering(200, goodAnswer))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened++
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	h := newHTTP(t, HTTPConfig{URLs: []string{s.URL}})
	for n := range uint64(20) {
		if out := h.Send(t.Context(), n, []string{"a"}); out.Code != "" {
			t.Fatalf("outcome %+v", out)
		}
	}
	if opened != 1 {
		t.Errorf("%d connections for 20 requests one after another", opened)
	}
}

func TestVerify(t *testing.T) {
	for _, tc := range []struct{ body, want string }{
		{goodAnswer, ""},
		{`{"embeddings":[[1,2]]}`, "1 vectors for 2 texts"},
		{`{"embeddings":[[1,2],[1]]}`, "vector 1 has 1 dimensions, the first one had 2"},
		{`{"embeddings":[[1,2],[]]}`, "vector 1 is empty"},
		{`{"embeddings":[[1,2],[0,0]]}`, "vector 1 is all zeros"},
		{`{"embeddings":[[1,2],[1,null]]}`, "a null"},
		{`{"embeddings":[[1,2],[1,1e39]]}`, "1e39"},
		{`{"embeddings":[[1,2],[1,NaN]]}`, "invalid character"},
		{`{"usage":{"tokens":1}}`, "the answer has no embeddings"},
		{`{"data":[{"index":1,"embedding":[1,2]},{"index":0,"embedding":[1,2]}]}`, "index 1 at place 0"},
		{`{"data":[{"index":0,"embedding":[1,2]},{"index":1,"embedding":"AAAA"}]}`, "3 bytes are no whole number"},
		{`{"data":[{"index":0,"embedding":[1,2]},{"index":1,"embedding":"AADAfwAAgD8="}]}`, "value 0 of vector 1 is NaN"},
		{`{"data":[{"index":0,"embedding":[1,2]},{"index":1,"embedding":"!"}]}`, "illegal base64"},
		{`{"data":[{"index":0,"embedding":[1,null]}]}`, "a null"},
	} {
		h := newHTTP(t, HTTPConfig{URLs: []string{serve(t, answering(200, tc.body))}, Verify: true})
		out := h.Send(t.Context(), 0, []string{"a", "b"})
		if (out.Code == "") != (tc.want == "") || !strings.Contains(out.Message, tc.want) {
			t.Errorf("%s: %q: %q, want %q", tc.body, out.Code, out.Message, tc.want)
		}
	}
}

func TestHTTPConfigErrors(t *testing.T) {
	for _, tc := range []struct {
		cfg  HTTPConfig
		want string
	}{
		{HTTPConfig{}, "at least one URL"},
		{HTTPConfig{URLs: []string{"localhost:8080"}}, `not "localhost:8080"`},
		{HTTPConfig{URLs: []string{"ftp://x"}}, `not "ftp://x"`},
		{HTTPConfig{URLs: []string{"http://user:secret@host"}}, "no user and password in a URL (the one for host)"},
		{HTTPConfig{URLs: []string{"http://host"}, API: "tei"}, `not "tei"`},
	} {
		_, err := NewHTTP(tc.cfg)
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: %v, want an error with %q", tc.cfg, err, tc.want)
		}
	}
}

func TestLabel(t *testing.T) {
	if got := label("a\x1b[2J é" + strings.Repeat("x", 100)); len(got) > 64 || !strings.HasPrefix(got, "a?[2J?") {
		t.Errorf("got %q", got)
	}
}

func BenchmarkSend(b *testing.B) {
	vector := strings.Repeat("0.0123456789,", 383) + "1"
	body := `{"embeddings":[[` + vector + `]],"usage":{"tokens":80},"served_by":{"node":"n","region":"r","route":"local"}}`
	s := httptest.NewServer(answering(200, body))
	defer s.Close()
	h, err := NewHTTP(HTTPConfig{URLs: []string{s.URL}})
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	texts := newTexts(b, TextsConfig{}).Batch(0, 1)
	b.ReportAllocs()
	for b.Loop() {
		if out := h.Send(b.Context(), 0, texts); out.Code != "" {
			b.Fatal(out)
		}
	}
}
