package sync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/akidb/akidbd/internal/sync/bucket"
)

// keepCopied copies into the bucket of this region what it lacks, on the node that is chosen for a version: at once
// when one becomes known, and after each look at everything.
func (s *Syncer) keepCopied(ctx context.Context) {
	failures := 0
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.copy:
		case <-again:
		}
		again = nil
		err := s.copyMissing(ctx)
		if ctx.Err() != nil {
			return
		}
		s.tidy()
		s.setDenied(errors.Is(err, bucket.ErrDenied))
		if err == nil {
			failures = 0
			continue
		}
		s.metrics.fail(reasonOf(err))
		pause := min(jitter(time.Second<<min(failures, 9)), s.cfg.Interval)
		if failures == 0 {
			s.log.Error("the bucket of this region lacks something that cannot be copied there", "bucket", s.own.Name,
				"reason", reasonOf(err), "next_try_seconds", pause.Seconds(), "err", err)
		}
		failures++
		again = time.After(pause)
	}
}

// setDenied notes whether this node may write into the own bucket, so that another of the region copies instead.
func (s *Syncer) setDenied(denied bool) {
	s.mu.Lock()
	switch {
	case denied:
		s.denied = s.now().Add(lastQuarantine)
	case !s.now().Before(s.denied):
		s.denied = time.Time{}
	}
	s.mu.Unlock()
	s.publish()
}

// lacking is what the own bucket is not known to have.
type lacking struct {
	record   *record
	manifest bool
	blobs    []string // SHA-256
}

func (l lacking) objects() int {
	if l.manifest {
		return 1 + len(l.blobs)
	}
	return len(l.blobs)
}

// lack lists it for the versions that this node is chosen for. Blobs that no live version names are not copied.
func (s *Syncer) lack() (out []lacking, objects int) {
	for _, name := range s.catalog.names() {
		records := s.catalog.records(name)
		for _, r := range records {
			if byHand(r.Node) && r.Region == s.cfg.Region {
				continue
			}
			key := r.Digest
			if r.Kind == KindDelete {
				key = r.ID()
			}
			if s.chosenToCopy(name, key) != s.cfg.Node {
				continue
			}
			// A manifest that is there says nothing of its blobs: the service may have copied it first, or alone.
			l := lacking{record: r, manifest: !s.isHeld(ManifestKey(r.Manifest))}
			if r.Kind != KindDelete && !isVoid(records, r.Manifest) {
				for sha := range shas(r) {
					if !s.isHeld(BlobKey(name, sha)) {
						l.blobs = append(l.blobs, sha)
					}
				}
			}
			if l.objects() == 0 {
				continue
			}
			out = append(out, l)
			objects += l.objects()
		}
	}
	return out, objects
}

// shas are the hashes of the files of a version, with their sizes.
func shas(r *record) map[string]int64 {
	out := make(map[string]int64, len(r.Files))
	for _, f := range r.Files {
		out[f.SHA256] = f.Size
	}
	return out
}

func (s *Syncer) isHeld(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held[key]
}

func (s *Syncer) hold(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[key] = true
}

// copyMissing copies, for each version, the blobs and then the manifest. One that fails does not keep the others.
func (s *Syncer) copyMissing(ctx context.Context) error {
	s.forgetHeld()
	list, objects := s.lack()
	if objects == 0 {
		s.setBacklog(0)
		return nil
	}
	looked := map[string]bool{}
	for _, l := range list {
		if name := l.record.Name; !looked[name] {
			looked[name] = true
			if err := s.lookWhatIsHeld(ctx, name); err != nil {
				s.setBacklog(objects)
				return err
			}
		}
	}
	list, objects = s.lack()
	s.setBacklog(objects)
	var errs []error
	for _, l := range list {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := s.copyVersion(ctx, l); err != nil {
			errs = append(errs, fmt.Errorf("version %s of %s: %w", l.record.ID(), l.record.Name, err))
		}
	}
	_, objects = s.lack()
	s.setBacklog(objects)
	return errors.Join(errs...)
}

func (s *Syncer) setBacklog(n int) {
	s.mu.Lock()
	s.backlog = n
	s.mu.Unlock()
	s.metrics.backlog.Set(float64(n))
}

func (s *Syncer) lookWhatIsHeld(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	keys := map[string]bool{}
	if err := list(ctx, s.own, modelPrefix(name), func(o bucket.Object) { keys[o.Key] = true }); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropHeld(name)
	maps.Copy(s.held, keys)
	s.heldAt[name] = s.now()
	return nil
}

// holdOnly notes all that the own bucket has.
func (s *Syncer) holdOnly(keys map[string]bool) {
	names := s.catalog.names()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = keys
	clear(s.heldAt)
	for _, name := range names {
		s.heldAt[name] = s.now()
	}
}

// forgetHeld forgets what was seen so long ago that somebody may have removed it since.
func (s *Syncer) forgetHeld() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, at := range s.heldAt {
		if s.now().Sub(at) >= s.cfg.Interval {
			s.dropHeld(name)
		}
	}
}

// dropHeld is called with mu held.
func (s *Syncer) dropHeld(name string) {
	delete(s.heldAt, name)
	maps.DeleteFunc(s.held, func(key string, _ bool) bool { return strings.HasPrefix(key, modelPrefix(name)) })
}

func (s *Syncer) copyVersion(ctx context.Context, l lacking) error {
	sizes := shas(l.record)
	for _, sha := range l.blobs {
		if err := s.copyBlob(ctx, l.record, sha, sizes[sha]); err != nil {
			return err
		}
	}
	r := l.record
	if !l.manifest {
		s.log.Info("files that the bucket of this region lacked are copied", "bucket", s.own.Name, "model", r.Name, "manifest", r.ID(), "blobs", len(l.blobs))
		return nil
	}
	if err := put(ctx, s.own, ManifestKey(r.Manifest), bytes.NewReader(r.raw), int64(len(r.raw)), nil); err != nil {
		return err
	}
	s.hold(ManifestKey(r.Manifest))
	s.log.Info("version copied into the bucket of this region", "bucket", s.own.Name, "model", r.Name, "manifest", r.ID(), "blobs", len(l.blobs))
	return nil
}

// copyBlob gets a blob from wherever it is and puts it into the own bucket.
func (s *Syncer) copyBlob(ctx context.Context, r *record, sha string, size int64) error {
	s.inUse.RLock()
	defer s.inUse.RUnlock()
	_, had := s.local(ctx, sha, size)
	place, err := s.fetchBlob(ctx, r, sha, size, func(int64) {})
	if err != nil {
		return err
	}
	f, err := os.Open(place)
	if errors.Is(err, fs.ErrNotExist) { // it went into the store meanwhile
		if place, _, ok := s.store.Blob(sha); ok {
			f, err = os.Open(place)
		}
	}
	if err != nil {
		return err
	}
	err = put(ctx, s.own, BlobKey(r.Name, sha), f, size, nil)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	s.hold(BlobKey(r.Name, sha))
	s.metrics.copied.Add(float64(size))
	if had || s.awaited()[sha] {
		return nil
	}
	if err := os.Remove(filepath.Join(s.incoming, sha)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
