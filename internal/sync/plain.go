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

// plainNode is who says what was found in the plain layout: files that somebody copied to models/<name>/ by hand.
const plainNode node.ID = "plain"

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

// lookAtPlain makes a manifest of a plain layout that looks as it did at the look before: there is no telling whether
// a copy by hand is finished. Its clock is the time that the youngest file has in the bucket, so every node that looks
// at the same files says the same. Only the node that is chosen for it reads the files; the others learn from it.
func (s *Syncer) lookAtPlain(ctx context.Context, b NamedBucket, name string, objects []bucket.Object) (settled bool, err error) {
	if s.chosen(name, plainKind) != s.cfg.Node {
		return true, nil
	}
	objects = servedObjects(name, objects)
	if len(objects) == 0 {
		return true, nil
	}
	look := fingerprint(objects)
	same := s.settledPlain(name, look)
	youngest := slices.MaxFunc(objects, func(a, b bucket.Object) int { return a.Modified.Compare(b.Modified) }).Modified
	known := s.catalog.records(name)
	if slices.ContainsFunc(known, func(r *record) bool {
		return r.Node == plainNode && r.Region == s.cfg.Region && r.Note == plainNote(look)
	}) || s.isRefused(name, plainManifest(name, s.cfg.Region, youngest).ID()) {
		return true, nil
	}
	if !same {
		return false, nil
	}
	m := plainManifest(name, s.cfg.Region, youngest)
	m.Note = plainNote(look)
	for _, o := range objects {
		f, err := s.hashObject(ctx, b, name, o)
		if errors.Is(err, bucket.ErrChanged) {
			return false, nil
		}
		if err != nil {
			return true, fmt.Errorf("plain layout of %s: %w", name, err)
		}
		m.Files = append(m.Files, f)
	}
	m.Digest = store.Digest(m.Files)
	raw, err := m.Encode()
	if err != nil {
		return true, fmt.Errorf("plain layout of %s: %w", name, err)
	}
	if s.take(name, m.ID(), raw) {
		s.log.Info("a model that was copied by hand is taken: akidbd model push is safer", "model", name, "digest", m.Digest, "bucket", b.Name)
		s.learned([]string{name})
	}
	return true, nil
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

func plainManifest(name, region string, at time.Time) *Manifest {
	return &Manifest{Format: format, Kind: KindPublish, Name: name, Clock: max(1, ClockAt(at)), Node: plainNode, Region: region}
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
	body, err := b.Get(ctx, o.Key, 0, -1, o.ETag)
	if err != nil {
		return f, err
	}
	defer body.Close()
	temp, err := os.CreateTemp(s.incoming, ".plain-*")
	if err != nil {
		return f, err
	}
	defer os.Remove(temp.Name())
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(temp, h), io.LimitReader(body, o.Size+1))
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
