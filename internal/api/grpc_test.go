package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/akidb/akidbd/internal/embedding"
	akidbv1 "github.com/akidb/akidbd/internal/gen/akidb/v1"
	"github.com/akidb/akidbd/internal/gen/akidb/v1/akidbv1connect"
)

// serveDoor serves d on a loopback port until the test ends, and gives its URL and a stop that drains.
func serveDoor(t *testing.T, cfg ServerConfig, h http.Handler) (url string, s *Server, stop func() error) {
	t.Helper()
	ln, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s = NewServer(cfg, h)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, ln) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("drain: %v", err)
		}
	})
	scheme := "http://"
	if cfg.TLS != nil {
		scheme = "https://"
	}
	return scheme + ln.Addr().String(), s, stop
}

// h2cClient speaks HTTP/2 without TLS.
func h2cClient(t *testing.T) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: protocols}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func h1Client(t *testing.T) *http.Client {
	tr := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// rpcClients are the protocols the service speaks.
func rpcClients(t *testing.T, url string) map[string]akidbv1connect.EmbeddingServiceClient {
	return map[string]akidbv1connect.EmbeddingServiceClient{
		"grpc":          akidbv1connect.NewEmbeddingServiceClient(h2cClient(t), url, connect.WithGRPC()),
		"grpc gzip":     akidbv1connect.NewEmbeddingServiceClient(h2cClient(t), url, connect.WithGRPC(), connect.WithSendGzip()),
		"grpc-web":      akidbv1connect.NewEmbeddingServiceClient(h1Client(t), url, connect.WithGRPCWeb()),
		"connect":       akidbv1connect.NewEmbeddingServiceClient(h1Client(t), url),
		"connect json":  akidbv1connect.NewEmbeddingServiceClient(h1Client(t), url, connect.WithProtoJSON()),
		"connect on h2": akidbv1connect.NewEmbeddingServiceClient(h2cClient(t), url),
	}
}

func TestRPCEmbed(t *testing.T) {
	d := newDoor(t, Config{})
	url, _, _ := serveDoor(t, ServerConfig{}, d.Handler())
	for name, client := range rpcClients(t, url) {
		t.Run(name, func(t *testing.T) {
			msg := &akidbv1.EmbedRequest{Model: "minilm", Texts: []string{"a", strings.Repeat("b", 70)}, Dimensions: 4,
				Normalize: proto.Bool(true), PromptName: "query"}
			req := connect.NewRequest(msg)
			req.Header().Set("x-request-id", "r-7")
			resp, err := client.Embed(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if got := d.fake.request(); !*got.Normalize || got.Truncate != nil || got.PromptName != "query" || got.Dimensions != 4 || got.Model != "minilm" {
				t.Errorf("the embedder was asked for %+v", got)
			}
			m := resp.Msg
			for i, text := range msg.GetTexts() {
				if want := fakeVector(embedding.Input{Text: text}, 4, 8); !slices.Equal(m.GetEmbeddings()[i].GetValues(), want) {
					t.Errorf("vector %d is %v, want %v", i, m.GetEmbeddings()[i], want)
				}
			}
			if m.GetModel().GetDigest() != fakeDigest || m.GetDimensions() != 4 || m.GetUsage().GetTokens() != 65 ||
				!slices.Equal(m.GetUsage().GetTokensPerInput(), []uint32{1, 64}) || !slices.Equal(m.GetUsage().GetTruncatedTokens(), []uint32{0, 6}) ||
				m.GetServedBy().GetNode() != "n1" || m.GetServedBy().GetRoute() != akidbv1.Route_ROUTE_LOCAL {
				t.Errorf("got %v", m)
			}
			for header, want := range map[string]string{"x-akidb-node": "n1", "x-akidb-model": "minilm@0123456789ab",
				"x-akidb-truncated": "1", "x-akidb-route": "local", "x-akidb-region": "eu-central-1", "x-request-id": "r-7"} {
				if got := resp.Header().Get(header); got != want {
					t.Errorf("%s is %q, want %q", header, got, want)
				}
			}
			models, err := client.ListModels(t.Context(), connect.NewRequest(&akidbv1.ListModelsRequest{}))
			if err != nil || len(models.Msg.GetModels()) != 2 || models.Msg.GetModels()[0].GetState() != akidbv1.ModelState_MODEL_STATE_READY ||
				models.Msg.GetModels()[1].GetState() != akidbv1.ModelState_MODEL_STATE_LOADING || models.Msg.GetModels()[0].GetLoaded().GetSeconds() != 1700000000 {
				t.Errorf("models: %v, %v", models, err)
			}
		})
	}
}

func TestRPCErrors(t *testing.T) {
	d := newDoor(t, Config{MaxInputs: 2, MaxInputBytes: 100, MaxBodyBytes: 4096, RetryAfter: 3 * time.Second})
	url, _, _ := serveDoor(t, ServerConfig{}, d.Handler())
	ids := func(n ...int32) *akidbv1.TokenIds { return &akidbv1.TokenIds{Ids: n} }
	overloaded := embedding.Errorf(embedding.CodeOverloaded, "queue full")
	for _, tc := range []struct {
		name    string
		msg     *akidbv1.EmbedRequest
		fail    error
		grpc    connect.Code
		code    embedding.Code // "": connect-go's own refusal, without our code
		message string
	}{
		{"nothing", &akidbv1.EmbedRequest{}, nil, connect.CodeInvalidArgument, "invalid", `"texts" is empty: at least 1 input is needed, got 0`},
		{"empty", &akidbv1.EmbedRequest{Texts: []string{"a", ""}}, nil, connect.CodeInvalidArgument, "invalid", "texts[1] is an empty string"},
		{"too many", &akidbv1.EmbedRequest{Texts: []string{"a", "b", "c"}}, nil, connect.CodeInvalidArgument, "unprocessable", "2 inputs at most, got 3"},
		{"too long", &akidbv1.EmbedRequest{Texts: []string{strings.Repeat("x", 101)}}, nil, connect.CodeInvalidArgument, "unprocessable", "100 bytes at most, got 101"},
		{"both", &akidbv1.EmbedRequest{Texts: []string{"a"}, TokenIds: []*akidbv1.TokenIds{ids(1)}}, nil, connect.CodeInvalidArgument, "invalid", "only one of"},
		{"ids", &akidbv1.EmbedRequest{TokenIds: []*akidbv1.TokenIds{ids(1)}}, nil, connect.CodeInvalidArgument, "invalid", "check_embedding_ctx_length=False"},
		{"dimensions", &akidbv1.EmbedRequest{Texts: []string{"a"}, Dimensions: math.MaxUint32}, nil, connect.CodeInvalidArgument, "unprocessable", "at most 1048576, got 4294967295"},
		{"model name", &akidbv1.EmbedRequest{Texts: []string{"a"}, Model: strings.Repeat("m", 257)}, nil, connect.CodeInvalidArgument, "invalid", "at most 256 bytes, got 257"},
		{"model", &akidbv1.EmbedRequest{Texts: []string{"a"}, Model: "nope"}, nil, connect.CodeNotFound, "model_not_found", "nope"},
		{"too large", &akidbv1.EmbedRequest{Texts: []string{strings.Repeat("x", 5000)}}, nil, connect.CodeResourceExhausted, "", "4096"},
		{"overloaded", &akidbv1.EmbedRequest{Texts: []string{"a"}}, overloaded, connect.CodeResourceExhausted, "overloaded", "queue full"},
		{"unavailable", &akidbv1.EmbedRequest{Texts: []string{"a"}}, embedding.Errorf(embedding.CodeUnavailable, "starting"), connect.CodeUnavailable, "unavailable", "starting"},
		{"late", &akidbv1.EmbedRequest{Texts: []string{"a"}}, context.DeadlineExceeded, connect.CodeDeadlineExceeded, "deadline_exceeded", "deadline"},
		{"internal", &akidbv1.EmbedRequest{Texts: []string{"a"}}, errors.New("secret cause"), connect.CodeInternal, "internal", "internal error"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d.fake.mu.Lock()
			d.fake.fail = func(embedding.Request) error { return tc.fail }
			d.fake.mu.Unlock()
			for name, client := range rpcClients(t, url) {
				_, err := client.Embed(t.Context(), connect.NewRequest(tc.msg))
				e, ok := errors.AsType[*connect.Error](err)
				if !ok || e.Code() != tc.grpc || !strings.Contains(e.Message(), tc.message) || strings.Contains(e.Message(), "secret") {
					t.Errorf("%s: got %v, want %s with %q", name, err, tc.grpc, tc.message)
					continue
				}
				if got := e.Meta().Get("x-akidb-code"); got != string(tc.code) {
					t.Errorf("%s: x-akidb-code is %q, want %q", name, got, tc.code)
				}
				if got := e.Meta().Get("retry-after"); (got == "3") != codeTable(tc.code).retryAfter {
					t.Errorf("%s: retry-after is %q", name, got)
				}
			}
			label := string(tc.code)
			if label == "" {
				label = "too_large"
			}
			if n := d.metric("akidb_api_requests_total", "route", "grpc/Embed", "code", label); n < 6 {
				t.Errorf("%g requests were counted as %s, want at least 6", n, label)
			}
		})
	}
}

func TestRPCDeadlineAndPanic(t *testing.T) {
	d := newDoor(t, Config{Deadline: time.Minute})
	d.fake.hold()
	url, _, _ := serveDoor(t, ServerConfig{}, d.Handler())
	for name, client := range rpcClients(t, url) {
		req := connect.NewRequest(&akidbv1.EmbedRequest{Texts: []string{"wait"}})
		req.Header().Set("x-akidb-timeout", "20ms")
		if _, err := client.Embed(t.Context(), req); connect.CodeOf(err) != connect.CodeDeadlineExceeded {
			t.Errorf("%s: x-akidb-timeout gave %v", name, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		if _, err := client.Embed(ctx, connect.NewRequest(&akidbv1.EmbedRequest{Texts: []string{"wait"}})); connect.CodeOf(err) != connect.CodeDeadlineExceeded {
			t.Errorf("%s: the client's deadline gave %v", name, err)
		}
		cancel()
	}
	d.fake.editing(func(*embedding.Result) { panic("boom") })
	for name, client := range rpcClients(t, url) {
		_, err := client.Embed(t.Context(), connect.NewRequest(&akidbv1.EmbedRequest{Texts: []string{"x"}}))
		if connect.CodeOf(err) != connect.CodeInternal || strings.Contains(err.Error(), "boom") {
			t.Errorf("%s: a panic gave %v", name, err)
		}
	}
	if n := d.metric("akidb_api_panics_total"); n != 6 {
		t.Errorf("%g panics were counted, want 6", n)
	}
}

func TestRPCKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	writeKeys(t, path, "alice:"+keyA)
	d := newDoor(t, Config{KeysFile: path})
	url, _, _ := serveDoor(t, ServerConfig{}, d.Handler())
	for name, client := range rpcClients(t, url) {
		_, err := client.Embed(t.Context(), connect.NewRequest(&akidbv1.EmbedRequest{Texts: []string{"x"}}))
		if e, ok := errors.AsType[*connect.Error](err); !ok || e.Code() != connect.CodeUnauthenticated ||
			!strings.Contains(e.Message(), "an API key is needed") || e.Meta().Get("x-akidb-code") != "unauthenticated" {
			t.Errorf("%s: without a key: %v", name, err)
		}
		req := connect.NewRequest(&akidbv1.EmbedRequest{Texts: []string{"x"}})
		req.Header().Set("Authorization", "Bearer "+keyA)
		if _, err := client.Embed(t.Context(), req); err != nil {
			t.Errorf("%s: with a key: %v", name, err)
		}
		if name == "grpc" {
			stream := client.EmbedStream(t.Context())
			_ = stream.Send(&akidbv1.EmbedStreamRequest{Request: &akidbv1.EmbedRequest{Texts: []string{"x"}}})
			if _, err := stream.Receive(); connect.CodeOf(err) != connect.CodeUnauthenticated {
				t.Errorf("a stream without a key: %v", err)
			}
			_ = stream.CloseRequest()
			_ = stream.CloseResponse()
		}
	}
	if got := checkGRPCHealth(t, url, ""); got != grpchealth.StatusServing {
		t.Errorf("health without a key is %v", got)
	}
}

func checkGRPCHealth(t *testing.T, url, service string) grpchealth.Status {
	t.Helper()
	resp, err := grpcHealthCheck(t, url, service)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// grpcHealthCheck speaks grpc.health.v1 with messages made by hand: grpchealth does not export its own.
func grpcHealthCheck(t *testing.T, url, service string) (grpchealth.Status, error) {
	client := connect.NewClient[rawMessage, rawMessage](h2cClient(t), url+"/grpc.health.v1.Health/Check",
		connect.WithGRPC(), connect.WithCodec(rawCodec{}))
	req := rawMessage(nil)
	if service != "" {
		req = append([]byte{0x0a, byte(len(service))}, service...)
	}
	resp, err := client.CallUnary(t.Context(), connect.NewRequest(&req))
	if err != nil {
		return 0, err
	}
	if m := *resp.Msg; len(m) == 2 && m[0] == 0x08 {
		return grpchealth.Status(m[1]), nil
	}
	return 0, fmt.Errorf("unexpected message %x", *resp.Msg)
}

type rawMessage []byte

type rawCodec struct{}

func (rawCodec) Name() string                    { return "proto" }
func (rawCodec) Marshal(m any) ([]byte, error)   { return *m.(*rawMessage), nil }
func (rawCodec) Unmarshal(b []byte, m any) error { *m.(*rawMessage) = slices.Clone(b); return nil }

func TestRPCHealth(t *testing.T) {
	d := newDoor(t, Config{})
	url, _, stop := serveDoor(t, ServerConfig{}, d.Handler())
	for _, service := range []string{"", "akidb.v1.EmbeddingService", "grpc.health.v1.Health"} {
		if got := checkGRPCHealth(t, url, service); got != grpchealth.StatusServing {
			t.Errorf("%q is %v", service, got)
		}
	}
	if _, err := grpcHealthCheck(t, url, "nope"); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("an unknown service gave %v", err)
	}
	watch := connect.NewClient[rawMessage, rawMessage](h2cClient(t), url+"/grpc.health.v1.Health/Watch", connect.WithGRPC(), connect.WithCodec(rawCodec{}))
	stream, err := watch.CallServerStream(t.Context(), connect.NewRequest(new(rawMessage)))
	if err != nil {
		t.Fatal(err)
	}
	next := func(want grpchealth.Status) {
		t.Helper()
		if !stream.Receive() || len(*stream.Msg()) != 2 || grpchealth.Status((*stream.Msg())[1]) != want {
			t.Fatalf("want %v, got %x, %v", want, *stream.Msg(), stream.Err())
		}
	}
	next(grpchealth.StatusServing)
	d.node.set(func(h *Health) { h.Ready = false })
	next(grpchealth.StatusNotServing)
	if got := checkGRPCHealth(t, url, ""); got != grpchealth.StatusNotServing {
		t.Errorf("a node that is not ready is %v", got)
	}
	d.node.set(func(h *Health) { h.Ready = true })
	next(grpchealth.StatusServing)
	// A watch must not hold up a drain.
	if err := stop(); err != nil {
		t.Errorf("drain with a watch: %v", err)
	}
	if stream.Receive() {
		t.Error("the watch goes on after the drain")
	}
	_ = stream.Close()
}

func TestReflection(t *testing.T) {
	d := newDoor(t, Config{})
	url, _, stop := serveDoor(t, ServerConfig{}, d.Handler())
	client := grpcreflect.NewClient(h2cClient(t), url, connect.WithGRPC())
	stream := client.NewStream(t.Context())
	services, err := stream.ListServices()
	if err != nil || !slices.Contains(services, protoreflect.FullName("akidb.v1.EmbeddingService")) ||
		!slices.Contains(services, protoreflect.FullName("grpc.health.v1.Health")) {
		t.Fatalf("services are %v, %v", services, err)
	}
	files, err := stream.FileContainingSymbol("akidb.v1.EmbeddingService")
	if err != nil {
		t.Fatal(err)
	}
	var methods []string
	for _, f := range files {
		for _, s := range f.GetService() {
			for _, m := range s.GetMethod() {
				methods = append(methods, m.GetName())
			}
		}
	}
	if !slices.Equal(methods, []string{"Embed", "EmbedStream", "ListModels"}) {
		t.Errorf("methods are %v", methods)
	}
	// An open reflection stream must not hold up a drain.
	if err := stop(); err != nil {
		t.Errorf("drain with a reflection stream: %v", err)
	}
	_, _ = stream.Close()
}

func TestUnknownRPC(t *testing.T) {
	d := newDoor(t, Config{})
	url, _, _ := serveDoor(t, ServerConfig{}, d.Handler())
	for _, procedure := range []string{"/akidb.v1.EmbeddingService/Nope", "/other.v1.Service/Do"} {
		client := connect.NewClient[rawMessage, rawMessage](h2cClient(t), url+procedure, connect.WithGRPC(), connect.WithCodec(rawCodec{}))
		if _, err := client.CallUnary(t.Context(), connect.NewRequest(new(rawMessage))); connect.CodeOf(err) != connect.CodeUnimplemented {
			t.Errorf("%s gave %v", procedure, err)
		}
	}
	broken := rawMessage{0xff, 0xff, 0xff}
	client := connect.NewClient[rawMessage, rawMessage](h2cClient(t), url+akidbv1connect.EmbeddingServiceEmbedProcedure, connect.WithGRPC(), connect.WithCodec(rawCodec{}))
	if _, err := client.CallUnary(t.Context(), connect.NewRequest(&broken)); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("a broken message gave %v", err)
	}
	if n := d.metric("akidb_api_requests_total", "route", "grpc/Embed", "code", "invalid"); n != 1 {
		t.Errorf("%g broken messages were counted, want 1", n)
	}
}

func TestTLS(t *testing.T) {
	d := newDoor(t, Config{})
	cert, pool := selfSigned(t)
	url, _, _ := serveDoor(t, ServerConfig{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}}, d.Handler())
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	client := akidbv1connect.NewEmbeddingServiceClient(&http.Client{Transport: tr}, url, connect.WithGRPC())
	if _, err := client.Embed(t.Context(), connect.NewRequest(&akidbv1.EmbedRequest{Texts: []string{"x"}})); err != nil {
		t.Error(err)
	}
	resp, err := (&http.Client{Transport: tr}).Get(url + "/health")
	if err != nil || resp.ProtoMajor != 2 {
		t.Fatalf("got %v, %v", resp, err)
	}
	_ = resp.Body.Close()
}
