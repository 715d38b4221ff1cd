package sync

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/akidb/akidbd/internal/node"
	"github.com/akidb/akidbd/internal/store"
	"github.com/akidb/akidbd/internal/sync/bucket"
)

// plainNode begins the name of who says what was found in the plain layout: files that somebody copied to
// models/<name>/ by hand. What follows tells the region and the files, whose youngest time two of them may share.
const plainNode = "plain"

const plainDigits = 12

// byHand says whether a manifest was made of a plain layout.
func byHand(id node.ID) bool {
	rest, ok := strings.CutPrefix(string(id), plainNode)
	return ok && (rest == "" || rest[0] == '-' && len(rest) == 1+plainDigits)
}

// plainKind is the key by which the node of a region is chosen that looks at the plain layout of a model.
const plainKind = "plain"

// isPlain says whether the rest of a key below models/<name>/ is a file of the plain layout.
func isPlain(rest string) bool {
	return !strings.HasPrefix(rest, blobsPart) && !strings.HasPrefix(rest, versionsPart) && store.ServedPath(rest)
}

// plainKey is where the file with that hash lies.
func plainKey(m *Manifest, sha string) string {
	for _, f := range m.Files {
		if f.SHA256 == sha {
			return modelPrefix(m.Name) + f.Path
		}
	}
	return BlobKey(m.Name, sha)
}

// plainJob is a plain layout to read.
type plainJob struct {
	bucket  NamedBucket
	name    string
	objects []bucket.Object // sorted by path
	look    string          // fingerprint
}

// lookAtPlain has a plain layout read that looks as it did at the look before: there is no telling whether a copy by
// hand is finished. Only the node that is chosen for it reads the files; the others learn from it.
func (s *Syncer) lookAtPlain(b NamedBucket, name string, objects []bucket.Object) (settled bool) {
	if s.chosen(name, plainKind) != s.cfg.Node {
		return true
	}
	objects = servedObjects(name, objects)
	if len(objects) == 0 {
		return true
	}
	look := fingerprint(objects)
	same := s.settledPlain(name, look)
	if s.knowsPlain(name, look) {
		return true
	}
	if !same {
		return false
	}
	s.mu.Lock()
	s.toHash[name] = plainJob{bucket: b, name: name, objects: objects, look: look}
	s.mu.Unlock()
	poke(s.hash)
	return true
}

// knowsPlain says whether a plain layout was read already: it is the last that was taken, or is no model.
func (s *Syncer) knowsPlain(name, look string) bool {
	if last := s.lastPlain(name); last != nil && last.Note == plainNote(look) {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.badHash[name] == look
}

func (s *Syncer) lastPlain(name string) *record {
	for _, r := range slices.Backward(s.catalog.records(name)) {
		if byHand(r.Node) && r.Region == s.cfg.Region {
			return r
		}
	}
	return nil
}

// hashPlainLayouts reads plain layouts one after the other: it takes long, and nothing else waits for it.
func (s *Syncer) hashPlainLayouts(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.hash:
		}
		for {
			job, ok := s.nextPlain()
			if !ok || ctx.Err() != nil {
				break
			}
			if err := s.takePlain(ctx, job); err != nil && ctx.Err() == nil {
				s.metrics.fail(reasonOf(err))
				s.log.Error("a model that was copied by hand is not taken", "model", job.name, "bucket", job.bucket.Name, "reason", reasonOf(err), "err", err)
			}
			s.tidy()
		}
	}
}

func (s *Syncer) nextPlain() (plainJob, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, job := range s.toHash {
		delete(s.toHash, name)
		return job, true
	}
	return plainJob{}, false
}

// takePlain makes a manifest of a plain layout. Its clock is the time that the youngest file has in the bucket, or just
// after the plain layout before it, which may have had a file more.
func (s *Syncer) takePlain(ctx context.Context, job plainJob) error {
	s.inUse.RLock()
	defer s.inUse.RUnlock()
	if s.knowsPlain(job.name, job.look) {
		return nil
	}
	youngest := slices.MaxFunc(job.objects, func(a, b bucket.Object) int { return a.Modified.Compare(b.Modified) }).Modified
	m := plainManifest(job.name, s.cfg.Region, job.look, youngest)
	if last := s.lastPlain(job.name); last != nil {
		m.Clock = max(m.Clock, last.Clock+1)
	}
	err := s.cfg.Keys.Verify(m)
	if err == nil {
		err = store.CheckFiles(unread(job))
	}
	if err != nil {
		s.badPlain(job)
		return err
	}
	for _, o := range job.objects {
		f, err := s.hashObject(ctx, job.bucket, job.name, o)
		if errors.Is(err, bucket.ErrChanged) {
			return nil // the copy goes on: the next look sees other objects
		}
		if err != nil {
			return err
		}
		m.Files = append(m.Files, f)
	}
	m.Digest = store.Digest(m.Files)
	raw, err := m.Encode()
	if err != nil {
		s.badPlain(job)
		return err
	}
	if s.take(job.name, m.ID(), raw) {
		s.log.Info("a model that was copied by hand is taken: akidbd model push is safer", "model", job.name, "digest", m.Digest, "bucket", job.bucket.Name)
		s.learned([]string{job.name})
		return nil
	}
	s.badPlain(job) // that it is refused, and why, is told; one that is ahead waits for its time
	return nil
}

// badPlain remembers a plain layout that need not be read again while it looks like this.
func (s *Syncer) badPlain(job plainJob) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.badHash[job.name] = job.look
}

// unread are the files of a plain layout without their hashes, for a check of everything else before they are read.
func unread(job plainJob) []store.File {
	out := make([]store.File, len(job.objects))
	for i, o := range job.objects {
		out[i] = store.File{Path: strings.TrimPrefix(o.Key, modelPrefix(job.name)), Size: o.Size, SHA256: strings.Repeat("0", 2*sha256.Size)}
	}
	return out
}

// plainLook is what a plain layout looked like, and since when.
type plainLook struct {
	look  string
	since time.Time
}

// plainPause is how long a plain layout must look the same at least: two looks may be a moment apart.
const plainPause = 10 * time.Second

// settledPlain notes a look and says whether it is as it was.
func (s *Syncer) settledPlain(name, look string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.plain[name]
	if was.look != look {
		s.plain[name] = plainLook{look: look, since: s.now()}
		return false
	}
	return s.now().Sub(was.since) >= plainPause
}

func plainManifest(name, region, look string, at time.Time) *Manifest {
	id := node.ID(plainNode + "-" + sum([]byte(region + " " + look))[:plainDigits])
	return &Manifest{Format: format, Kind: KindPublish, Name: name, Clock: max(1, ClockAt(at)), Node: id, Region: region, Note: plainNote(look)}
}

func plainNote(fingerprint string) string { return "copied by hand, " + fingerprint }

// servedObjects are the objects that an import of the same files would take, sorted by path.
func servedObjects(name string, objects []bucket.Object) []bucket.Object {
	byPath := map[string]bucket.Object{}
	for _, o := range objects {
		byPath[strings.TrimPrefix(o.Key, modelPrefix(name))] = o
	}
	paths := store.ServedPaths(slices.Sorted(maps.Keys(byPath)))
	out := make([]bucket.Object, 0, len(paths))
	for _, p := range paths {
		out = append(out, byPath[p])
	}
	return out
}

// fingerprint changes when any of the objects does.
func fingerprint(objects []bucket.Object) string {
	h := sha256.New()
	for _, o := range objects {
		fmt.Fprintf(h, "%q %d %q\n", o.Key, o.Size, o.ETag)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// hashObject reads an object into incoming, where a fetch will find it under its hash.
func (s *Syncer) hashObject(ctx context.Context, b NamedBucket, name string, o bucket.Object) (f store.File, err error) {
	if room, err := s.room(); err != nil || room < o.Size {
		return f, errors.Join(err, fmt.Errorf("%w for %d bytes of %s, %d are free", errNoRoom, o.Size, o.Key, room))
	}
	ctx, dog := watch(ctx, stallLimit)
	defer dog.stop()
	body, err := b.Get(ctx, o.Key, 0, -1, o.ETag)
	if err != nil {
		return f, dog.explain(err)
	}
	defer body.Close()
	temp, err := os.CreateTemp(s.incoming, ".plain-*")
	if err != nil {
		return f, err
	}
	defer os.Remove(temp.Name())
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(temp, h), io.LimitReader(&watchedReader{body, dog}, o.Size+1))
	err = dog.explain(err)
	if err == nil && n != o.Size {
		err = fmt.Errorf("%s has %d bytes, %d were listed: %w", o.Key, n, o.Size, bucket.ErrChanged)
	}
	if err = errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return f, err
	}
	s.metrics.received(SourceS3, int(n))
	f = store.File{Path: strings.TrimPrefix(o.Key, modelPrefix(name)), Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}
	return f, os.Rename(temp.Name(), filepath.Join(s.incoming, f.SHA256))
}
