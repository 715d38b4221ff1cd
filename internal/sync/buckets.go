package sync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	gosync "sync"

	"github.com/akidb/akidbd/internal/node"
	"github.com/akidb/akidbd/internal/sync/bucket"
)

// lookAt looks at the own bucket or, on the node that copies, at another. settled says that nothing was seen that
// needs a second look soon.
func (s *Syncer) lookAt(ctx context.Context, b NamedBucket, own bool) (settled bool, err error) {
	copies := s.copies()
	if !own && !copies {
		s.mu.Lock()
		delete(s.buckets, b.Name) // what was wrong with it may be right by now
		s.mu.Unlock()
		return true, nil
	}
	settled, err = s.lookAtBucket(ctx, b, own, copies)
	if ctx.Err() == nil {
		s.noteBucket(b, err)
	}
	return settled, err
}

// copies says whether this node looks at all models and at other regions' buckets for its region.
func (s *Syncer) copies() bool {
	ids := []node.ID{s.cfg.Node}
	for _, n := range s.peers.Nodes() {
		if n.Region == s.cfg.Region && healthy(n) {
			ids = append(ids, n.ID)
		}
	}
	return rendezvous("catalog", ids) == s.cfg.Node
}

// noteBucket tells of a bucket that stopped answering, or answers again, once.
func (s *Syncer) noteBucket(b NamedBucket, err error) {
	s.mu.Lock()
	before, known := s.buckets[b.Name]
	s.buckets[b.Name] = err
	all := true
	for _, e := range s.buckets {
		all = all && e == nil
	}
	s.mu.Unlock()
	if all {
		s.metrics.lastSuccess.Set(float64(s.now().Unix()))
	}
	if err != nil {
		s.metrics.fail(reasonOf(err))
	}
	switch {
	case err != nil && (!known || before == nil):
		s.log.Error("a bucket cannot be read, what is served goes on", "bucket", b.Name, "reason", reasonOf(err), "err", err)
	case err == nil && before != nil:
		s.log.Info("a bucket can be read again", "bucket", b.Name)
	}
}

// lookAtBucket learns the manifests of one bucket: of all models, or of those that this node wants.
func (s *Syncer) lookAtBucket(ctx context.Context, b NamedBucket, own, all bool) (settled bool, err error) {
	prefixes := []string{modelsPrefix}
	if !all {
		prefixes = nil
		for _, name := range s.wantedNames() {
			if own && s.chosen(name, plainKind) == s.cfg.Node {
				prefixes = append(prefixes, modelPrefix(name))
			} else {
				prefixes = append(prefixes, versionsPrefix(name))
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var manifests []bucket.Object
	held := map[string]bool{}
	plain := map[string][]bucket.Object{}
	for _, prefix := range prefixes {
		err := list(ctx, b, prefix, func(o bucket.Object) {
			held[o.Key] = true
			name, rest, ok := splitKey(o.Key)
			_, _, _, merr := parseManifestKey(o.Key)
			switch {
			case !ok:
			case merr == nil && o.Size <= maxManifest:
				manifests = append(manifests, o)
			case own && s.wanted(name) && isPlain(rest):
				plain[name] = append(plain[name], o)
			}
		})
		if err != nil {
			return true, err
		}
	}
	if own && all {
		s.holdOnly(held)
	}
	err = s.readManifests(ctx, b, manifests)
	settled = true
	if own {
		for name, objects := range plain {
			settled = s.lookAtPlain(b, name, objects) && settled
		}
	}
	return settled, err
}

// list calls f for all objects with a prefix. It ends when nothing comes for a while.
func list(ctx context.Context, b bucket.Bucket, prefix string, f func(bucket.Object)) error {
	ctx, dog := watch(ctx, listStall)
	defer dog.stop()
	for o, err := range b.List(ctx, prefix) {
		if err != nil {
			return dog.explain(err)
		}
		dog.alive()
		f(o)
	}
	return nil
}

// readManifests reads those that are new, the last first. One that cannot be read does not keep the others.
func (s *Syncer) readManifests(ctx context.Context, b NamedBucket, objects []bucket.Object) error {
	type fresh struct {
		bucket.Object
		name, id string
		clock    Clock
	}
	var list []fresh
	for _, o := range objects {
		name, clock, id, _ := parseManifestKey(o.Key)
		m := Manifest{Clock: clock, Node: id}
		if !s.catalog.has(name, m.ID()) && !s.isRefusedObject(b.Name, o) {
			list = append(list, fresh{Object: o, name: name, id: m.ID(), clock: clock})
		}
	}
	if len(list) == 0 {
		return nil
	}
	slices.SortStableFunc(list, func(x, y fresh) int { return cmp.Compare(y.clock, x.clock) })
	var mu gosync.Mutex
	var learned []string
	var errs []error
	err := forEach(ctx, s.cfg.Parallel, list, func(ctx context.Context, o fresh) error {
		raw, err := s.readManifest(ctx, b, o.Key)
		took := err == nil && s.take(o.name, o.id, raw)
		if err == nil && !took {
			s.noteObject(b.Name, o.Object, o.name, o.id, raw)
		}
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", o.Key, err))
		}
		if took && !slices.Contains(learned, o.name) {
			learned = append(learned, o.name)
		}
		return nil
	})
	s.learned(learned)
	if len(errs) > maxTold {
		errs = append(errs[:maxTold], fmt.Errorf("and %d more", len(errs)-maxTold))
	}
	return errors.Join(append(errs, err)...)
}

// maxTold is how many of many errors are told.
const maxTold = 3

func (s *Syncer) readManifest(ctx context.Context, b bucket.Bucket, key string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return getAll(ctx, b, key, maxManifest)
}
