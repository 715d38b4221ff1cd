package api

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/akidb/akidbd/internal/embedding"
	akidbv1 "github.com/akidb/akidbd/internal/gen/akidb/v1"
	"github.com/akidb/akidbd/internal/gen/akidb/v1/akidbv1connect"
)

// rpc is akidb.v1.EmbeddingService. EmbedStream is in stream.go.
type rpc struct{ *surface }

func (s *rpc) Embed(ctx context.Context, req *connect.Request[akidbv1.EmbedRequest]) (*connect.Response[akidbv1.EmbedResponse], error) {
	c := callOf(ctx)
	c.setReadDeadline(time.Time{}) // the message is there
	res, err := s.embedMessage(ctx, c, c.start, req.Header(), req.Msg)
	if err != nil {
		return nil, s.rpcError(c, err)
	}
	if err := c.hold(answerSize(res)); err != nil {
		return nil, s.rpcError(c, err)
	}
	answer := connect.NewResponse(newEmbedResponse(res))
	setResultHeaders(answer.Header(), res, c.start)
	return answer, nil
}

// embedMessage answers one message, alone or of a stream.
func (s *rpc) embedMessage(ctx context.Context, c *call, start time.Time, h http.Header, msg *akidbv1.EmbedRequest) (embedding.Result, error) {
	ctx, cancel, err := s.deadline(ctx, h, start)
	if err != nil {
		s.metrics.embed(embedding.CodeInvalid)
		return embedding.Result{}, err
	}
	defer cancel()
	req, field, count, err := newRequest(msg)
	if err != nil {
		s.metrics.embed(embedding.AsError(err).Code)
		return embedding.Result{}, err
	}
	c.inputs.Add(int64(count))
	res, err := s.embed(ctx, req, field, count)
	if err == nil {
		c.tokens.Add(int64(res.TotalTokens()))
	}
	return res, err
}

func (s *rpc) ListModels(context.Context, *connect.Request[akidbv1.ListModelsRequest]) (*connect.Response[akidbv1.ListModelsResponse], error) {
	list := &akidbv1.ListModelsResponse{}
	for _, m := range s.node.Models() {
		info := &akidbv1.ModelInfo{
			Model:      newModel(m.Model),
			Aliases:    m.Aliases,
			State:      modelState(m.State),
			Reason:     m.Reason,
			Dimensions: uint32(m.Dimensions),
			MaxTokens:  uint32(m.MaxTokens),
			Pooling:    m.Pooling,
			Provider:   m.Provider,
			Prompts:    m.Prompts,
		}
		if !m.Loaded.IsZero() {
			info.Loaded = timestamppb.New(m.Loaded)
		}
		list.Models = append(list.Models, info)
	}
	return connect.NewResponse(list), nil
}

// newRequest translates a message. It keeps the strings, which protobuf made for it alone.
func newRequest(msg *akidbv1.EmbedRequest) (req embedding.Request, field string, count int, err error) {
	const maxDimensions = 1 << 20
	for _, name := range []struct{ field, value string }{{"model", msg.GetModel()}, {"prompt_name", msg.GetPromptName()}} {
		if len(name.value) > maxNameBytes {
			return req, "", 0, &embedding.Error{Code: embedding.CodeInvalid, Param: name.field,
				Message: fmt.Sprintf("%q must be at most %d bytes, got %d", name.field, maxNameBytes, len(name.value))}
		}
	}
	if msg.GetDimensions() > maxDimensions {
		return req, "", 0, &embedding.Error{Code: embedding.CodeUnprocessable, Param: "dimensions",
			Message: fmt.Sprintf("\"dimensions\" must be at most %d, got %d", maxDimensions, msg.GetDimensions())}
	}
	req = embedding.Request{
		Model:      msg.GetModel(),
		Dimensions: int(msg.GetDimensions()),
		PromptName: msg.GetPromptName(),
	}
	if msg != nil { // a stream's request may be missing
		req.Normalize, req.Truncate = msg.Normalize, msg.Truncate
	}
	texts, ids := msg.GetTexts(), msg.GetTokenIds()
	switch {
	case len(texts) > 0 && len(ids) > 0:
		return req, "", 0, &embedding.Error{Code: embedding.CodeInvalid, Param: "token_ids",
			Message: fmt.Sprintf("only one of \"texts\" and \"token_ids\" may be given, got %d and %d", len(texts), len(ids))}
	case len(ids) > 0:
		for _, t := range ids {
			tokens := t.GetIds()
			if tokens == nil {
				tokens = []int32{}
			}
			req.Inputs = append(req.Inputs, embedding.Input{Tokens: tokens})
		}
		return req, "token_ids", len(ids), nil
	}
	req.Inputs = make([]embedding.Input, len(texts))
	for i, text := range texts {
		req.Inputs[i].Text = text
	}
	return req, "texts", len(texts), nil
}

func newEmbedResponse(res embedding.Result) *akidbv1.EmbedResponse {
	answer := &akidbv1.EmbedResponse{
		Embeddings: make([]*akidbv1.Vector, len(res.Vectors)),
		Model:      newModel(res.Model),
		Dimensions: uint32(len(res.Vectors[0])),
		Usage: &akidbv1.Usage{
			Tokens:          uint32(res.TotalTokens()),
			TokensPerInput:  newCounts(res.Tokens),
			TruncatedTokens: newCounts(res.Truncated),
		},
		ServedBy: &akidbv1.ServedBy{Node: res.Origin.Node, Region: res.Origin.Region, Route: akidbv1.Route_ROUTE_LOCAL},
	}
	if res.Origin.Forwarded {
		answer.ServedBy.Route = akidbv1.Route_ROUTE_FORWARDED
	}
	vectors := make([]akidbv1.Vector, len(res.Vectors))
	for i, v := range res.Vectors {
		vectors[i].Values = v
		answer.Embeddings[i] = &vectors[i]
	}
	return answer
}

func newModel(m embedding.Model) *akidbv1.Model {
	return &akidbv1.Model{Name: m.Name, Digest: m.Digest, Precision: m.Precision}
}

func newCounts(in []int) []uint32 {
	if in == nil {
		return nil
	}
	out := make([]uint32, len(in))
	for i, n := range in {
		out[i] = uint32(n)
	}
	return out
}

func modelState(s embedding.ModelState) akidbv1.ModelState {
	switch s {
	case embedding.ModelLoading:
		return akidbv1.ModelState_MODEL_STATE_LOADING
	case embedding.ModelReady:
		return akidbv1.ModelState_MODEL_STATE_READY
	case embedding.ModelFailed:
		return akidbv1.ModelState_MODEL_STATE_FAILED
	}
	return akidbv1.ModelState_MODEL_STATE_UNSPECIFIED
}

// rpcError makes the error connect-go answers with.
func (a *surface) rpcError(c *call, err error) *connect.Error {
	e := embedding.AsError(err)
	c.note(e)
	row := codeTable(e.Code)
	out := connect.NewError(row.grpc, messageError(e.Message))
	out.Meta().Set(headerCode, string(e.Code))
	if row.retryAfter {
		out.Meta().Set("Retry-After", a.retryAfter)
	}
	if e.Code == embedding.CodeUnauthenticated {
		out.Meta().Set("WWW-Authenticate", `Bearer realm="akidbd"`)
	}
	return out
}

// messageError is the part of an error that clients may see.
type messageError string

func (m messageError) Error() string { return string(m) }

// failRPC answers an RPC that did not get as far as connect-go.
func (a *surface) failRPC(c *call, r *http.Request, e *embedding.Error) {
	if err := a.rpcErrors.Write(c, r, a.rpcError(c, e)); err != nil {
		return // the client has gone
	}
}

// recoverRPC turns a panic in a handler into an internal error.
func (a *surface) recoverRPC(ctx context.Context, _ connect.Spec, _ http.Header, p any) error {
	return a.rpcError(callOf(ctx), a.panicked(p))
}

// rpcCode finds out how an RPC ended that no handler of ours has put a code on: the gRPC status is in the
// trailers, Connect's in the HTTP status.
func rpcCode(c *call) embedding.Code {
	h := c.Header()
	for _, name := range []string{"Grpc-Status", http.TrailerPrefix + "Grpc-Status"} {
		if status := h.Get(name); status != "" {
			n, err := strconv.ParseUint(status, 10, 32)
			switch {
			case err != nil:
				return embedding.CodeInternal
			case n == 0:
				return codeOK
			}
			return codeOfConnect(connect.Code(n))
		}
	}
	switch {
	case c.status < 400:
		return codeOK
	case c.status == http.StatusTooManyRequests: // how Connect writes resource_exhausted
		return embedding.CodeTooLarge
	case c.status == http.StatusGatewayTimeout:
		return embedding.CodeDeadline
	case c.status < 500:
		return embedding.CodeInvalid
	}
	return embedding.CodeInternal
}

// rpcHealth answers grpc.health.v1 from the node's readiness.
type rpcHealth struct{ *surface }

func (s *rpcHealth) Check(_ context.Context, req *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	switch req.Service {
	case "", akidbv1connect.EmbeddingServiceName, grpchealth.HealthV1ServiceName:
	default:
		return nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("there is no service %.200q here", req.Service))
	}
	if s.node.Health().Ready {
		return &grpchealth.CheckResponse{Status: grpchealth.StatusServing}, nil
	}
	return &grpchealth.CheckResponse{Status: grpchealth.StatusNotServing}, nil
}

// healthPoll is how often a watched health is looked at.
const healthPoll = 250 * time.Millisecond

// Watch tells of changes of readiness. grpchealth calls stop before its handler returns.
func (s *rpcHealth) Watch(ctx context.Context, req *grpchealth.CheckRequest, onChange func()) (func(), error) {
	before, err := s.Check(ctx, req)
	if err != nil {
		return nil, err
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(healthPoll)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			now, err := s.Check(ctx, req)
			if err == nil && now.Status != before.Status {
				before = now
				onChange()
			}
		}
	}()
	return func() { close(quit); <-done }, nil
}
