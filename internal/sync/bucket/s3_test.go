package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/akidb/akidbd/internal/sync/bucket"
	"github.com/akidb/akidbd/internal/sync/bucket/buckettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "a-secret-of-the-test"

// server is a program that serves S3 from a directory. variable names its binary; without it, what needs it is
// skipped.
type server struct {
	variable string
	args     func(addr, data string) []string
	env      []string
}

func versitygw() server {
	return server{variable: "AKIDB_TEST_VERSITYGW", env: []string{"ROOT_ACCESS_KEY=akidb", "ROOT_SECRET_KEY=" + secret},
		args: func(addr, data string) []string { return []string{"--port", addr, "--quiet", "posix", data} }}
}

func minio() server {
	return server{variable: "AKIDB_TEST_MINIO", env: []string{"MINIO_ROOT_USER=akidb", "MINIO_ROOT_PASSWORD=" + secret, "MINIO_BROWSER=off"},
		args: func(addr, data string) []string { return []string{"server", "--quiet", "--address", addr, data} }}
}

// start starts the server over an empty directory with some buckets and gives its URL.
func (s server) start(t *testing.T, buckets ...string) string {
	t.Helper()
	binary := os.Getenv(s.variable)
	if binary == "" {
		t.Skip(s.variable + " names no binary")
	}
	data := t.TempDir()
	for _, b := range buckets {
		if err := os.Mkdir(filepath.Join(data, b), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, s.args(addr, data)...)
	cmd.Env = append(os.Environ(), s.env...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	for range 200 {
		if c, err := net.Dial("tcp", addr); err == nil {
			_ = c.Close()
			return "http://" + addr
		}
		time.Sleep(20 * time.Millisecond) // until another process listens
	}
	t.Fatalf("%s does not listen on %s: %s", binary, addr, log.String())
	return ""
}

func credentials(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "akidb")
	t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_REGION", "us-east-1")
}

func open(t *testing.T, endpoint, where string) *bucket.S3 {
	t.Helper()
	b, err := bucket.OpenS3(t.Context(), bucket.S3Config{URL: "s3://" + where, Endpoint: endpoint, PathStyle: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func TestS3Conformance(t *testing.T) {
	for name, s := range map[string]server{"versitygw": versitygw(), "minio": minio()} {
		t.Run(name, func(t *testing.T) {
			credentials(t)
			endpoint := s.start(t, "models")
			var n atomic.Int32
			buckettest.Conformance(t, 20<<20, func(t *testing.T) bucket.Bucket {
				return open(t, endpoint, fmt.Sprintf("models/prefix-%d", n.Add(1)))
			})
		})
	}
}

// A large upload that was cut off goes on with the parts that are there.
func TestS3Resume(t *testing.T) {
	credentials(t)
	endpoint := versitygw().start(t, "models")
	target, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	var sent atomic.Int64
	var most atomic.Int64
	most.Store(2)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && r.URL.Query().Has("partNumber") {
			if sent.Add(1) > most.Load() {
				http.Error(w, "cut", http.StatusServiceUnavailable)
				return
			}
		}
		p := httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = target.Scheme, target.Host, r.In.Host // the Host is signed
		}}
		p.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	data := make([]byte, 44<<20) // six parts
	_, _ = rand.NewChaCha8([32]byte{9}).Read(data)
	b := open(t, proxy.URL, "models")
	if err := b.Put(t.Context(), "models/m/k", bytes.NewReader(data), int64(len(data)), nil); err == nil {
		t.Fatal("the upload was to be cut off")
	}
	sent.Store(0)
	most.Store(1000)
	var mu sync.Mutex
	var told int64
	err = b.Put(t.Context(), "models/m/k", bytes.NewReader(data), int64(len(data)), func(n int64) { mu.Lock(); told += n; mu.Unlock() })
	if err != nil {
		t.Fatal(err)
	}
	if n := sent.Load(); n > 5 { // of the two that went through, one may have been cut off with the rest
		t.Errorf("%d parts were sent the second time, there are six", n)
	}
	if told != int64(len(data)) {
		t.Errorf("progress told of %d of %d bytes", told, len(data))
	}
	r, err := b.Get(t.Context(), "models/m/k", 0, -1, "")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

func TestS3Denied(t *testing.T) {
	credentials(t)
	endpoint := versitygw().start(t, "models")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
	b := open(t, endpoint, "models")
	if _, err := b.Head(t.Context(), "k"); !errors.Is(err, bucket.ErrDenied) {
		t.Errorf("head: %v", err)
	}
	if err := b.Put(t.Context(), "k", strings.NewReader("x"), 1, nil); !errors.Is(err, bucket.ErrDenied) || strings.Contains(err.Error(), "wrong") {
		t.Errorf("put: %v", err)
	}
	for _, err := range b.List(t.Context(), "") {
		if !errors.Is(err, bucket.ErrDenied) {
			t.Errorf("list: %v", err)
		}
	}
}

// What a server answers, as the errors that the contract names.
func TestS3Errors(t *testing.T) {
	credentials(t)
	var answer func(w http.ResponseWriter)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) }))
	defer srv.Close()
	fail := func(status int, code string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.WriteHeader(status)
			fmt.Fprintf(w, `<Error><Code>%s</Code><Message>text</Message></Error>`, code)
		}
	}
	get := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		b := open(t, srv.URL, "models")
		r, err := b.Get(ctx, "k", 0, -1, "")
		if err != nil {
			return err
		}
		_, err = io.ReadAll(r)
		return errors.Join(err, r.Close())
	}
	answer = fail(403, "ExpiredToken")
	if err := get(); !errors.Is(err, bucket.ErrDenied) || !strings.Contains(err.Error(), "ExpiredToken") {
		t.Errorf("expired: %v", err)
	}
	answer = fail(404, "NoSuchBucket")
	if err := get(); err == nil || errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "bucket models is not there") {
		t.Errorf("no bucket: %v", err)
	}
	answer = func(w http.ResponseWriter) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write(make([]byte, 50))
	}
	if err := get(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("truncated: %v", err)
	}
	answer = fail(503, "SlowDown")
	if err := get(); err == nil || errors.Is(err, bucket.ErrDenied) || !strings.Contains(err.Error(), "503") {
		t.Errorf("slow down: %v", err)
	}
}

func TestParseS3URL(t *testing.T) {
	for text, want := range map[string][2]string{
		"s3://models": {"models", ""}, "s3://models/": {"models", ""}, "s3://models/a/b/": {"models", "a/b/"},
	} {
		if b, p, err := bucket.ParseS3URL(text); err != nil || b != want[0] || p != want[1] {
			t.Errorf("%s: %s, %s, %v", text, b, p, err)
		}
	}
	for _, text := range []string{"", "models", "http://models", "s3://", "s3://key:secret@models", "s3://models?x=1", "s3://models:80/a"} {
		if _, _, err := bucket.ParseS3URL(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}
