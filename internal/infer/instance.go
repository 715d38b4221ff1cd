package infer

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/tokenizer"
)

// Settings is what the configuration says about a model, over what its directory says. The zero value changes
// nothing.
type Settings struct {
	Aliases       []string          // other names; "default" answers requests that name no model
	Pooling       string            // overrides 1_Pooling/config.json
	MaxTokens     int               // lowers the longest input; 0 keeps the model's
	Normalize     *bool             // overrides modules.json
	Truncate      *bool             // cut over-long inputs; nil means true, as sentence-transformers does
	Precision     string            // "fp32" or "fp16"; "" means fp32
	Prompts       map[string]string // added to config_sentence_transformers.json's
	DefaultPrompt string            // name of the prompt of requests that name none
}

// An instance is one opened version of a model. Fields under mu belong to Engine.mu; the rest does not change.
type instance struct {
	artifact      Artifact
	settings      Settings
	tokenizer     *tokenizer.Tokenizer
	backend       Backend
	caps          Caps
	maxTokens     int
	normalize     bool
	truncate      bool
	prompts       map[string]string
	defaultPrompt string
	loaded        time.Time

	// mu:
	queue        queue
	running      int           // runs in flight
	refs         int           // Embed calls that hold it
	perToken     float64       // nanoseconds of one lane per padded token, moving average; 0 until measured
	perWideToken float64       // nanoseconds of core time per padded token of wide runs, likewise
	retired      time.Time     // when a newer version took its place; zero while it is current
	short        bool          // it is retired and need not linger
	lost         bool          // will never answer again
	givenUp      bool          // lost by our decision: its inputs are not to blame
	holdUntil    time.Time     // until when requests wait for the successor of a lost one
	successor    *instance     // took over the requests of a lost one
	exclusive    bool          // a suspect runs, and nothing beside it
	answered     bool          // a request
	closing      bool          // its backend is being closed
	suspects     int           // canaries that failed in a row
	doubtful     bool          // a run failed: a canary must say whether the backend still works
	probing      bool          // a canary is in flight
	probed       time.Time     // start of the last canary
	active       time.Time     // last successful run
	closed       chan struct{} // closed when the backend has closed
}

// again is an instance without a backend that needs not be read from its directory.
func (in *instance) again() *instance {
	return &instance{
		artifact: in.artifact, settings: in.settings, tokenizer: in.tokenizer, maxTokens: in.maxTokens,
		normalize: in.normalize, truncate: in.truncate, prompts: in.prompts, defaultPrompt: in.defaultPrompt,
	}
}

func (in *instance) onCPU() bool { return in.caps.Provider == "" || in.caps.Provider == ProviderCPU }

func (in *instance) maxRows() int {
	if in.caps.MaxRows > 0 {
		return in.caps.MaxRows
	}
	return math.MaxInt
}

func (in *instance) promptNames() []string { return slices.Sorted(maps.Keys(in.prompts)) }

func (in *instance) isLost() bool {
	if in.lost {
		return true
	}
	select {
	case <-in.backend.Done():
		return true
	default:
		return false
	}
}

// entryOf is the entry whose current instance in is, nil when there is none. e.mu is held.
func (e *Engine) entryOf(in *instance) *entry {
	if en := e.entries[in.artifact.Model.Name]; en != nil && en.current == in {
		return en
	}
	return nil
}

// acquire finds the instance for an asked model and holds it until release.
func (e *Engine) acquire(asked string) (*instance, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	name, digest := embedding.SplitModel(asked)
	if name == "" {
		name = embedding.DefaultModel
	}
	if to, ok := e.aliases[name]; ok {
		name = to
	}
	en, ok := e.entries[name]
	if !ok {
		return nil, &embedding.Error{Code: embedding.CodeModelNotFound, Param: "model", Message: fmt.Sprintf(
			"no model %q here: %s", asked, e.served())}
	}
	in := en.current
	if digest != "" {
		var err error
		if in, err = e.pinned(en, digest); err != nil {
			return nil, err
		}
	}
	if in == nil || (in.lost && !e.holds(in)) {
		return nil, &embedding.Error{Code: embedding.CodeUnavailable, Err: errors.New(en.reason),
			Message: fmt.Sprintf("model %s is not ready: %s", name, en.why())}
	}
	if err := e.room(); err != nil { // before the work of tokenizing
		return nil, err
	}
	in.refs++
	return in, nil
}

// pinned finds the open version whose digest starts with the given hex digits.
func (e *Engine) pinned(en *entry, digest string) (*instance, error) {
	if len(digest) < embedding.ShortDigestLen {
		return nil, &embedding.Error{Code: embedding.CodeInvalid, Param: "model", Message: fmt.Sprintf(
			"digest %q has %d hex digits, give at least %d", digest, len(digest), embedding.ShortDigestLen)}
	}
	if in := en.current; in != nil && in.artifact.Model.HasDigest(digest) {
		return in, nil
	}
	for _, in := range e.instances {
		lingers := !in.lost && !in.short && !in.retired.IsZero() && time.Since(in.retired) < e.cfg.Linger
		if in.artifact.Model.Name == en.name && lingers && in.artifact.Model.HasDigest(digest) {
			return in, nil
		}
	}
	have := "no version"
	if en.current != nil {
		have = en.current.artifact.Model.String()
	}
	return nil, &embedding.Error{Code: embedding.CodeModelNotFound, Param: "model", Message: fmt.Sprintf(
		"version %s of model %s is not served here, %s is", digest, en.name, have)}
}

func (e *Engine) release(in *instance) {
	e.mu.Lock()
	defer e.mu.Unlock()
	in.refs--
	e.reap(in)
}

// reap closes a version that nothing needs any more: lost or retired for longer than Linger, no request in it. The
// backend of a lost one is closed as soon as nothing runs in it: its successor wants the memory. e.mu is held.
func (e *Engine) reap(in *instance) {
	if e.closed || in.running > 0 {
		return
	}
	if in.lost {
		e.closeBackend(in)
	}
	gone := in.lost && !e.holds(in) || !in.retired.IsZero() && (in.short || time.Since(in.retired) >= e.cfg.Linger)
	if !gone || in.refs > 0 || len(in.queue.byLen) > 0 {
		return
	}
	i := slices.Index(e.instances, in)
	if i < 0 {
		return
	}
	e.instances = slices.Delete(e.instances, i, i+1)
	if !slices.ContainsFunc(e.instances, func(o *instance) bool {
		return o.artifact.Model == in.artifact.Model && o.caps.Provider == in.caps.Provider
	}) {
		e.metrics.forget(in)
	}
	e.closeBackend(in)
}

func (e *Engine) closeBackend(in *instance) {
	if in.closing {
		return
	}
	in.closing = true
	replaced := !in.lost
	e.wg.Go(func() {
		defer close(in.closed)
		if err := in.backend.Close(); err != nil {
			e.log.Error("closing a model", "model", in.artifact.Model, "err", err)
		}
		e.log.Info("model closed", "model", in.artifact.Model)
		if replaced {
			debug.FreeOSMemory() // a tokenizer is many small objects; versions change rarely
		}
	})
}

// served lists the names that answer, for messages.
func (e *Engine) served() string {
	names := slices.Sorted(maps.Keys(e.entries))
	if len(names) == 0 {
		return "this node serves none"
	}
	return "this node serves " + strings.Join(names, ", ")
}

// why is for clients: the reason itself may name paths and libraries, and is for the operator.
func (en *entry) why() string {
	switch {
	case en.state == embedding.ModelLoading:
		return "it is loading"
	case en.current != nil:
		return "its backend was lost and is opened again"
	}
	return "it could not be loaded, the node's log and status say why"
}

func (e *Engine) modelInfos() []embedding.ModelInfo {
	infos := make([]embedding.ModelInfo, 0, len(e.entries))
	for _, name := range slices.Sorted(maps.Keys(e.entries)) {
		en := e.entries[name]
		info := embedding.ModelInfo{
			Model: embedding.Model{Name: name}, Aliases: e.aliasesOf(name), State: en.state, Reason: en.reason,
		}
		if in := en.current; in != nil {
			info.Model, info.Dimensions, info.MaxTokens = in.artifact.Model, in.caps.Dimensions, in.maxTokens
			info.Pooling, info.Provider = string(in.artifact.Spec.Pooling), in.caps.Provider
			info.Prompts, info.Loaded = in.promptNames(), in.loaded
		}
		infos = append(infos, info)
	}
	return infos
}

func (e *Engine) aliasesOf(name string) []string {
	var out []string
	for alias, to := range e.aliases {
		if to == name {
			out = append(out, alias)
		}
	}
	slices.Sort(out)
	return out
}
