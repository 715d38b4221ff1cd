package sync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
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

// lacking is what the own bucket is not known to have.
type lacking struct {
	record *record
	blobs  []string // SHA-256
}

// lack lists it for the versions that this node is chosen for. Blobs that no live version names are not copied.
func (s *Syncer) lack() (out []lacking, objects int) {
	for _, name := range s.catalog.names() {
		records := s.catalog.records(name)
		for _, r := range records {
			if s.isHeld(ManifestKey(r.Manifest)) || r.Node == plainNode && r.Region == s.cfg.Region {
				continue
			}
			key := r.Digest
			if r.Kind == KindDelete {
				key = r.ID()
			}
			if s.chosen(name, key) != s.cfg.Node {
				continue
			}
			l := lacking{record: r}
			if r.Kind != KindDelete && !isVoid(records, r.Manifest) {
				for sha := range shas(r) {
					if !s.isHeld(BlobKey(name, sha)) {
						l.blobs = append(l.blobs, sha)
					}
				}
			}
			out = append(out, l)
			objects += 1 + len(l.blobs)
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
	for o, err := range s.own.List(ctx, modelPrefix(name)) {
		if err != nil {
			return err
		}
		s.hold(o.Key)
	}
	return nil
}

func (s *Syncer) copyVersion(ctx context.Context, l lacking) error {
	sizes := shas(l.record)
	for _, sha := range l.blobs {
		if err := s.copyBlob(ctx, l.record, sha, sizes[sha]); err != nil {
			return err
		}
	}
	r := l.record
	if err := put(ctx, s.own, ManifestKey(r.Manifest), bytes.NewReader(r.raw), int64(len(r.raw)), nil); err != nil {
		return err
	}
	s.hold(ManifestKey(r.Manifest))
	s.log.Info("version copied into the bucket of this region", "bucket", s.own.Name, "model", r.Name, "manifest", r.ID(), "blobs", len(l.blobs))
	return nil
}

// copyBlob gets a blob from wherever it is and puts it into the own bucket.
func (s *Syncer) copyBlob(ctx context.Context, r *record, sha string, size int64) error {
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
	if !had && !s.wanted(r.Name) {
		return os.Remove(filepath.Join(s.incoming, sha))
	}
	return nil
}
