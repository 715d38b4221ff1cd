package sync

import (
	"errors"
	"time"

	"github.com/akidb/akidbd/internal/sync/bucket"
)

// Bounds of what is remembered of manifests that are not taken. One that is forgotten is read and refused again.
const (
	maxRefused = 1000
	maxDue     = 16 << 20 // bytes of those that wait for their time
)

// refused names a manifest that is not taken by what it says, not by its place alone: another one may lie there later.
type refused struct{ name, id, sha string }

// refusal is why a manifest is not taken.
type refusal struct {
	reason Reason
	text   string
	raw    []byte // of one that is ahead: it is taken when its time has come
	due    time.Time
}

// place is an object of a bucket as it was listed.
type place struct{ bucket, key, etag string }

// take adds a manifest to the catalog and says whether it is new. One that is refused is told once.
func (s *Syncer) take(name, id string, raw []byte) bool {
	_, fresh, err := s.add(raw, name, id)
	if err == nil {
		s.mu.Lock()
		delete(s.refused, refused{name, id, sum(raw)})
		s.mu.Unlock()
		return fresh
	}
	s.refuse(name, id, raw, err)
	return false
}

// add is the catalog's. A manifest that is taken but cannot be kept is told here, and is no error.
func (s *Syncer) add(raw []byte, name, id string) (r *record, fresh bool, err error) {
	r, fresh, err = s.catalog.add(raw, name, id)
	if errors.Is(err, errKeep) {
		s.metrics.fail(ReasonDisk)
		s.log.Error("a manifest is taken, but a start would forget it", "model", name, "manifest", id, "err", err)
		err = nil
	}
	return r, fresh, err
}

// refuse remembers why a manifest is not taken, and tells it once.
func (s *Syncer) refuse(name, id string, raw []byte, err error) {
	key := refused{name, id, sum(raw)}
	r := refusal{reason: reasonOf(err), text: err.Error()}
	if r.reason == ReasonUnavailable {
		r.reason = ReasonManifest
	}
	s.mu.Lock()
	_, told := s.refused[key]
	if clock, cerr := ParseClock(id[:min(len(id), clockDigits)]); cerr == nil && r.reason == ReasonClock && s.dueBytes()+len(raw) <= maxDue {
		r.raw, r.due = raw, clock.Time().Add(time.Millisecond-MaxAhead)
	}
	if !told && len(s.refused) >= maxRefused {
		for old := range s.refused { // any
			delete(s.refused, old)
			break
		}
	}
	s.refused[key] = r
	s.mu.Unlock()
	if !told {
		s.metrics.fail(r.reason)
		s.log.Error("a manifest is refused", "model", name, "manifest", id, "reason", r.reason, "err", err)
	}
}

// dueBytes counts what waits for its time. mu is held.
func (s *Syncer) dueBytes() (n int) {
	for _, r := range s.refused {
		n += len(r.raw)
	}
	return n
}

// isRefused says whether a manifest need not be read again: it was refused for something that time does not change, or
// it is here and waits for its time.
func (s *Syncer) isRefused(name, id, sha string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.refused[refused{name, id, sha}]
	return ok && (r.reason != ReasonClock || r.raw != nil)
}

// noteObject remembers what an object held that was not taken.
func (s *Syncer) noteObject(bucketName string, o bucket.Object, name, id string, raw []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.objects) >= maxRefused {
		clear(s.objects)
	}
	s.objects[place{bucketName, o.Key, o.ETag}] = refused{name, id, sum(raw)}
}

func (s *Syncer) isRefusedObject(bucketName string, o bucket.Object) bool {
	s.mu.Lock()
	key, ok := s.objects[place{bucketName, o.Key, o.ETag}]
	s.mu.Unlock()
	return ok && s.isRefused(key.name, key.id, key.sha)
}

// takeDue takes the manifests whose time has come, and says when to come again.
func (s *Syncer) takeDue() time.Duration {
	now, next := s.now(), jitter(s.cfg.Interval)
	due := map[refused][]byte{}
	s.mu.Lock()
	for key, r := range s.refused {
		switch wait := r.due.Sub(now); {
		case r.raw == nil:
		case wait > 0:
			next = min(next, wait)
		default:
			due[key] = r.raw
			delete(s.refused, key)
		}
	}
	s.mu.Unlock()
	var names []string
	for key, raw := range due {
		if s.take(key.name, key.id, raw) {
			names = append(names, key.name)
		}
	}
	s.learned(names)
	return next
}

// judge drops what was taken while the wall clock was not set and turns out to be too far ahead.
func (s *Syncer) judge() {
	ahead, why, err := s.catalog.judge()
	if err != nil {
		s.log.Warn("a manifest that this node kept cannot be renamed", "err", err)
	}
	var names []string
	for i, r := range ahead {
		s.refuse(r.Name, r.ID(), r.raw, why[i])
		names = append(names, r.Name)
	}
	s.learned(names)
}
