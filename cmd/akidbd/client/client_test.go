package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const three = `{"embeddings":[[1,0,0,0,0,0,0],[0.6,0.8,0,0,0,0,0],[0,0,0,0,0,0,1]],"model":"mini@0123456789ab",
	"dimensions":7,"usage":{"tokens":12},"served_by":{"node":"n1","region":"eu","route":"local"}}`

func serve(t *testing.T, status int, body string, seen *Request) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if seen != nil {
			if err := json.NewDecoder(r.Body).Decode(seen); err != nil || r.URL.Path != "/api/v1/embed" {
				t.Errorf("%s: %v", r.URL.Path, err)
			}
			seen.Model += "|" + r.Header.Get("Authorization")
		}
		w.Header().Set("X-Akidb-Truncated", "2")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func run(t *testing.T, in string, args ...string) (string, error) {
	t.Helper()
	cmd := Command()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SetIn(strings.NewReader(in))
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestEmbed(t *testing.T) {
	var seen Request
	url := serve(t, 200, three, &seen)
	yes := true
	got, err := Embed(t.Context(), url+"/", "k", Request{
		Texts: []string{"a", "b", "ü\n"}, Model: "m", Dimensions: 7, PromptName: "query", Normalize: &yes,
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Embeddings[1], []float32{0.6, 0.8, 0, 0, 0, 0, 0}) || got.Model != "mini@0123456789ab" ||
		got.Usage.Tokens != 12 || got.ServedBy != (ServedBy{"n1", "eu", "local"}) || got.Truncated != 2 {
		t.Errorf("response %+v", got)
	}
	if !slices.Equal(seen.Texts, []string{"a", "b", "ü\n"}) || seen.Model != "m|Bearer k" || seen.Dimensions != 7 ||
		seen.PromptName != "query" || seen.Normalize == nil || seen.Truncate != nil {
		t.Errorf("the server got %+v", seen)
	}
}

func TestEmbedErrors(t *testing.T) {
	for _, tc := range []struct {
		status     int
		body, want string
	}{
		{404, `{"error":{"code":"model_not_found","message":"no model x here"}}`, "404 Not Found: no model x here"},
		{503, `{"code":"unavailable","message":"draining"}`, "503 Service Unavailable: draining"},
		{413, `{"error":"too long"}`, "413 Request Entity Too Large: too long"},
		{404, `<html>`, "404 Not Found"},
		{307, ``, "307 Temporary Redirect"},
		{200, `{"embeddings":[[1]]}`, "1 vectors for 2 texts"},
		{200, `{"embeddings":[[1],[1,2]]}`, "vector 2 of the answer has 2 dimensions, the first one 1"},
		{200, `{"embeddings":[[],[]]}`, "vector 1 of the answer has 0 dimensions"},
		{200, `[[1]]`, "not one of akidbd"},
		{200, `{"embeddings":`, "not one of akidbd"},
	} {
		_, err := Embed(t.Context(), serve(t, tc.status, tc.body, nil), "", Request{Texts: []string{"a", "b"}})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%d %s: %v, want an error with %q", tc.status, tc.body, err, tc.want)
		}
		if e, ok := errors.AsType[*Error](err); ok != (tc.status != 200) || (ok && e.Status != tc.status) {
			t.Errorf("%d %s: %#v", tc.status, tc.body, err)
		}
	}
	for _, url := range []string{"localhost:8080", "ftp://x", "http://u:secret@x", "://"} {
		if _, err := Embed(t.Context(), url, "", Request{}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestHelpfulErrors(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	hang := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	t.Cleanup(hang.Close)
	wantsKey := serve(t, 401, `{"error":{"code":"unauthenticated","message":"no key"}}`, nil)
	for _, tc := range []struct{ key, url, want string }{
		{"", closed.URL, "no node listens at " + closed.URL + "; start one with `make run` or `systemctl start akidbd`"},
		{"", hang.URL, "did not answer in time (--timeout)"},
		{"", wantsKey, "wants an API key: set AKIDB_API_KEY"},
		{"secret", wantsKey, "does not accept the API key in AKIDB_API_KEY"},
		{"", serve(t, 404, `nothing here`, nil), "is it an akidbd node?"},
		{"", serve(t, 422, `{"error":{"code":"unprocessable","message":"512 tokens, the limit is 256"}}`, nil), "512 tokens, the limit is 256"},
	} {
		t.Setenv(KeyVariable, tc.key)
		timeout := "10s"
		if tc.url == hang.URL {
			timeout = "20ms"
		}
		_, err := run(t, "", "--url", tc.url, "--timeout", timeout, "text")
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%v, want an error with %q", err, tc.want)
		}
	}
}

func TestCommandForPeople(t *testing.T) {
	t.Setenv(KeyVariable, "")
	out, err := run(t, "", "--url", serve(t, 200, three, nil), "a cat\x1b[2J", strings.Repeat("long ", 40), "c")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"mini@0123456789ab, 7 dimensions\n12 tokens, ", ", by n1 (eu, local)\n", "\n2 of the texts too long for the model",
		"  1  a cat?[2J\n     [+1.0000 +0.0000 +0.0000 +0.0000 +0.0000 +0.0000 ...]\n", " long...\n",
		"cosine similarity\n         1      2      3\n  1  1.000  0.600  0.000\n  2  0.600  1.000  0.000\n  3  0.000  0.000  1.000\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	for line := range strings.Lines(out) {
		if len(line) > 81 {
			t.Errorf("%d columns: %q", len(line)-1, line)
		}
	}
	one, err := run(t, "", "--url", serve(t, 200, `{"embeddings":[[1]]}`, nil), "x")
	if err != nil || strings.Contains(one, "cosine") || strings.Contains(one, "by ") {
		t.Errorf("%v\n%s", err, one)
	}
}

func TestManyTextsShowTheNearest(t *testing.T) {
	vectors := make([][]float32, 11)
	for i := range vectors {
		angle := float64(i*i) / 100
		vectors[i] = []float32{float32(math.Cos(angle)), float32(math.Sin(angle))}
	}
	out := describe(make([]string, 11), Response{Embeddings: vectors}, time.Second)
	for _, want := range []string{"nearest other text", "    1      2   1.000\n", "   11     10   0.982\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestCommandJSONFromLines(t *testing.T) {
	t.Setenv(KeyVariable, "")
	var seen Request
	out, err := run(t, "one\n\n two \nthree", "--url", serve(t, 200, three, &seen), "--json", "--model", "m", "--prompt", "p",
		"--dimensions", "7", "-")
	if err != nil {
		t.Fatal(err)
	}
	var got Response
	if err := json.Unmarshal([]byte(out), &got); err != nil || len(got.Embeddings) != 3 || got.Dimensions != 7 || strings.Count(out, "\n") != 1 {
		t.Errorf("%v: %s", err, out)
	}
	if !slices.Equal(seen.Texts, []string{"one", "two", "three"}) || seen.Model != "m|" || seen.PromptName != "p" || seen.Dimensions != 7 {
		t.Errorf("the server got %+v", seen)
	}
}

func TestInputErrors(t *testing.T) {
	for _, tc := range []struct {
		in   string
		args []string
		want string
	}{
		{"", nil, "no text"},
		{"\n \n", []string{"-"}, "has no line with text"},
		{strings.Repeat("x\n", maxLines+1), []string{"-"}, "more than 2048 texts"},
		{"a\n" + strings.Repeat("x", maxLineBytes+1), []string{"-"}, "text 2 of standard input is longer"},
		{"", []string{"--dimensions", "-1", "x"}, "--dimensions must be 1 or more, not -1"},
	} {
		if _, err := run(t, tc.in, tc.args...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v: %v, want an error with %q", tc.args, err, tc.want)
		}
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Embed(ctx, serve(t, 200, three, nil), "", Request{Texts: []string{"a"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestCosine(t *testing.T) {
	for _, tc := range []struct {
		a, b []float32
		want float64
	}{
		{[]float32{1, 0}, []float32{5, 0}, 1},
		{[]float32{1, 0}, []float32{-2, 0}, -1},
		{[]float32{1, 1}, []float32{1, -1}, 0},
		{[]float32{0, 0}, []float32{1, -1}, 0},
		{[]float32{1e30, 1e30}, []float32{1e30, 0}, math.Sqrt2 / 2},
	} {
		if got := Cosine(tc.a, tc.b); math.Abs(got-tc.want) > 1e-9 {
			t.Errorf("Cosine(%v, %v) = %v, want %v", tc.a, tc.b, got, tc.want)
		}
	}
}
