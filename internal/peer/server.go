package peer

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/protobuf/proto"

	"github.com/akidb/akidbd/internal/embedding"
	peerv1 "github.com/akidb/akidbd/internal/gen/akidb/peer/v1"
)

// Limits of what a peer may make this node wait for.
const (
	bodyTimeout = 30 * time.Second // to send a request
	readStall   = 10 * time.Second // to take each part (256 KiB) of an answer
	readTime    = time.Minute      // to take all of it
)

// serveEmbed answers one request of a peer with the local engine.
func (k *link) serveEmbed(st *quic.Stream) {
	l := k.l
	l.requests.add()
	defer l.requests.done()
	k.active.Add(1)
	defer k.active.Add(-1)
	var held hold
	defer held.release()
	answer, err := k.answerEmbed(st, &held)
	if err != nil { // no request was read: nothing to answer
		reset(st, streamProtocol)
		if k.conn.Context().Err() == nil && !is[*quic.StreamError](err) {
			l.refuse(refusedProtocol, k.conn.RemoteAddr(), "node", k.id, "reason", err)
		}
		return
	}
	l.metrics.request(dirIn, answer.failure)
	if err := k.writeAnswer(st, answer); err != nil {
		reset(st, streamCanceled)
		return
	}
	if st.Close() != nil { // reset by the peer
		st.CancelWrite(streamCanceled)
	}
	st.CancelRead(streamCanceled) // does nothing when the end was read
}

// hold is what a request takes until its answer is written: one that nobody reads takes memory too.
type hold struct {
	l     *Links
	of    *atomic.Int64 // requests of the same node
	bytes int64
}

// take takes a place for a request, nil when there is none.
func (h *hold) take(k *link) *embedding.Error {
	l := k.l
	select {
	case l.slots <- struct{}{}:
		h.l, h.of = l, k.serving
		if n := h.of.Add(1); n > int64(max(1, cap(l.slots)/2)) {
			l.metrics.refused[refusedConcurrency].Inc()
			return embedding.Errorf(embedding.CodeOverloaded, "node %s serves %d requests of this node already", l.self, n-1)
		}
		return nil
	default:
		l.metrics.refused[refusedConcurrency].Inc()
		return embedding.Errorf(embedding.CodeOverloaded, "node %s serves %d requests of its peers already", l.self, cap(l.slots))
	}
}

// grow takes memory for a request.
func (h *hold) grow(n int) error {
	limit := 4 * int64(h.l.cfg.MaxRequestBytes)
	h.bytes += int64(n)
	if all := h.l.bodies.Add(int64(n)); all > limit {
		h.l.metrics.refused[refusedConcurrency].Inc()
		return embedding.Errorf(embedding.CodeOverloaded, "node %s serves requests of its peers of %d bytes already, %d more are over its limit of %d", h.l.self, all-int64(n), n, limit)
	}
	return nil
}

func (h *hold) release() {
	if h.l == nil {
		return
	}
	h.l.bodies.Add(-h.bytes)
	h.of.Add(-1)
	<-h.l.slots
}

type answer struct {
	result  embedding.Result
	meta    *peerv1.EmbedResult
	failure *embedding.Error
}

func refusal(err *embedding.Error) answer { return answer{failure: err} }

// answerEmbed reads and computes; a request that is refused is not read. An error says that the request makes
// no sense.
func (k *link) answerEmbed(st *quic.Stream, held *hold) (answer, error) {
	l := k.l
	if l.stopped.Load() {
		l.metrics.refused[refusedDraining].Inc()
		return refusal(embedding.Errorf(embedding.CodeUnavailable, "node %s stops", l.self)), nil
	}
	if err := held.take(k); err != nil {
		return refusal(err), nil
	}
	if l.cfg.Admit != nil {
		if err := l.cfg.Admit(); err != nil {
			l.metrics.refused[refusedAdmission].Inc()
			return refusal(embedding.AsError(err)), nil
		}
	}
	_ = st.SetReadDeadline(time.Now().Add(bodyTimeout))
	r := l.buffers.reader(st)
	frame, err := readRequest(r, l.cfg.MaxRequestBytes, held.grow)
	l.buffers.putReader(r)
	if e, ok := errors.AsType[*embedding.Error](err); ok {
		return refusal(e), nil
	}
	if err != nil {
		return answer{}, err
	}
	inputs, err := countInputs(frame.body)
	if err != nil {
		return answer{}, fmt.Errorf("request: %w", err)
	}
	if inputs > l.cfg.MaxInputs {
		return refusal(embedding.Errorf(embedding.CodeTooLarge, "%d inputs are over the %d that a node takes of a peer", inputs, l.cfg.MaxInputs)), nil
	}
	var m peerv1.EmbedRequest
	if err := proto.Unmarshal(frame.body, &m); err != nil {
		return answer{}, fmt.Errorf("request: %w", err)
	}
	return k.compute(st.Context(), frame, requestOf(&m)), nil
}

func (k *link) compute(ctx context.Context, frame requestFrame, req embedding.Request) answer {
	l := k.l
	deadline := l.cfg.MaxDeadline
	if frame.deadline > 0 {
		deadline = min(deadline, frame.deadline)
	}
	asked := ctx
	trace := propagation.MapCarrier{headerParent: frame.traceParent, headerState: frame.traceState}
	ctx, cancel := context.WithTimeout(propagation.TraceContext{}.Extract(ctx, trace), deadline)
	defer cancel()
	res, err := l.callEngine(ctx, req)
	var a answer
	if err != nil && asked.Err() != nil { // the cause of the stream's end is quic-go's, which no engine knows
		a.failure = embedding.AsError(context.Canceled)
		return a
	}
	if err == nil {
		a.result = res
		if a.meta, err = resultMessage(res, len(req.Inputs)); err != nil {
			err = fmt.Errorf("the engine's result does not fit its request: %w", err)
		}
	}
	if err != nil {
		a.failure = embedding.AsError(err)
		if a.failure.Code == embedding.CodeInternal {
			l.log.Error("request of a peer failed", "node", k.id, "reason", err) // the peer gets no cause
		}
	}
	return a
}

func (l *Links) callEngine(ctx context.Context, req embedding.Request) (res embedding.Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return l.engine.Embed(ctx, req)
}

func (k *link) writeAnswer(st *quic.Stream, a answer) error {
	buf := k.l.buffers.get()
	defer k.l.buffers.put(buf)
	w := pacedWriter{st, time.Now().Add(readTime)}
	var err error
	if a.failure != nil {
		if *buf, err = appendAnswer(*buf, answerError, errorMessage(a.failure)); err != nil {
			return err
		}
		_, err = w.Write(*buf)
		return err
	}
	if *buf, err = appendAnswer(*buf, answerResult, a.meta); err != nil {
		return err
	}
	*buf, err = writeVectors(w, a.result.Vectors, *buf)
	return err
}

// pacedWriter gives each write readStall, and all of them until a time.
type pacedWriter struct {
	st    *quic.Stream
	until time.Time
}

func (w pacedWriter) Write(b []byte) (int, error) {
	at := time.Now().Add(readStall)
	if at.After(w.until) {
		at = w.until
	}
	_ = w.st.SetWriteDeadline(at)
	return w.st.Write(b)
}
