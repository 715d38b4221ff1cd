package sync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/store"
)

// Status is what a node knows about the ways its models come.
type Status struct {
	Models   []ModelStatus // that it wants, by name
	Buckets  []BucketStatus
	Refused  []Refused
	Backlog  int  // objects that this node is to copy into the bucket of its region
	Copies   bool // this node looks at other regions' buckets for its region
	ClockSet bool // the wall clock can be right; manifests from the future are refused only then
}

// ModelStatus is one model.
type ModelStatus struct {
	Name     string
	Serving  string // digest; "" none
	Wanted   string // digest that it should serve; "" none is known
	Manifest string // that says so, <clock>-<node>
	Progress Progress
	Pins     []string
	Trouble  map[string]Trouble // by digest
}

// BucketStatus is how the last look at a bucket ended.
type BucketStatus struct {
	Name, Region string
	Own          bool
	Looked       bool
	Err          string
}

// Refused is a manifest that is not taken.
type Refused struct {
	Name, ID string
	Reason   Reason
	Text     string
}

// Status says how things are, from memory and the store.
func (s *Syncer) Status() Status {
	st := Status{Copies: s.copies(), ClockSet: wallIsSet(s.now())}
	for _, name := range s.wantedNames() {
		m := ModelStatus{Name: name, Serving: s.installer.Serving(name)}
		if c := s.catalog.candidates(name, s.cfg.Node, s.cfg.Region); len(c) > 0 {
			m.Wanted, m.Manifest = c[0].Digest, c[0].ID()
		}
		kept := s.state.get(name)
		m.Pins, m.Trouble = kept.Pins, kept.Trouble
		st.Models = append(st.Models, m)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range st.Models {
		if m := s.models[st.Models[i].Name]; m != nil {
			st.Models[i].Progress = m.progress
		}
	}
	if s.own != nil {
		st.Buckets = append(st.Buckets, s.bucketStatus(*s.own, true))
	}
	for _, b := range s.remotes {
		st.Buckets = append(st.Buckets, s.bucketStatus(b, false))
	}
	for key, r := range s.refused {
		st.Refused = append(st.Refused, Refused{Name: key.name, ID: key.id, Reason: r.reason, Text: r.text})
	}
	slices.SortFunc(st.Refused, func(a, b Refused) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID), strings.Compare(a.Text, b.Text))
	})
	st.Backlog = s.backlog
	return st
}

// bucketStatus is called with mu held.
func (s *Syncer) bucketStatus(b NamedBucket, own bool) BucketStatus {
	err, looked := s.buckets[b.Name]
	out := BucketStatus{Name: b.Name, Region: b.Region, Own: own, Looked: looked}
	if err != nil {
		out.Err = err.Error()
	}
	return out
}

// Version is one manifest as a node sees it.
type Version struct {
	*Manifest
	Current bool // this node should serve it
	Serving bool // its digest serves here
	Void    bool // a tombstone took it
	Here    bool // the store of this node has it
	Pinned  bool
}

// Versions lists what is known of a model, the last first.
func (s *Syncer) Versions(name string) []Version {
	records := s.catalog.records(name)
	serving, kept := s.installer.Serving(name), s.state.get(name)
	var current *record
	if c := candidates(records, s.cfg.Node, s.cfg.Region); len(c) > 0 {
		current = c[0]
	}
	out := make([]Version, 0, len(records))
	for _, r := range slices.Backward(records) {
		out = append(out, Version{
			Manifest: r.Manifest, Current: r == current, Serving: r.Kind != KindDelete && r.Digest == serving && serving != "",
			Void: r.Kind != KindDelete && isVoid(records, r.Manifest), Here: r.Kind != KindDelete && s.here(r),
			Pinned: r.Digest != "" && slices.Contains(kept.Pins, r.Digest),
		})
	}
	return out
}

// Names lists the models that anything is known of.
func (s *Syncer) Names() []string { return s.catalog.names() }

// Clock is a moment after everything that this node has seen, for a manifest that it is asked to take.
func (s *Syncer) Clock() Clock { return s.clock.Now() }

// Publish takes a manifest from an operator. Of a version without a bucket, the store must have the files.
func (s *Syncer) Publish(raw []byte) (*Manifest, error) {
	m, err := ParseManifest(raw)
	if err != nil {
		return nil, err
	}
	r, fresh, err := s.add(raw, m.Name, m.ID())
	if err != nil {
		return nil, err
	}
	if !fresh {
		return m, nil
	}
	if r.Kind != KindDelete && s.here(r) {
		s.state.change(m.Name, func(st *modelState) {
			if !slices.Contains(st.Origin, r.Digest) {
				st.Origin = append(st.Origin, r.Digest)
			}
		})
	}
	s.state.forgive(m.Name)
	s.learned([]string{m.Name})
	return r.Manifest, nil
}

// Import copies the model directory src into the store, so that a version of it can be published from here, and gives
// its files.
func (s *Syncer) Import(ctx context.Context, name, src string) ([]store.File, error) {
	e, err := s.store.Import(ctx, name, src, nil)
	if err != nil {
		return nil, err
	}
	return s.store.Files(e), nil
}

// Pin keeps a version in the store of this node, or lets it go again.
func (s *Syncer) Pin(name, digest string, pin bool) error {
	if _, err := s.store.Lookup(name, digest); err != nil && pin {
		return fmt.Errorf("only a version that this node has can be pinned here: %w", err)
	}
	s.state.change(name, func(m *modelState) {
		m.Pins = slices.DeleteFunc(m.Pins, func(d string) bool { return d == digest })
		if pin {
			m.Pins = append(m.Pins, digest)
		}
	})
	return nil
}

// Verified is an entry of the store that was read and compared.
type Verified struct {
	Model embedding.Model
	Bytes int64
	Err   error // nil: it is what it should be
}

// Verify reads what the store has of a model, or of all with "". A version that is damaged and does not serve is
// removed, so that it is fetched again when it is needed; one that cannot be read now stays.
func (s *Syncer) Verify(ctx context.Context, name string) ([]Verified, error) {
	entries, err := s.store.List()
	if err != nil && len(entries) == 0 {
		return nil, err
	}
	var out []Verified
	for _, e := range entries {
		if name != "" && e.Model.Name != name {
			continue
		}
		v := Verified{Model: e.Model, Bytes: e.Bytes, Err: s.store.Verify(ctx, e)}
		if err := ctx.Err(); err != nil {
			return out, err
		}
		if errors.Is(v.Err, store.ErrDamaged) && s.wanted(e.Model.Name) && s.installer.Serving(e.Model.Name) != e.Model.Digest {
			if err := s.store.Remove(e); err != nil && !errors.Is(err, fs.ErrNotExist) {
				v.Err = errors.Join(v.Err, err)
			}
		}
		out = append(out, v)
	}
	return out, nil
}

// Local is the entry that serves, or served last, under a name: what a change of settings installs anew.
func (s *Syncer) Local(name string) (store.Entry, bool) {
	for _, digest := range []string{s.installer.Serving(name), s.state.get(name).Good} {
		if digest == "" {
			continue
		}
		if e, err := s.store.Lookup(name, digest); err == nil {
			return e, true
		}
	}
	return store.Entry{}, false
}

// Healthy says why models may not arrive, nil when they can: the own bucket, or with none the buckets of others.
func (s *Syncer) Healthy() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.own != nil {
		return s.buckets[s.own.Name]
	}
	var errs []error
	for _, b := range s.remotes {
		errs = append(errs, s.buckets[b.Name])
	}
	return errors.Join(errs...)
}

// HasBuckets says whether any bucket is configured.
func (s *Syncer) HasBuckets() bool { return s.own != nil || len(s.remotes) > 0 }
