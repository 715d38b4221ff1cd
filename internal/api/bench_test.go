package api

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/akidb/akidbd/internal/embedding"
)

// constEmbedder answers at once with the same vector.
type constEmbedder struct{ res embedding.Result }

func (e constEmbedder) Embed(_ context.Context, req embedding.Request) (embedding.Result, error) {
	res := e.res
	if n := len(req.Inputs); n > 1 {
		res.Vectors = make([][]float32, n)
		res.Tokens = make([]int, n)
		for i := range n {
			res.Vectors[i], res.Tokens[i] = e.res.Vectors[0], e.res.Tokens[0]
		}
	}
	return res, nil
}

func newBenchAPI(b *testing.B) *API {
	a, err := New(Config{NodeName: "n", Region: "r", Registerer: prometheus.NewRegistry(),
		Logger: slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelInfo}))},
		constEmbedder{embedding.Result{Model: embedding.Model{Name: "minilm", Digest: fakeDigest},
			Vectors: [][]float32{fakeVector(embedding.Input{Text: "x"}, 384, 384)}, Tokens: []int{7}}}, newFakeNode())
	if err != nil {
		b.Fatal(err)
	}
	return a
}

// BenchmarkHandler is what the API costs over the embedder: decode, headers, metrics, encode.
func BenchmarkHandler(b *testing.B) {
	many := `["` + strings.Repeat(`some words of a text that is not very long","`, 63) + `end"]`
	for _, bc := range []struct{ name, path, body string }{
		{"native", "/api/v1/embed", `{"text":"some words of a text that is not very long"}`},
		{"openai-float", "/v1/embeddings", `{"input":"some words of a text that is not very long","model":"minilm"}`},
		{"openai-base64", "/v1/embeddings", `{"input":"some words of a text that is not very long","model":"minilm","encoding_format":"base64"}`},
		{"native-64", "/api/v1/embed", `{"texts":` + many + `}`},
		{"openai-base64-64", "/v1/embeddings", `{"input":` + many + `,"encoding_format":"base64"}`},
	} {
		b.Run(bc.name, func(b *testing.B) {
			h := newBenchAPI(b).Handler()
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest("POST", bc.path, strings.NewReader(bc.body)))
				if w.Code != 200 {
					b.Fatal(w.Body)
				}
			}
		})
	}
	b.Run("recorder-alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w := httptest.NewRecorder()
			r := httptest.NewRequest("POST", "/api/v1/embed", strings.NewReader("{}"))
			_, _ = io.Copy(w, r.Body)
		}
	})
}

// BenchmarkServer is a whole request over loopback, one client with one connection.
func BenchmarkServer(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	served := make(chan error)
	go func() { served <- NewServer(ServerConfig{}, newBenchAPI(b).Handler()).Run(ctx, ln) }()
	client := &http.Client{Transport: &http.Transport{}}
	b.ReportAllocs()
	for b.Loop() {
		resp, err := client.Post("http://"+ln.Addr().String()+"/api/v1/embed", "application/json",
			strings.NewReader(`{"text":"some words of a text that is not very long"}`))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			b.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	client.CloseIdleConnections()
	cancel()
	if err := <-served; err != nil {
		b.Fatal(err)
	}
}
