package peer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/akidb/akidbd/internal/embedding"
	peerv1 "github.com/akidb/akidbd/internal/gen/akidb/peer/v1"
)

func anySize(int) error { return nil }

func TestRequestFrame(t *testing.T) {
	f := requestFrame{deadline: 1500 * time.Millisecond, traceParent: "00-01", traceState: "a=b", body: []byte("body")}
	b := f.append(nil)
	got, err := readRequest(bytes.NewReader(b[2:]), 4, anySize)
	if err != nil || got.deadline != f.deadline || got.traceParent != f.traceParent || got.traceState != f.traceState || string(got.body) != "body" {
		t.Errorf("got %+v, %v", got, err)
	}
	for what, in := range map[string][]byte{
		"body over the limit":  requestFrame{body: []byte("bodyx")}.append(nil)[2:],
		"traceparent over its": requestFrame{traceParent: strings.Repeat("x", maxTraceParent+1)}.append(nil)[2:],
		"tracestate over its":  requestFrame{traceState: strings.Repeat("x", maxTraceState+1)}.append(nil)[2:],
		"cut":                  b[2 : len(b)-1],
		"bytes after the end":  append(bytes.Clone(b[2:]), 0),
		"nothing":              nil,
	} {
		if _, err := readRequest(bytes.NewReader(in), 4, anySize); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
}

// TestAnnouncedIsNotTaken: a peer that announces much and sends nothing costs no memory.
func TestAnnouncedIsNotTaken(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var head [4]byte
	binary.BigEndian.PutUint32(head[:], 1<<30)
	if err := readMessage(bytes.NewReader(head[:]), &peerv1.Word{}, 1<<31-1); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
	if _, err := readVectors(bytes.NewReader(nil), 1<<20, maxDimension); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 64<<20 {
		t.Errorf("took %d bytes", took)
	}
}

func TestResultMustFit(t *testing.T) {
	for what, m := range map[string]*peerv1.EmbedResult{
		"vectors":   {Vectors: 2, Dimension: 4},
		"dimension": {Vectors: 1},
		"wide":      {Vectors: 1, Dimension: maxDimension + 1},
		"tokens":    {Vectors: 1, Dimension: 4, Tokens: []int32{1, 2}},
		"truncated": {Vectors: 1, Dimension: 4, Truncated: []int32{1, 2}},
	} {
		b, err := appendAnswer(nil, answerResult, m)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := readAnswer(bytes.NewReader(append(b, make([]byte, 1024)...)), 1); err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	b, err := appendAnswer(nil, answerError, &peerv1.EmbedError{Code: "of_tomorrow", Message: "m"})
	if err != nil {
		t.Fatal(err)
	}
	if _, failure, err := readAnswer(bytes.NewReader(b), 1); err != nil || failure.Code != embedding.CodeInternal || failure.Message != "m" {
		t.Errorf("got %v, %v", failure, err)
	}
}

func TestCountInputs(t *testing.T) {
	b, err := proto.Marshal(requestMessage(embedding.Request{Model: "m", Inputs: make([]embedding.Input, 7), PromptName: "p"}))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := countInputs(b); n != 7 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	if _, err := countInputs([]byte{0xff}); err == nil {
		t.Error("garbage counted")
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(requestFrame{deadline: time.Second, traceParent: "00-01", traceState: "a=b", body: []byte("body")}.append(nil)[2:])
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{255}, 64))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := readRequest(bytes.NewReader(b), 1<<16, anySize)
		if err != nil {
			return
		}
		if len(r.body) > 1<<16 || len(r.traceParent) > maxTraceParent || len(r.traceState) > maxTraceState {
			t.Error("over a limit")
		}
		if again := r.append(nil)[2:]; !bytes.Equal(again, b) {
			t.Errorf("%x became %x", b, again)
		}
		n, err := countInputs(r.body)
		var m peerv1.EmbedRequest
		if proto.Unmarshal(r.body, &m) == nil && (err != nil || n < len(m.GetInputs())) {
			t.Errorf("counted %d of %d inputs, %v", n, len(m.GetInputs()), err)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	meta, err := resultMessage(lengths(one("x")), 1)
	if err != nil {
		f.Fatal(err)
	}
	b, err := appendAnswer(nil, answerResult, meta)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(b, make([]byte, 16)...))
	if b, err = appendAnswer(nil, answerError, &peerv1.EmbedError{Code: "invalid"}); err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		res, failure, err := readAnswer(bytes.NewReader(b), 1)
		if err == nil && failure == nil && len(res.Vectors) != 1 {
			t.Errorf("%d vectors", len(res.Vectors))
		}
	})
}

func FuzzDatagram(f *testing.F) {
	f.Add(probeDatagram(1, 2))
	f.Add(replyDatagram(1, 2, wordOf(&peerv1.Word{State: 2, Models: []*peerv1.Served{{Name: "m", Aliases: []string{"x"}}}})))
	f.Add([]byte{datagramGossip, 1})
	k := &link{l: &Links{cfg: Config{Self: selfless}, metrics: nil}, gone: true, urgent: make(chan []byte, 1)}
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := k.datagram(b, time.Time{}); err == nil && len(b) == 0 {
			t.Error("nothing was taken")
		}
		select {
		case reply := <-k.urgent:
			if len(reply) > maxDatagram {
				t.Errorf("reply of %d bytes", len(reply))
			}
		default:
		}
	})
}

func FuzzHello(f *testing.F) {
	b, err := appendMessage([]byte{frameVersion, streamHello}, &peerv1.Hello{Node: &peerv1.Node{Id: "a", Word: &peerv1.Word{}, Labels: map[string]string{"k": "v"}}, Instance: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readHello(bytes.NewReader(b))
		if err == nil && (len(h.info.Labels) > maxLabels || len(h.info.Word.Models) > maxModels || len(h.info.Addr) > maxName || h.uptime < 0) {
			t.Errorf("over a limit: %+v", h)
		}
	})
}
