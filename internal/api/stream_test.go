package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/akidb/akidbd/internal/embedding"
	akidbv1 "github.com/akidb/akidbd/internal/gen/akidb/v1"
	"github.com/akidb/akidbd/internal/gen/akidb/v1/akidbv1connect"
)

func streamRequest(id, text string) *akidbv1.EmbedStreamRequest {
	return &akidbv1.EmbedStreamRequest{Id: id, Request: &akidbv1.EmbedRequest{Texts: []string{text}}}
}

func TestStream(t *testing.T) {
	d := newDoor(t, Config{StreamWindow: 4})
	url, _, _ := serveDoor(t, ServerConfig{}, d.Handler())
	client := akidbv1connect.NewEmbeddingServiceClient(h2cClient(t), url, connect.WithGRPC())
	stream := client.EmbedStream(t.Context())
	const n = 200
	sent := make(chan error, 1)
	go func() {
		for i := range n {
			text := fmt.Sprint("text ", i)
			if i%10 == 3 {
				text = ""
			}
			if err := stream.Send(streamRequest(fmt.Sprint(i), text)); err != nil {
				sent <- err
				return
			}
		}
		sent <- stream.CloseRequest()
	}()
	for i := range n {
		msg, err := stream.Receive()
		if err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
		if msg.GetId() != fmt.Sprint(i) {
			t.Fatalf("answer %d has the id %q", i, msg.GetId())
		}
		if i%10 == 3 {
			if e := msg.GetError(); e.GetCode() != "invalid" || !strings.Contains(e.GetMessage(), "empty string") || e.GetParam() != "texts" {
				t.Errorf("answer %d is %v, want an error", i, msg)
			}
			continue
		}
		want := fakeVector(embedding.Input{Text: fmt.Sprint("text ", i)}, 0, 8)
		if got := msg.GetResponse().GetEmbeddings(); len(got) != 1 || !slices.Equal(got[0].GetValues(), want) {
			t.Errorf("answer %d is %v, want %v", i, msg, want)
		}
	}
	if _, err := stream.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last answer: %v", err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	_ = stream.CloseResponse()
	if n := d.metric("akidb_embed_requests_total", "code", "ok"); n != 180 {
		t.Errorf("%g requests were counted, want 180", n)
	}
}

// TestStreamWindow: no more than the window is computed at once, whatever the client sends, and answers keep
// their order when later requests are done first.
func TestStreamWindow(t *testing.T) {
	d := newDoor(t, Config{StreamWindow: 3})
	d.fake.hold()
	url, _, _ := serveDoor(t, ServerConfig{}, d.Handler())
	stream := akidbv1connect.NewEmbeddingServiceClient(h2cClient(t), url, connect.WithGRPC()).EmbedStream(t.Context())
	for i := range 10 {
		if err := stream.Send(streamRequest(fmt.Sprint(i), fmt.Sprint("wait ", i))); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		<-d.fake.waiting
	}
	select {
	case <-d.fake.waiting:
		t.Error("a fourth request is computed in a window of 3")
	case <-time.After(50 * time.Millisecond):
	}
	close(d.fake.gate)
	for i := range 10 {
		msg, err := stream.Receive()
		if err != nil || msg.GetId() != fmt.Sprint(i) || msg.GetResponse() == nil {
			t.Fatalf("answer %d is %v, %v", i, msg, err)
		}
	}
	_ = stream.CloseRequest()
	_ = stream.CloseResponse()
}

// TestStreamLimits: bad ids and panics fail their own request only.
func TestStreamLimits(t *testing.T) {
	d := newDoor(t, Config{})
	d.fake.edit = func(r *embedding.Result) {
		if r.Tokens[0] == len("kaboom") {
			panic("boom")
		}
	}
	url, _, _ := serveDoor(t, ServerConfig{}, d.Handler())
	stream := akidbv1connect.NewEmbeddingServiceClient(h2cClient(t), url, connect.WithGRPC()).EmbedStream(t.Context())
	for _, m := range []*akidbv1.EmbedStreamRequest{
		streamRequest(strings.Repeat("i", 129), "x"), streamRequest("1", "kaboom"), {Id: "2"}, streamRequest("3", "fine"),
	} {
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"at most 128 bytes, got 129", "internal error", "at least 1 input is needed", ""} {
		msg, err := stream.Receive()
		if err != nil || !strings.Contains(msg.GetError().GetMessage(), want) || (msg.GetResponse() != nil) != (want == "") {
			t.Errorf("got %v, %v, want %q", msg, err, want)
		}
	}
	_ = stream.CloseRequest()
	_ = stream.CloseResponse()
	if n := strings.Count(d.log.String(), "panic: boom"); n != 1 {
		t.Errorf("the panic is in the log %d times, want once", n)
	}
	if n := d.metric("akidb_api_panics_total"); n != 1 {
		t.Errorf("%g panics were counted, want 1", n)
	}
}

// TestStreamClientLeaves: the work of a client that has gone is cancelled, and nothing is left behind (goleak).
func TestStreamClientLeaves(t *testing.T) {
	d := newDoor(t, Config{})
	d.fake.hold()
	url, _, _ := serveDoor(t, ServerConfig{}, d.Handler())
	ctx, cancel := context.WithCancel(t.Context())
	stream := akidbv1connect.NewEmbeddingServiceClient(h2cClient(t), url, connect.WithGRPC()).EmbedStream(ctx)
	if err := stream.Send(streamRequest("1", "wait")); err != nil {
		t.Fatal(err)
	}
	<-d.fake.waiting
	cancel()
	if _, err := stream.Receive(); connect.CodeOf(err) != connect.CodeCanceled {
		t.Errorf("got %v", err)
	}
}

// TestStreamDrain: a drain answers what was read and then ends the stream, although the client would go on.
func TestStreamDrain(t *testing.T) {
	d := newDoor(t, Config{})
	d.fake.hold()
	url, s, stop := serveDoor(t, ServerConfig{}, d.Handler())
	stream := akidbv1connect.NewEmbeddingServiceClient(h2cClient(t), url, connect.WithGRPC()).EmbedStream(t.Context())
	for _, id := range []string{"1", "2"} {
		if err := stream.Send(streamRequest(id, "wait")); err != nil {
			t.Fatal(err)
		}
		<-d.fake.waiting
	}
	stopped := make(chan error)
	go func() { stopped <- stop() }()
	<-s.closing.Done()
	close(d.fake.gate)
	for _, id := range []string{"1", "2"} {
		if msg, err := stream.Receive(); err != nil || msg.GetId() != id || msg.GetResponse() == nil {
			t.Errorf("got %v, %v, want the answer %s", msg, err, id)
		}
	}
	if _, err := stream.Receive(); connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("the stream ended with %v", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("drain: %v", err)
	}
	_ = stream.CloseRequest()
	_ = stream.CloseResponse()
}
