package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/akidb/akidbd/internal/embedding"
	akidbv1 "github.com/akidb/akidbd/internal/gen/akidb/v1"
)

const maxStreamIDBytes = 128

// EmbedStream reads requests in the handler's goroutine, computes up to StreamWindow of them at once and sends
// the answers in order from a second one. A request is read only when there is room in the window, so that a
// stream holds StreamWindow requests and answers and HTTP/2 flow control holds back the client.
//
// Every goroutine ends before EmbedStream returns: the sender when order is closed, the others when Embed
// returns. A blocked Receive ends with the client, or by expire when the server drains.
func (s *rpc) EmbedStream(ctx context.Context, stream *connect.BidiStream[akidbv1.EmbedStreamRequest, akidbv1.EmbedStreamResponse]) error {
	c := callOf(ctx)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	draining := drainingOf(ctx)
	stopExpire := context.AfterFunc(draining, func() { c.setReadDeadline(time.Now()) })
	defer stopExpire()

	order := make(chan chan *akidbv1.EmbedStreamResponse, s.cfg.StreamWindow-1)
	var sendErr error
	var sender, workers sync.WaitGroup
	sender.Go(func() {
		for answer := range order {
			msg := <-answer
			if sendErr != nil {
				continue
			}
			c.setWriteDeadline(time.Now().Add(s.cfg.WriteTimeout))
			if sendErr = stream.Send(msg); sendErr != nil {
				cancel()
			}
			c.setWriteDeadline(time.Time{})
		}
	})
	room := make(chan struct{}, s.cfg.StreamWindow)
	receive := func() error {
		for {
			select {
			case room <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			msg, err := stream.Receive()
			if err != nil {
				return err
			}
			answer := make(chan *akidbv1.EmbedStreamResponse, 1)
			workers.Go(func() {
				answer <- s.streamAnswer(ctx, c, msg)
				<-room
			})
			select {
			case order <- answer:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	err := receive()
	workers.Wait()
	close(order)
	sender.Wait()
	switch {
	case errors.Is(err, io.EOF):
		return sendErr
	case draining.Err() != nil:
		return s.rpcError(c, embedding.Errorf(embedding.CodeUnavailable,
			"this node is stopping: send what was not answered to another one"))
	case sendErr != nil:
		return sendErr
	}
	return err
}

// streamAnswer computes one answer of a stream. A panic is its own: nothing else would catch it here.
func (s *rpc) streamAnswer(ctx context.Context, c *call, msg *akidbv1.EmbedStreamRequest) (out *akidbv1.EmbedStreamResponse) {
	defer func() {
		if p := recover(); p != nil {
			out = s.streamError(ctx, c, "", s.panicked(p))
		}
	}()
	ctx, span := s.startSpan(ctx)
	defer span.End()
	var res embedding.Result
	var err error
	id := msg.GetId()
	if len(id) > maxStreamIDBytes {
		err = &embedding.Error{Code: embedding.CodeInvalid, Param: "id", Message: embedding.Errorf("",
			"\"id\" must be at most %d bytes, got %d", maxStreamIDBytes, len(id)).Message}
		s.metrics.embed(embedding.CodeInvalid)
		id = ""
	} else {
		res, err = s.embedMessage(ctx, c, time.Now(), nil, msg.GetRequest())
	}
	if err != nil {
		return s.streamError(ctx, c, id, embedding.AsError(err))
	}
	return &akidbv1.EmbedStreamResponse{Id: id, Outcome: &akidbv1.EmbedStreamResponse_Response{Response: newEmbedResponse(res)}}
}

// streamError makes the answer for a request that failed. The access log has one line for the whole stream, so
// a failure of ours gets its own.
func (s *rpc) streamError(ctx context.Context, c *call, id string, e *embedding.Error) *akidbv1.EmbedStreamResponse {
	if e.Code == embedding.CodeInternal {
		s.log.LogAttrs(ctx, slog.LevelInfo, "stream request", slog.String("request_id", c.id), slog.String("error", e.Error()))
	}
	return &akidbv1.EmbedStreamResponse{Id: id, Outcome: &akidbv1.EmbedStreamResponse_Error{
		Error: &akidbv1.Error{Code: string(e.Code), Message: e.Message, Param: e.Param}}}
}
