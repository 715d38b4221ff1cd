// Package embedding holds the words of an embedding request: what is asked, what is answered and how it
// fails. Every layer (api, router, infer, peer) speaks them through one verb, Embed, and the package imports
// nothing of akidbd.
package embedding

import (
	"context"
	"log/slog"
	"strings"
	"time"
)

// Model names what made a vector. Equal Models give vectors of cosine >= 0.9999 on any node, provider or
// batch.
type Model struct {
	Name      string // as configured, [a-zA-Z0-9][a-zA-Z0-9._-]{0,63}
	Digest    string // "sha256-" and 64 hex digits over the sorted files of the model directory
	Precision string // "fp32", "fp16" or "int8"
}

// DefaultModel is what requests that name no model ask for: an alias of one model.
const DefaultModel = "default"

// ShortDigestLen is how many hex digits of a digest people are shown; a pinned digest may be as short.
const ShortDigestLen = 12

// String is the form that people and headers see: name@digest, the digest cut to 12 hex digits.
func (m Model) String() string {
	if m.Digest == "" {
		return m.Name
	}
	return m.Name + "@" + m.ShortDigest()
}

// HasDigest says whether m is the version that a client pinned: hex digits that its digest begins with, without
// "sha256-", at least ShortDigestLen of them.
func (m Model) HasDigest(pin string) bool {
	return len(pin) >= ShortDigestLen && strings.HasPrefix(m.hexDigest(), pin)
}

// Pinned is the form that asks for this very version: name@digest, all hex digits.
func (m Model) Pinned() string {
	if m.Digest == "" {
		return m.Name
	}
	return m.Name + "@" + m.hexDigest()
}

func (m Model) hexDigest() string { return strings.TrimPrefix(m.Digest, "sha256-") }

// LogValue makes logs show the String form.
func (m Model) LogValue() slog.Value { return slog.StringValue(m.String()) }

// ShortDigest is the first 12 hex digits of the digest, without its "sha256-".
func (m Model) ShortDigest() string {
	d := m.hexDigest()
	return d[:min(len(d), ShortDigestLen)]
}

// SplitModel splits what a client asked for, "name" or "name@digest", into its parts; digest is "" when the
// name is not pinned. The digest may carry "sha256-" and may be cut to no fewer than 12 hex digits.
func SplitModel(asked string) (name, digest string) {
	name, digest, _ = strings.Cut(asked, "@")
	return name, strings.TrimPrefix(digest, "sha256-")
}

// Input is one text, or the ids of one already tokenized text (Tokens is then not nil and Text is ignored).
type Input struct {
	Text   string
	Tokens []int32
}

// Request asks for one vector per input.
type Request struct {
	Model      string  // name, alias or name@digest; "" means "default"
	Inputs     []Input // at least one
	Dimensions int     // leading dimensions to keep, then normalized again; 0 means all of the model's
	Normalize  *bool   // L2-normalize; nil means the model's own rule
	Truncate   *bool   // cut an over-long input instead of refusing it; nil means the model's setting
	PromptName string  // a prompt of the model to set before every text; "" means the model's default prompt
}

// Result answers a Request: Vectors, Tokens and Truncated are parallel to its Inputs.
type Result struct {
	Model     Model
	Vectors   [][]float32
	Tokens    []int // tokens computed for each input, specials included
	Truncated []int // tokens cut off from each input, 0 mostly; nil when nothing was cut
	Timing    Timing
	Origin    Origin
}

// TotalTokens is the sum of Tokens.
func (r Result) TotalTokens() int {
	n := 0
	for _, t := range r.Tokens {
		n += t
	}
	return n
}

// Timing says where the time of a request went, on the node that computed it.
type Timing struct {
	Tokenize time.Duration // in the caller's goroutine
	Queue    time.Duration // longest wait of an input before its batch ran
	Run      time.Duration // longest batch that carried an input
}

// Origin says who computed a Result. The router fills it.
type Origin struct {
	Node, Region string
	Forwarded    bool // false: the node that was asked computed it
}

// Embedder is the one verb. It is here for documentation and for fakes; consumers declare their own.
type Embedder interface {
	// Embed answers one vector per input or an error that AsError turns into an *Error. It returns when the
	// answer is there, ctx ends or the work cannot be taken: it does not wait for room.
	Embed(ctx context.Context, req Request) (Result, error)
}

// ModelInfo describes a model that is configured or served, for listings.
type ModelInfo struct {
	Model      Model
	Aliases    []string // other names that lead to it, "default" among them on one model
	State      ModelState
	Reason     string // why it is not ready, for people; "" when ready
	Dimensions int    // length of a full vector
	MaxTokens  int    // longest input, specials included
	Pooling    string
	Provider   string   // execution provider that runs it: "cpu", "cuda" or "tensorrt"
	Prompts    []string // names of its prompts, sorted
	Loaded     time.Time
}

// ModelState is how far a model is from answering.
type ModelState string

// States of a model on a node.
const (
	ModelLoading ModelState = "loading" // opening, warming up
	ModelReady   ModelState = "ready"   // answered its warm-up and answers now
	ModelFailed  ModelState = "failed"  // did not load, or stopped answering
)
