package peer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/quic-go/quic-go"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/protobuf/proto"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

// Embed asks a node over the link that is up. It never dials: without a link it fails at once as unavailable.
// So does a request whose link is lost. The end of ctx cancels the work there.
func (l *Links) Embed(ctx context.Context, n node.Info, req embedding.Request) (embedding.Result, error) {
	res, err := l.embed(ctx, n.ID, req)
	l.metrics.request(dirOut, err)
	if err != nil {
		return embedding.Result{}, err
	}
	return res, nil
}

func (l *Links) embed(ctx context.Context, id node.ID, req embedding.Request) (embedding.Result, *embedding.Error) {
	k := (*l.table.Load())[id]
	if k == nil {
		return embedding.Result{}, embedding.Errorf(embedding.CodeUnavailable, "no link to node %s", id)
	}
	if err := ctx.Err(); err != nil {
		return embedding.Result{}, embedding.AsError(err)
	}
	l.requests.add()
	defer l.requests.done()
	k.active.Add(1)
	defer k.active.Add(-1)
	frame, err := requestFrameOf(ctx, req, l.cfg.MaxRequestBytes)
	if err != nil {
		return embedding.Result{}, embedding.AsError(err)
	}
	st, err := k.conn.OpenStream()
	if err != nil {
		if is[*quic.StreamLimitReachedError](err) {
			return embedding.Result{}, &embedding.Error{Code: embedding.CodeOverloaded, Message: fmt.Sprintf("node %s has no free stream", id), Err: err}
		}
		return embedding.Result{}, lost(id, err)
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		reset(st, streamCanceled)
		close(ended)
	})
	res, failure, err := l.roundTrip(st, frame, len(req.Inputs))
	if !stop() {
		<-ended
	}
	if err != nil {
		reset(st, streamCanceled)
		if ctx.Err() != nil {
			return embedding.Result{}, embedding.AsError(ctx.Err())
		}
		return embedding.Result{}, lost(id, err)
	}
	return res, failure
}

func (l *Links) roundTrip(st *quic.Stream, f requestFrame, inputs int) (embedding.Result, *embedding.Error, error) {
	buf := l.buffers.get()
	b := f.append(*buf)
	_, err := st.Write(b)
	*buf = b
	l.buffers.put(buf)
	if err != nil {
		// A peer that refuses before it has read all stops our side and answers on its own.
		if e, ok := errors.AsType[*quic.StreamError](err); !ok || !e.Remote {
			return embedding.Result{}, nil, err
		}
	} else {
		_ = st.Close() // fails when the peer stopped our side just now: its answer tells why
	}
	r := l.buffers.reader(st)
	defer l.buffers.putReader(r)
	return readAnswer(r, inputs)
}

func lost(id node.ID, err error) *embedding.Error {
	return &embedding.Error{Code: embedding.CodeUnavailable, Message: fmt.Sprintf("the request to node %s was lost on the way", id), Err: err}
}

// Headers of the W3C Trace Context.
const (
	headerParent = "traceparent"
	headerState  = "tracestate"
)

func requestFrameOf(ctx context.Context, req embedding.Request, limit int) (requestFrame, error) {
	var f requestFrame
	if at, ok := ctx.Deadline(); ok {
		f.deadline = max(time.Until(at), time.Millisecond)
	}
	trace := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, trace)
	f.traceParent, f.traceState = trace[headerParent], trace[headerState]
	if len(f.traceParent) > maxTraceParent {
		f.traceParent, f.traceState = "", ""
	}
	if len(f.traceState) > maxTraceState {
		f.traceState = ""
	}
	var err error
	if f.body, err = proto.Marshal(requestMessage(req)); err != nil {
		return f, &embedding.Error{Code: embedding.CodeInvalid, Message: "model and prompt names must be valid UTF-8", Err: err}
	}
	if len(f.body) > limit {
		return f, embedding.Errorf(embedding.CodeTooLarge, "a request of %d bytes is over the %d that a peer takes", len(f.body), limit)
	}
	return f, nil
}
