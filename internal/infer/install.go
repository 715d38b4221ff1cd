package infer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
)

const goldenCosine = 0.999 // of golden.json; room for fp16 against the fp32 it was made with

// Configure makes models known before they are installed, so that listings show them as loading and requests for them
// are told so. It takes all at once: an alias may move from one to another, and one that no listed model has leads
// nowhere any more.
func (e *Engine) Configure(models map[string]Settings) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.aliases
	e.aliases = map[string]string{}
	for name, s := range models {
		if err := e.announce(name, s); err != nil {
			e.aliases = old
			return err
		}
	}
	return nil
}

func (e *Engine) announce(name string, s Settings) error {
	for _, alias := range s.Aliases {
		if to, ok := e.aliases[alias]; ok && to != name {
			return fmt.Errorf("alias %q of model %s already leads to model %s", alias, name, to)
		}
		if _, ok := e.entries[alias]; ok && alias != name {
			return fmt.Errorf("alias %q of model %s is the name of another model", alias, name)
		}
	}
	en := e.entries[name]
	if en == nil {
		en = &entry{name: name, state: embedding.ModelLoading}
		e.entries[name] = en
	}
	en.settings = s
	for alias, to := range e.aliases {
		if to == name {
			delete(e.aliases, alias)
		}
	}
	for _, alias := range s.Aliases {
		e.aliases[alias] = name
	}
	return nil
}

// Install serves the model in dir under m.Name: open, warm, golden check, then swap. Whatever fails leaves the
// version before it serving; without one the model is listed as failed with the reason. The version before
// finishes what it has and then closes. dir must not change while it is served.
func (e *Engine) Install(ctx context.Context, m embedding.Model, dir string, s Settings) error {
	e.mu.Lock()
	err := e.announce(m.Name, s)
	e.mu.Unlock()
	if err != nil {
		return err
	}
	started := time.Now()
	unloaded, err := e.unload(ctx, m.Name)
	var in *instance
	if err == nil {
		in, err = e.open(ctx, m, dir, s, nil)
	}
	if err != nil {
		e.Fail(m.Name, err)
		e.restore(unloaded)
		return fmt.Errorf("model %s: %w", m.Name, err)
	}
	if err := e.swap(in, nil); err != nil {
		return fmt.Errorf("model %s: %w", m.Name, errors.Join(err, in.backend.Close()))
	}
	took := time.Since(started)
	e.metrics.load.Observe(took.Seconds())
	e.log.Info("model ready", "model", in.artifact.Model, "provider", in.caps.Provider, "dimensions", in.caps.Dimensions,
		"max_tokens", in.maxTokens, "pooling", in.artifact.Spec.Pooling, "seconds", took.Seconds())
	return nil
}

// Serving gives the version that serves under a name and what it was installed with; ok is false when none
// answers.
func (e *Engine) Serving(name string) (m embedding.Model, s Settings, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	en := e.entries[name]
	if en == nil || en.current == nil || en.current.lost || en.state != embedding.ModelReady {
		return embedding.Model{}, Settings{}, false
	}
	return en.current.artifact.Model, en.current.settings, true
}

// Fail notes why an announced model cannot be served. A version that serves is left alone.
func (e *Engine) Fail(name string, err error) {
	e.metrics.loadFailures.Inc()
	e.mu.Lock()
	defer e.mu.Unlock()
	if en := e.entries[name]; en != nil && (en.current == nil || en.current.lost) {
		en.state, en.reason = embedding.ModelFailed, err.Error()
	}
}

// Remove stops serving a model. Requests in it are answered; then it closes.
func (e *Engine) Remove(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	en := e.entries[name]
	if en == nil {
		return
	}
	delete(e.entries, name)
	for alias, to := range e.aliases {
		if to == name {
			delete(e.aliases, alias)
		}
	}
	if en.current != nil {
		e.retire(en.current)
	}
}

// swap makes in the current version; with only, not unless that is the one it replaces.
func (e *Engine) swap(in, only *instance) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return embedding.Errorf(embedding.CodeUnavailable, "this node is shutting down")
	}
	en := e.entries[in.artifact.Model.Name]
	if only != nil && (en == nil || en.current != only) {
		return errSuperseded
	}
	if en == nil {
		return errors.New("it was removed while it was loaded")
	}
	old := en.current
	en.current, en.state, en.reason = in, embedding.ModelReady, ""
	if only == nil {
		en.reopens = 0
	}
	e.instances = append(e.instances, in)
	e.metrics.serve(in)
	e.wg.Go(func() { // a lost backend is noticed at once, not at the next tick
		select {
		case <-in.backend.Done():
			e.wakeSupervisor()
		case <-e.ctx.Done():
		}
	})
	if old != nil {
		e.adopt(in, old)
		e.retire(old)
	}
	e.dispatch()
	return nil
}

// retire lets a version go. Of one model only the last retired one lingers, and not when its digest is still served:
// memory is for the versions that answer. e.mu is held.
func (e *Engine) retire(in *instance) {
	if in.retired.IsZero() {
		in.retired = time.Now()
	}
	name := in.artifact.Model.Name
	if en := e.entries[name]; en != nil && en.current != nil && en.current != in {
		in.short = en.current.artifact.Model.Digest == in.artifact.Model.Digest
	}
	for _, o := range slices.Clone(e.instances) {
		if o != in && o.artifact.Model.Name == name && !o.retired.IsZero() {
			o.short = true
			e.reap(o)
		}
	}
	e.reap(in)
}

// unload ends the serving version of a model for Config.Unload and waits until its backend is closed. It returns nil
// when there is nothing to end.
func (e *Engine) unload(ctx context.Context, name string) (*instance, error) {
	if !e.cfg.Unload {
		return nil, nil
	}
	e.mu.Lock()
	en := e.entries[name]
	if en == nil || en.current == nil || en.current.lost {
		e.mu.Unlock()
		return nil, nil
	}
	old := en.current
	old.lost, old.givenUp, old.holdUntil = true, true, time.Now().Add(e.cfg.Hold)
	en.state, en.reason = embedding.ModelLoading, "it is replaced"
	for _, o := range slices.Clone(e.instances) {
		if o.artifact.Model.Name == name {
			o.short = true
			e.reap(o)
		}
	}
	e.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, e.cfg.LoadTimeout)
	defer cancel()
	select {
	case <-old.closed:
		return old, nil
	case <-ctx.Done():
		return old, fmt.Errorf("the version before did not end: %w", context.Cause(ctx))
	}
}

// restore opens a version that was unloaded again.
func (e *Engine) restore(old *instance) {
	if old == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if en := e.entryOf(old); en != nil && !e.closed {
		e.reopen(en, old)
	}
}

// open reads the directory and opens, warms and checks the model. With like, what the directory says is taken from
// that instance of it.
func (e *Engine) open(ctx context.Context, m embedding.Model, dir string, s Settings, like *instance) (in *instance, err error) {
	defer e.beginLoad(m)()
	ctx, cancel := context.WithTimeout(ctx, e.cfg.LoadTimeout)
	defer cancel()
	if like != nil {
		in = like.again()
	} else if in, err = prepare(m, dir, s); err != nil {
		return nil, err
	}
	opt := e.cfg.Options
	if s.Precision != "" {
		opt.Precision = s.Precision
	}
	if in.backend, err = e.cfg.Open(ctx, in.artifact, opt); err != nil {
		return nil, err
	}
	in.caps = in.backend.Caps()
	if in.caps.Precision != "" {
		in.artifact.Model.Precision = in.caps.Precision
	}
	if err := e.check(ctx, in); err != nil {
		return nil, errors.Join(err, in.backend.Close())
	}
	in.loaded, in.active, in.closed = time.Now(), time.Now(), make(chan struct{})
	return in, nil
}

// check warms the backend in both forms and compares golden vectors.
func (e *Engine) check(ctx context.Context, in *instance) error {
	if in.caps.MaxTokens < in.maxTokens {
		return fmt.Errorf("one run of the backend takes %d tokens, the model's longest input has %d", in.caps.MaxTokens, in.maxTokens)
	}
	if in.caps.Lanes < 1 {
		return fmt.Errorf("the backend has %d lanes", in.caps.Lanes)
	}
	warm := in.tokenizer.Encode("warm up", in.maxTokens).IDs
	forms := []Batch{{Rows: [][]int32{warm}}}
	if in.caps.Wide {
		forms = append(forms, Batch{Rows: [][]int32{warm}, Wide: true})
	}
	for _, b := range forms {
		out, err := SafeRun(ctx, in.backend, b)
		if err == nil && !finite(out.Vectors[0]) {
			err = errors.New("the vector has a NaN or infinite number")
		}
		if err != nil {
			return fmt.Errorf("warm-up: %w", err)
		}
	}
	return in.checkGolden(ctx)
}

func (in *instance) checkGolden(ctx context.Context) error {
	g := in.artifact.Spec.Golden
	if g == nil {
		return nil
	}
	prompt, err := in.prompt("")
	if err != nil {
		return err
	}
	for i, text := range g.Texts {
		ids := in.tokenizer.Encode(prompt+text, in.maxTokens).IDs
		out, err := SafeRun(ctx, in.backend, Batch{Rows: [][]int32{ids}})
		if err != nil {
			return fmt.Errorf("golden.json, text %d: %w", i, err)
		}
		if c := cosine(out.Vectors[0], g.Vectors[i]); !(c >= goldenCosine) {
			return fmt.Errorf("golden.json, text %d: cosine %.6f to the expected vector, at least %v is needed", i, c, goldenCosine)
		}
	}
	return nil
}

func cosine(a, b []float32) float64 {
	var ab, aa, bb float64
	for i := range a {
		ab += float64(a[i]) * float64(b[i])
		aa += float64(a[i]) * float64(a[i])
		bb += float64(b[i]) * float64(b[i])
	}
	return ab / math.Sqrt(aa*bb)
}
