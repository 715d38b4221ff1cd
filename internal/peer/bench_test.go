package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/akidb/akidbd/internal/embedding"
	peerv1 "github.com/akidb/akidbd/internal/gen/akidb/peer/v1"
)

// cpu is what the process used so far, client and server together.
func cpu(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func measure(b *testing.B, parallel bool, call func() error) {
	b.ReportAllocs()
	before := cpu(b)
	b.ResetTimer()
	if parallel {
		b.SetParallelism(8)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := call(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	} else {
		for b.Loop() {
			if err := call(); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.StopTimer()
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-us/op")
}

// small is a sentence in and 384 dimensions out.
func small() (embedding.Request, embedding.Result) {
	v := make([]float32, 384)
	for i := range v {
		v[i] = float32(i) / 384
	}
	return one(strings.Repeat("word ", 16)), embedding.Result{Model: embedding.Model{Name: "m", Digest: "sha256-" + strings.Repeat("ab", 32), Precision: "fp32"},
		Vectors: [][]float32{v}, Tokens: []int{18}}
}

// BenchmarkForward is a small request over a link and, beside it, the same messages over HTTP/2 with the same
// certificates.
func BenchmarkForward(b *testing.B) {
	for _, parallel := range []bool{false, true} {
		name := "one"
		if parallel {
			name = "parallel"
		}
		b.Run("quic/"+name, func(b *testing.B) { benchQUIC(b, parallel) })
		b.Run("http2/"+name, func(b *testing.B) { benchHTTP2(b, parallel) })
	}
}

func benchQUIC(b *testing.B, parallel bool) {
	ca := newTestCA(b)
	x, y := startNode(b, ca.identity(b, "a", "eu"), nil), startNode(b, ca.identity(b, "b", "eu"), nil)
	meet(x, y)
	awaitUp(b, x, y)
	req, res := small()
	y.engine.set(func(ctx context.Context, _ embedding.Request) (embedding.Result, error) { return res, nil })
	to := y.info()
	measure(b, parallel, func() error {
		_, err := x.Embed(b.Context(), to, req)
		return err
	})
}

func benchHTTP2(b *testing.B, parallel bool) {
	ca := newTestCA(b)
	server, client := ca.identity(b, "b", "eu"), ca.identity(b, "a", "eu")
	req, res := small()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var m peerv1.EmbedRequest
		if err == nil {
			err = proto.Unmarshal(body, &m)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		meta, err := resultMessage(res, len(requestOf(&m).Inputs))
		if err == nil {
			body, err = appendAnswer(nil, answerResult, meta)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = writeVectors(w, res.Vectors, body)
	}))
	srv.TLS = server.TLS([]string{"h2"})
	srv.TLS.Certificates = []tls.Certificate{*server.show()} // httptest sets its own else
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	tr := &http.Transport{TLSClientConfig: client.TLS([]string{"h2"}), ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	measure(b, parallel, func() error {
		f, err := requestFrameOf(b.Context(), req, 1<<20)
		if err != nil {
			return err
		}
		r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, srv.URL, bytes.NewReader(f.body))
		if err != nil {
			return err
		}
		resp, err := tr.RoundTrip(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.ProtoMajor != 2 || resp.TLS.Version != tls.VersionTLS13 {
			b.Error("not HTTP/2 over TLS 1.3")
		}
		_, _, err = readAnswer(resp.Body, 1)
		return err
	})
}

// BenchmarkForwardLarge moves 2,048 vectors of 384 dimensions, 3 MiB.
func BenchmarkForwardLarge(b *testing.B) {
	ca := newTestCA(b)
	x, y := startNode(b, ca.identity(b, "a", "eu"), nil), startNode(b, ca.identity(b, "b", "eu"), nil)
	meet(x, y)
	awaitUp(b, x, y)
	req := embedding.Request{Model: "m", Inputs: make([]embedding.Input, 2048)}
	_, res := small()
	for i := range req.Inputs {
		req.Inputs[i].Text = strings.Repeat("word ", 16)
		if i > 0 {
			res.Vectors = append(res.Vectors, res.Vectors[0])
		}
	}
	res.Tokens = make([]int, 2048)
	y.engine.set(func(context.Context, embedding.Request) (embedding.Result, error) { return res, nil })
	to := y.info()
	b.SetBytes(2048 * 384 * 4)
	measure(b, false, func() error {
		_, err := x.Embed(b.Context(), to, req)
		return err
	})
}

// BenchmarkBlob moves 64 MiB of a blob.
func BenchmarkBlob(b *testing.B) {
	ca := newTestCA(b)
	x, y := startNode(b, ca.identity(b, "a", "eu"), nil), newNode(b, ca.identity(b, "b", "eu"), func(c *Config) { c.BlobRate = 10 << 30 })
	const size = 64 << 20
	s := &shelf{}
	sha := s.put(noise(size))
	y.OnBlob(s.Blob)
	y.start()
	meet(x, y)
	awaitUp(b, x, y)
	b.SetBytes(size)
	measure(b, false, func() error {
		r, err := x.Blob(b.Context(), "b", sha, 0, -1)
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = io.Copy(io.Discard, r)
		return err
	})
}
