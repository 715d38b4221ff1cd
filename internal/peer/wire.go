package peer

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/akidb/akidbd/internal/embedding"
	peerv1 "github.com/akidb/akidbd/internal/gen/akidb/peer/v1"
	"github.com/akidb/akidbd/internal/node"
)

// Limits of what a node says of itself. What is over them is cut off: a talkative peer is no reason to lose it.
const (
	maxModels  = 256
	maxAliases = 64
	maxLabels  = 64
	maxName    = 256  // bytes of any single string but
	maxText    = 4096 // that of an error's message
)

func requestMessage(req embedding.Request) *peerv1.EmbedRequest {
	inputs := make([]peerv1.Input, len(req.Inputs))
	m := &peerv1.EmbedRequest{
		Model: req.Model, Dimensions: int32(req.Dimensions), Normalize: req.Normalize, Truncate: req.Truncate,
		PromptName: req.PromptName, Inputs: make([]*peerv1.Input, len(req.Inputs)),
	}
	for i, in := range req.Inputs {
		if in.Tokens != nil {
			inputs[i].Tokens, inputs[i].Tokenized = in.Tokens, true
		} else {
			inputs[i].Text = []byte(in.Text)
		}
		m.Inputs[i] = &inputs[i]
	}
	return m
}

func requestOf(m *peerv1.EmbedRequest) embedding.Request {
	req := embedding.Request{
		Model: m.GetModel(), Dimensions: int(m.GetDimensions()), Normalize: m.Normalize, Truncate: m.Truncate,
		PromptName: m.GetPromptName(), Inputs: make([]embedding.Input, len(m.GetInputs())),
	}
	for i, in := range m.GetInputs() {
		switch {
		case !in.GetTokenized():
			req.Inputs[i].Text = string(in.GetText())
		case in.GetTokens() == nil:
			req.Inputs[i].Tokens = []int32{}
		default:
			req.Inputs[i].Tokens = in.GetTokens()
		}
	}
	return req
}

// resultMessage fails when the result does not fit its request: the engine is at fault.
func resultMessage(res embedding.Result, inputs int) (*peerv1.EmbedResult, error) {
	m := &peerv1.EmbedResult{
		Model:   &peerv1.Model{Name: res.Model.Name, Digest: res.Model.Digest, Precision: res.Model.Precision},
		Vectors: uint32(len(res.Vectors)), Tokens: int32s(res.Tokens), Truncated: int32s(res.Truncated),
		TokenizeNs: int64(res.Timing.Tokenize), QueueNs: int64(res.Timing.Queue), RunNs: int64(res.Timing.Run),
	}
	if len(res.Vectors) > 0 {
		m.Dimension = uint32(len(res.Vectors[0]))
	}
	for i, v := range res.Vectors {
		if len(v) != int(m.Dimension) {
			return nil, fmt.Errorf("vector %d has %d dimensions, vector 0 has %d", i, len(v), m.Dimension)
		}
	}
	_, err := resultOf(m, inputs)
	return m, err
}

func resultOf(m *peerv1.EmbedResult, inputs int) (embedding.Result, error) {
	var res embedding.Result
	switch {
	case int64(m.GetVectors()) != int64(inputs):
		return res, fmt.Errorf("result has %d vectors for %d inputs", m.GetVectors(), inputs)
	case m.GetDimension() == 0 || m.GetDimension() > maxDimension:
		return res, fmt.Errorf("result has vectors of dimension %d, 1 to %d are possible", m.GetDimension(), maxDimension)
	case 4*int64(m.GetVectors())*int64(m.GetDimension()) > maxVectors:
		return res, fmt.Errorf("result has %d vectors of dimension %d, together they may have %d bytes", m.GetVectors(), m.GetDimension(), maxVectors)
	case len(m.GetTokens()) != 0 && len(m.GetTokens()) != inputs, len(m.GetTruncated()) != 0 && len(m.GetTruncated()) != inputs:
		return res, fmt.Errorf("result counts %d tokens and %d cuts for %d inputs", len(m.GetTokens()), len(m.GetTruncated()), inputs)
	case slices.ContainsFunc(m.GetTokens(), negative) || slices.ContainsFunc(m.GetTruncated(), negative):
		return res, errors.New("result counts fewer than no tokens")
	}
	return embedding.Result{
		Model:  embedding.Model{Name: m.GetModel().GetName(), Digest: m.GetModel().GetDigest(), Precision: m.GetModel().GetPrecision()},
		Tokens: ints(m.GetTokens()), Truncated: ints(m.GetTruncated()),
		Timing: embedding.Timing{
			Tokenize: span(m.GetTokenizeNs()), Queue: span(m.GetQueueNs()), Run: span(m.GetRunNs()),
		},
	}, nil
}

func negative(n int32) bool { return n < 0 }

// span is a length of time that a peer says, 0 to an hour.
func span(ns int64) time.Duration { return min(max(0, time.Duration(ns)), time.Hour) }

func int32s(in []int) []int32 {
	out := make([]int32, len(in))
	for i, v := range in {
		out[i] = int32(v)
	}
	return out
}

func ints(in []int32) []int {
	if len(in) == 0 {
		return nil
	}
	out := make([]int, len(in))
	for i, v := range in {
		out[i] = int(v)
	}
	return out
}

func errorMessage(e *embedding.Error) *peerv1.EmbedError {
	return &peerv1.EmbedError{Code: string(e.Code), Message: wireString(e.Message, maxText), Param: wireString(e.Param, maxName), Lost: e.Lost}
}

// errorOf keeps codes a closed set: one of a newer release is an internal error here.
func errorOf(m *peerv1.EmbedError) *embedding.Error {
	e := &embedding.Error{Code: embedding.Code(m.GetCode()), Message: wireString(m.GetMessage(), maxText), Param: wireString(m.GetParam(), maxName), Lost: m.GetLost()}
	if !slices.Contains(embedding.Codes(), e.Code) {
		e.Err = fmt.Errorf("the peer answered the unknown code %q", cut(m.GetCode(), maxName))
		e.Code = embedding.CodeInternal
	}
	return e
}

// wireString makes a string fit for protobuf, which refuses bad UTF-8.
func wireString(s string, limit int) string { return strings.ToValidUTF8(cut(s, limit), "?") }

func cut(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

func stateMessage(s node.State) peerv1.State {
	switch s {
	case node.Ready:
		return peerv1.State_STATE_READY
	case node.Draining:
		return peerv1.State_STATE_DRAINING
	}
	return peerv1.State_STATE_STARTING
}

// stateOf takes a state that is not known here for Starting: nothing is sent to the node.
func stateOf(s peerv1.State) node.State {
	switch s {
	case peerv1.State_STATE_READY:
		return node.Ready
	case peerv1.State_STATE_DRAINING:
		return node.Draining
	}
	return node.Starting
}

func wordMessage(w node.Word) *peerv1.Word {
	m := &peerv1.Word{
		State: stateMessage(w.State), Load: w.Load, QueueDelayNs: int64(w.QueueDelay), Epoch: w.Epoch, Seq: w.Seq,
		Models: make([]*peerv1.Served, 0, len(w.Models)),
	}
	if sum, err := hex.DecodeString(w.Catalog); err == nil && len(sum) == sha256.Size {
		m.Catalog = sum
	}
	for _, s := range w.Models[:min(len(w.Models), maxModels)] {
		served := &peerv1.Served{
			Name: wireString(s.Name, maxName), Digest: wireString(s.Digest, maxName), Precision: wireString(s.Precision, maxName),
			Active: s.Active, Since: s.Since,
		}
		for _, a := range s.Aliases[:min(len(s.Aliases), maxAliases)] {
			served.Aliases = append(served.Aliases, wireString(a, maxName))
		}
		m.Models = append(m.Models, served)
	}
	return m
}

func wordOf(m *peerv1.Word) node.Word {
	w := node.Word{
		State: stateOf(m.GetState()), Load: m.GetLoad(), QueueDelay: span(m.GetQueueDelayNs()),
		Epoch: m.GetEpoch(), Seq: m.GetSeq(),
	}
	if len(m.GetCatalog()) == sha256.Size {
		w.Catalog = hex.EncodeToString(m.GetCatalog())
	}
	if w.Load = min(w.Load, 1); !(w.Load >= 0) { // NaN too
		w.Load = 0
	}
	for _, s := range m.GetModels()[:min(len(m.GetModels()), maxModels)] {
		w.Models = append(w.Models, node.Served{
			Model:   embedding.Model{Name: cut(s.GetName(), maxName), Digest: cut(s.GetDigest(), maxName), Precision: cut(s.GetPrecision(), maxName)},
			Aliases: aliasesOf(s), Active: s.GetActive(), Since: s.GetSince(),
		})
	}
	return w
}

func aliasesOf(s *peerv1.Served) []string {
	aliases := s.GetAliases()[:min(len(s.GetAliases()), maxAliases)]
	for i, a := range aliases {
		aliases[i] = cut(a, maxName)
	}
	return aliases
}

func nodeMessage(n node.Info) *peerv1.Node {
	m := &peerv1.Node{
		Id: wireString(string(n.ID), maxName), Region: wireString(n.Region, maxName), Zone: wireString(n.Zone, maxName),
		Version: wireString(n.Version, maxName), Addr: wireString(n.Addr, maxName), Word: wordMessage(n.Word), Labels: map[string]string{},
	}
	for k, v := range n.Labels {
		if len(m.Labels) == maxLabels {
			break
		}
		m.Labels[wireString(k, maxName)] = wireString(v, maxName)
	}
	return m
}

func nodeOf(m *peerv1.Node) (node.Info, error) {
	if len(m.GetLabels()) > maxLabels {
		return node.Info{}, fmt.Errorf("%d labels are over the limit of %d", len(m.GetLabels()), maxLabels)
	}
	for k, v := range m.GetLabels() {
		if n := max(len(k), len(v)); n > maxName {
			return node.Info{}, overLimit("label", n, maxName)
		}
	}
	for _, s := range []string{m.GetZone(), m.GetVersion(), m.GetAddr()} {
		if len(s) > maxName {
			return node.Info{}, overLimit("name", len(s), maxName)
		}
	}
	if m.GetWord() == nil {
		return node.Info{}, errors.New("a hello without a word")
	}
	return node.Info{Zone: m.GetZone(), Labels: m.GetLabels(), Version: m.GetVersion(), Addr: m.GetAddr(), Word: wordOf(m.GetWord())}, nil
}

// modelsHash tells whether two sides hold the same list of models; 0 means that none is held.
func modelsHash(m *peerv1.Word) uint64 {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&peerv1.Word{Models: m.GetModels()})
	if err != nil {
		return 1
	}
	h := fnv.New64a()
	_, _ = h.Write(b)
	return max(1, h.Sum64())
}
