package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/akidb/akidbd/internal/embedding"
	peerv1 "github.com/akidb/akidbd/internal/gen/akidb/peer/v1"
)

// Every stream begins with two bytes, the version of the framing and what the stream is for.
//
//	request: u32 deadline (ms, 0 none) · u16 len traceparent · u16 len tracestate · u32 len body · the three
//	answer:  u8 version · u8 kind · u32 len · message · (result:) vectors x dimension little-endian float32
//	hello, word: u32 len · message, both ways; gossip: raw bytes
//
// Integers are big-endian.
const frameVersion = 1

const (
	streamHello  = 1
	streamEmbed  = 2
	streamWord   = 3
	streamGossip = 4

	answerResult = 1
	answerError  = 2
)

// Limits of what is read. All are checked before memory is taken.
const (
	maxTraceParent = 64      // a traceparent has 55 bytes
	maxTraceState  = 512     // W3C Trace Context asks for at least this
	maxMessage     = 1 << 20 // hello, word, error
	maxDimension   = 1 << 16
	maxVectors     = 512 << 20 // bytes of all vectors of an answer
	readStep       = 256 << 10 // memory grows with what has come, not with what was announced
)

type requestFrame struct {
	deadline                time.Duration // 0: none given
	traceParent, traceState string
	body                    []byte // of a peerv1.EmbedRequest
}

const requestHead = 12

func (f requestFrame) append(b []byte) []byte {
	b = append(b, frameVersion, streamEmbed)
	ms := min(max(f.deadline.Milliseconds(), 0), math.MaxUint32)
	if f.deadline > 0 && ms == 0 {
		ms = 1
	}
	b = binary.BigEndian.AppendUint32(b, uint32(ms))
	b = binary.BigEndian.AppendUint16(b, uint16(len(f.traceParent)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(f.traceState)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(f.body)))
	b = append(b, f.traceParent...)
	b = append(b, f.traceState...)
	return append(b, f.body...)
}

func overLimit(what string, n, limit int) error {
	return fmt.Errorf("%s of %d bytes is over the limit of %d", what, n, limit)
}

// readRequest reads a request after the first two bytes of its stream, to the end of the stream. grow is asked
// before memory for the body is taken; its error is returned as it is.
func readRequest(r io.Reader, maxBody int, grow func(bytes int) error) (requestFrame, error) {
	var head [requestHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return requestFrame{}, fmt.Errorf("head of a request: %w", err)
	}
	f := requestFrame{deadline: time.Duration(binary.BigEndian.Uint32(head[:])) * time.Millisecond}
	parent, state := int(binary.BigEndian.Uint16(head[4:])), int(binary.BigEndian.Uint16(head[6:]))
	body := int(binary.BigEndian.Uint32(head[8:]))
	switch {
	case parent > maxTraceParent:
		return f, overLimit("traceparent", parent, maxTraceParent)
	case state > maxTraceState:
		return f, overLimit("tracestate", state, maxTraceState)
	case body > maxBody:
		return f, overLimit("request", body, maxBody)
	}
	if err := grow(body); err != nil {
		return f, err
	}
	trace, err := readN(r, parent+state)
	if err != nil {
		return f, fmt.Errorf("trace of a request: %w", err)
	}
	f.traceParent, f.traceState = string(trace[:parent]), string(trace[parent:])
	if f.body, err = readN(r, body); err != nil {
		return f, fmt.Errorf("body of a request: %w", err)
	}
	return f, readEnd(r)
}

// readN reads n bytes; memory is taken as they come.
func readN(r io.Reader, n int) ([]byte, error) {
	b := make([]byte, 0, min(n, readStep))
	for len(b) < n {
		if len(b) == cap(b) {
			grown := make([]byte, len(b), min(n, 2*cap(b)))
			copy(grown, b)
			b = grown
		}
		end := min(n, cap(b))
		got, err := io.ReadFull(r, b[len(b):end])
		b = b[:len(b)+got]
		if err != nil {
			return b, noEOF(err)
		}
	}
	return b, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readEnd reads the end of a stream, which frees its slot.
func readEnd(r io.Reader) error {
	var b [1]byte
	switch n, err := io.ReadFull(r, b[:]); {
	case n > 0:
		return errors.New("bytes after the end of the frame")
	case errors.Is(err, io.EOF):
		return nil
	default:
		return err
	}
}

// countInputs walks the message without taking memory: an input costs far more memory than its two bytes.
func countInputs(body []byte) (int, error) {
	n := 0
	for len(body) > 0 {
		num, typ, size := protowire.ConsumeTag(body)
		if size < 0 {
			return 0, protowire.ParseError(size)
		}
		body = body[size:]
		if size = protowire.ConsumeFieldValue(num, typ, body); size < 0 {
			return 0, protowire.ParseError(size)
		}
		body = body[size:]
		if num == 2 && typ == protowire.BytesType {
			n++
		}
	}
	return n, nil
}

// appendMessage appends a message and its length.
func appendMessage(b []byte, m proto.Message) ([]byte, error) {
	at := len(b)
	b = append(b, 0, 0, 0, 0)
	b, err := proto.MarshalOptions{}.MarshalAppend(b, m)
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b, nil
}

func readMessage(r io.Reader, m proto.Message, limit int) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return noEOF(err)
	}
	n := int(binary.BigEndian.Uint32(head[:]))
	if n > limit {
		return overLimit("message", n, limit)
	}
	b, err := readN(r, n)
	if err != nil {
		return err
	}
	return proto.Unmarshal(b, m)
}

// appendAnswer appends an answer without its vectors.
func appendAnswer(b []byte, kind byte, m proto.Message) ([]byte, error) {
	return appendMessage(append(b, frameVersion, kind), m)
}

// resultLimit bounds the message that goes before the vectors of n inputs, whose counts take 10 bytes at most.
func resultLimit(inputs int) int { return 4096 + 20*inputs }

// readAnswer reads the answer to a request of so many inputs, to the end of the stream. The error that the peer
// answered is failure; err says that no answer could be read.
func readAnswer(r io.Reader, inputs int) (res embedding.Result, failure *embedding.Error, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return res, nil, fmt.Errorf("head of an answer: %w", noEOF(err))
	}
	if head[0] != frameVersion {
		return res, nil, fmt.Errorf("frame version %d is not known here", head[0])
	}
	switch head[1] {
	case answerError:
		var m peerv1.EmbedError
		if err := readMessage(r, &m, maxMessage); err != nil {
			return res, nil, fmt.Errorf("error answer: %w", err)
		}
		return res, errorOf(&m), readEnd(r)
	case answerResult:
		var m peerv1.EmbedResult
		if err := readMessage(r, &m, resultLimit(inputs)); err != nil {
			return res, nil, fmt.Errorf("result: %w", err)
		}
		if res, err = resultOf(&m, inputs); err != nil {
			return res, nil, err
		}
		if res.Vectors, err = readVectors(r, inputs, int(m.GetDimension())); err != nil {
			return res, nil, fmt.Errorf("vectors: %w", err)
		}
		return res, nil, readEnd(r)
	}
	return res, nil, fmt.Errorf("answer of kind %d is not known here", head[1])
}

// readVectors reads n vectors of dimension d, both checked by the caller.
func readVectors(r io.Reader, n, d int) ([][]float32, error) {
	vectors := make([][]float32, 0, n)
	rows := max(1, readStep/(4*d))
	raw := make([]byte, min(rows, n)*d*4)
	for len(vectors) < n {
		k := min(rows, n-len(vectors))
		if _, err := io.ReadFull(r, raw[:k*d*4]); err != nil {
			return nil, noEOF(err)
		}
		block := make([]float32, k*d)
		for i := range block {
			block[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		}
		for i := range k {
			vectors = append(vectors, block[i*d:(i+1)*d:(i+1)*d])
		}
	}
	return vectors, nil
}

// writeVectors writes vectors of one dimension through buf, which it grows to at most readStep or one vector.
func writeVectors(w io.Writer, vectors [][]float32, buf []byte) ([]byte, error) {
	for _, v := range vectors {
		if len(buf) > 0 && len(buf)+4*len(v) > readStep {
			if _, err := w.Write(buf); err != nil {
				return buf, err
			}
			buf = buf[:0]
		}
		for _, x := range v {
			buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(x))
		}
	}
	_, err := w.Write(buf)
	return buf, err
}
