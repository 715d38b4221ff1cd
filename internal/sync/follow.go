package sync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/store"
)

// Steps of Progress.
const (
	stepFetch = "fetch"
	stepLoad  = "load"
)

// errSuperseded ends a fetch when a newer version was published meanwhile.
var errSuperseded = errors.New("a newer version was published")

// follow keeps a model at the version that it should have.
func (s *Syncer) follow(ctx context.Context, m *model) {
	for {
		wait := s.converge(ctx, m)
		s.tidy()
		var again <-chan time.Time
		if wait > 0 {
			again = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return
		case <-m.kick:
		case <-again:
		}
	}
}

// Load serves what this node has of its models already, without asking anybody, and says what does not load. It is
// for the start, before Run.
func (s *Syncer) Load(ctx context.Context) error {
	var errs []error
	for _, name := range s.wantedNames() {
		s.mu.Lock()
		m := s.models[name]
		s.mu.Unlock()
		if m == nil {
			continue
		}
		for _, r := range s.catalog.candidates(name, s.cfg.Node, s.cfg.Region) {
			if !s.here(r) || s.state.get(name).Trouble[r.Digest].Quarantined() {
				continue
			}
			err := s.bring(ctx, m, r)
			if err == nil || ctx.Err() != nil {
				break
			}
			errs = append(errs, s.note(m, r, err))
		}
	}
	return errors.Join(errs...)
}

// converge makes the model serve the best version it can, and says when to look again; 0 is when something changes.
func (s *Syncer) converge(ctx context.Context, m *model) (wait time.Duration) {
	all := s.catalog.candidates(m.name, s.cfg.Node, s.cfg.Region)
	digests := make([]string, len(all))
	for i, r := range all {
		digests[i] = r.Digest
	}
	s.state.keepOnly(m.name, digests)
	s.metrics.quarantined.WithLabelValues(m.name).Set(float64(s.quarantined(m.name)))
	if len(all) == 0 {
		if s.deleted(m.name) && s.installer.Serving(m.name) != "" {
			s.log.Info("model was deleted from the fleet", "model", m.name)
			s.installer.Remove(m.name)
			s.onChange()
		}
		return 0
	}
	serving := s.installer.Serving(m.name)
	// After a start, what is here serves while a newer version comes.
	if serving == "" {
		if i := slices.IndexFunc(all, func(r *record) bool { return s.here(r) && !s.blocked(m.name, r.Digest) }); i > 0 {
			if err := s.bring(ctx, m, all[i]); err == nil {
				serving = all[i].Digest
			} else if ctx.Err() == nil {
				_ = s.note(m, all[i], err) // it is in status and log
			}
		}
	}
	for i, r := range all {
		if ctx.Err() != nil {
			return 0
		}
		if r.Digest == serving {
			if i == 0 {
				s.state.served(m.name, r.Digest)
			}
			return wait
		}
		if t := s.state.get(m.name).Trouble[r.Digest]; s.now().Before(t.Next) {
			wait = sooner(wait, t.Next.Sub(s.now()))
		} else if err := s.bring(ctx, m, r); err == nil {
			return wait
		} else if ctx.Err() != nil || errors.Is(err, errSuperseded) {
			return time.Millisecond
		} else if err := s.note(m, r, err); err != nil {
			wait = sooner(wait, s.state.get(m.name).Trouble[r.Digest].Next.Sub(s.now()))
		}
		if serving != "" {
			return wait // the version before serves on
		}
	}
	return wait
}

func sooner(a, b time.Duration) time.Duration {
	b = max(b, time.Millisecond)
	if a == 0 {
		return b
	}
	return min(a, b)
}

// note keeps what went wrong, where people and alerts see it. It gives the error back.
func (s *Syncer) note(m *model, r *record, err error) error {
	t := s.state.failed(m.name, r.Digest, err, s.now())
	s.metrics.fail(t.Reason)
	s.metrics.quarantined.WithLabelValues(m.name).Set(float64(s.quarantined(m.name)))
	if s.installer.Serving(m.name) == "" {
		s.installer.Fail(m.name, err)
	}
	s.log.Error("a version is not served", "model", r.model(), "reason", t.Reason, "quarantined", t.Quarantined(),
		"tries", t.Tries, "next_try_seconds", t.Next.Sub(s.now()).Seconds(), "err", err)
	return err
}

func (s *Syncer) quarantined(name string) (n int) {
	for _, t := range s.state.get(name).Trouble {
		if t.Quarantined() {
			n++
		}
	}
	return n
}

func (r *record) model() embedding.Model { return embedding.Model{Name: r.Name, Digest: r.Digest} }

// here says whether the store has a version.
func (s *Syncer) here(r *record) bool {
	_, err := s.store.Lookup(r.Name, r.Digest)
	return err == nil
}

func (s *Syncer) blocked(name, digest string) bool {
	return s.now().Before(s.state.get(name).Trouble[digest].Next)
}

// deleted says whether a model was there and tombstones took all of it.
func (s *Syncer) deleted(name string) bool {
	records := s.catalog.records(name)
	return slices.ContainsFunc(records, func(r *record) bool { return r.Kind == KindDelete }) && len(live(records)) == 0
}

// bring makes r serve: fetch, verify, into the store, load, swap.
func (s *Syncer) bring(ctx context.Context, m *model, r *record) (err error) {
	ctx, span := s.cfg.Tracer.Start(ctx, "model_sync", trace.WithAttributes(
		attribute.String("model", r.Name), attribute.String("digest", r.Digest), attribute.String("region", s.cfg.Region)))
	defer func() { endSpan(span, err) }()
	started := s.now()
	outer := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.begin(m, r, func() { cancel(errSuperseded) })
	defer s.end(m)
	entry, err := s.store.Lookup(r.Name, r.Digest)
	fetched := err != nil
	if fetched {
		if entry, err = s.fetch(ctx, m, r); err != nil {
			if cause := context.Cause(ctx); errors.Is(cause, errSuperseded) && outer.Err() == nil {
				return cause
			}
			return err
		}
	}
	s.step(m, stepLoad)
	if err := s.load(outer, r, entry); err != nil {
		return err
	}
	s.state.served(r.Name, r.Digest)
	if err := s.store.Used(entry); err != nil {
		s.log.Debug("the time of use of a version cannot be written", "model", r.model(), "err", err)
	}
	now := s.now()
	if fetched {
		s.metrics.lag.WithLabelValues(r.Name).Set(max(0, now.Sub(r.Clock.Time()).Seconds()))
	}
	s.metrics.quarantined.WithLabelValues(r.Name).Set(float64(s.quarantined(r.Name)))
	s.metrics.installed.Inc()
	s.log.Info("version serves", "model", r.model(), "manifest", r.ID(), "from", r.Node, "region", r.Region,
		"seconds", now.Sub(started).Seconds(), "bytes", r.Bytes())
	s.onChange()
	if err := s.evict(0); err != nil {
		s.log.Warn("old versions cannot be removed", "err", err)
	}
	return nil
}

func endSpan(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, string(reasonOf(err)))
		span.RecordError(err)
	}
	span.End()
}

// fetch brings a version into the store.
func (s *Syncer) fetch(ctx context.Context, m *model, r *record) (store.Entry, error) {
	s.inUse.RLock()
	defer s.inUse.RUnlock()
	places, err := s.fetchVersion(ctx, r, func(n int64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		m.progress.Done += n
	})
	if err != nil {
		return store.Entry{}, err
	}
	entry, err := s.store.Add(ctx, r.Name, r.Files, func(f store.File) string { return places[f.SHA256] })
	if err != nil {
		return store.Entry{}, err
	}
	for sha := range places {
		for _, suffix := range []string{"", ".part", ".map"} {
			if err := os.Remove(filepath.Join(s.incoming, sha+suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				s.log.Debug("a fetched file cannot be removed", "sha256", sha, "err", err)
			}
		}
	}
	return entry, nil
}

// load installs an entry. One that does not load is read again: when the disk has changed it, it goes and is fetched
// anew.
func (s *Syncer) load(ctx context.Context, r *record, entry store.Entry) (err error) {
	ctx, span := s.cfg.Tracer.Start(ctx, "model_load", trace.WithAttributes(attribute.String("model", r.Name), attribute.String("digest", r.Digest)))
	defer func() { endSpan(span, err) }()
	s.installing.Lock()
	defer s.installing.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	err = s.installer.Install(ctx, entry.Model, entry.Dir)
	if err == nil || ctx.Err() != nil {
		return err
	}
	if verr := s.store.Verify(ctx, entry); errors.Is(verr, store.ErrDamaged) && ctx.Err() == nil && s.installer.Serving(r.Name) != r.Digest {
		return errors.Join(fmt.Errorf("%w: %w", errCorrupt, verr), s.store.Remove(entry))
	}
	return fmt.Errorf("%w: %w", errLoad, err)
}

func (s *Syncer) begin(m *model, r *record, cancel func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.target, m.cancel = r.Digest, cancel
	m.progress = Progress{Digest: r.Digest, Step: stepFetch, Total: r.Bytes(), Started: s.now()}
}

func (s *Syncer) step(m *model, step string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.progress.Step = step
}

func (s *Syncer) end(m *model) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m.target, m.cancel, m.progress = "", nil, Progress{}
}

// targets is the digest that is brought in for a model now, "" for none.
func (s *Syncer) targets(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.models[name]; m != nil {
		return m.target
	}
	return ""
}

// evict makes the store give up versions that nobody needs, so that extra bytes more are within its bound.
func (s *Syncer) evict(extra int64) error {
	s.installing.Lock() // what is loaded now must stay until it serves
	defer s.installing.Unlock()
	gone, err := s.store.Evict(s.cfg.Keep, extra, s.needed)
	for _, e := range gone {
		s.metrics.evicted.Inc()
		s.log.Info("old version removed from this node", "model", e.Model, "bytes", e.Bytes)
	}
	return err
}

// needed says whether an entry must stay: it serves, served last, should serve, is being brought in, is pinned, may be
// the only copy there is, or is none of ours.
func (s *Syncer) needed(e store.Entry) bool {
	name, digest := e.Model.Name, e.Model.Digest
	if !s.wanted(name) || s.installer.Serving(name) == digest {
		return true
	}
	st := s.state.get(name)
	if st.Good == digest || slices.Contains(st.Pins, digest) || s.targets(name) == digest {
		return true
	}
	if !s.HasBuckets() && slices.Contains(st.Origin, digest) &&
		slices.ContainsFunc(live(s.catalog.records(name)), func(r *record) bool { return r.Digest == digest }) {
		return true
	}
	c := s.catalog.candidates(name, s.cfg.Node, s.cfg.Region)
	return len(c) > 0 && c[0].Digest == digest
}
