package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// incomingName is the directory for files that are on their way in. It is on the store's file system, survives a
// restart, and the store only reads it.
const incomingName = ".incoming"

// Incoming is the directory where files for Add are collected, 0750. Whoever fills it also cleans it.
func (s *Store) Incoming() (string, error) {
	dir := filepath.Join(s.dir, incomingName)
	if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("model store: %w", err)
	}
	return dir, nil
}

// Room says how many bytes may still be written to the store's file system, less what an import leaves free.
func (s *Store) Room() (int64, error) {
	free, err := s.system.free(s.dir)
	return max(0, free-spare), err
}

// Add makes an entry of files that are on this file system already: open gives the place of each. They are linked,
// not copied, so nobody may write to them any more, and what they hold has been compared with their hashes: Add only
// looks at their sizes. An entry that is there already, whole, is given as it is.
func (s *Store) Add(ctx context.Context, name string, files []File, open func(File) string) (Entry, error) {
	if !nameForm.MatchString(name) {
		return Entry{}, fmt.Errorf("%q is no name of a model", name)
	}
	if err := CheckFiles(files); err != nil {
		return Entry{}, fmt.Errorf("model %s: %w", name, err)
	}
	m := manifest{Files: files}
	if e, err := s.glance(name, m.digest()); err == nil {
		return e, nil
	}
	temp, err := os.MkdirTemp(s.dir, tempPrefix)
	if err != nil {
		return Entry{}, err
	}
	defer os.RemoveAll(temp)
	made := filepath.Join(temp, "entry")
	if err := s.linkAll(made, m, open); err != nil {
		return Entry{}, fmt.Errorf("model %s: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.entryDir(name, m.digest())
	if err := s.place(ctx, dir, m.digest(), made); err != nil {
		_ = os.Remove(s.nameDir(name)) // only works while it is empty
		return Entry{}, fmt.Errorf("model %s: %w", name, err)
	}
	return s.glance(name, m.digest())
}

// linkAll makes dir and fills it with the files of m and the manifest, all synced.
func (s *Store) linkAll(dir string, m manifest, open func(File) string) error {
	if err := os.Mkdir(dir, 0o750); err != nil {
		return err
	}
	to, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer to.Close()
	c := &copier{store: s, to: to, dir: dir}
	for _, f := range m.Files {
		if err := c.makeDirs(path.Dir(f.Path)); err != nil {
			return err
		}
		if err := s.system.at("link"); err != nil {
			return err
		}
		if err := link(open(f), filepath.Join(dir, filepath.FromSlash(f.Path)), f); err != nil {
			return err
		}
	}
	return c.seal(m)
}

func link(from, to string, want File) error {
	f, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular() || info.Size() != want.Size:
		err = fmt.Errorf("%s is %s of %d bytes, must be a file of %d", from, describe(info.Mode()), info.Size(), want.Size)
	default:
		if err = f.Chmod(0o444); err == nil {
			err = f.Sync()
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Link(from, to)
}

// Blob gives the place of a file with that SHA-256 in some entry. Its size is right; what it holds has been right.
func (s *Store) Blob(sha string) (name string, size int64, ok bool) {
	if !hashForm.MatchString(sha) {
		return "", 0, false
	}
	// The digest in a place tells what lies there, so one that was found stays right for as long as the file is there.
	if known, ok := s.blobs.Load(sha); ok {
		if b, isBlob := known.(blob); isBlob && b.there() {
			return b.place, b.size, true
		}
		s.blobs.Delete(sha)
	}
	names, err := subdirectories(s.dir, nameForm)
	if err != nil {
		return "", 0, false
	}
	for _, n := range names {
		digests, err := subdirectories(filepath.Join(s.dir, n), digestForm)
		if err != nil {
			continue
		}
		for _, d := range digests {
			if b, ok := s.blobOf(n, d, sha); ok {
				s.blobs.Store(sha, b)
				return b.place, b.size, true
			}
		}
	}
	return "", 0, false
}

// blob is a file of an entry.
type blob struct {
	place string
	size  int64
}

func (b blob) there() bool {
	info, err := os.Lstat(b.place)
	return err == nil && info.Mode().IsRegular() && info.Size() == b.size
}

// blobOf finds a file in one entry by its SHA-256.
func (s *Store) blobOf(name, digest, sha string) (blob, bool) {
	for _, f := range s.files(name, digest) {
		if f.SHA256 != sha {
			continue
		}
		if b := (blob{filepath.Join(s.entryDir(name, digest), filepath.FromSlash(f.Path)), f.Size}); b.there() {
			return b, true
		}
	}
	return blob{}, false
}

// Files lists the files of an entry, nil when it is damaged or not there.
func (s *Store) Files(e Entry) []File {
	if !nameForm.MatchString(e.Model.Name) || !digestForm.MatchString(e.Model.Digest) {
		return nil
	}
	return s.files(e.Model.Name, e.Model.Digest)
}

func (s *Store) files(name, digest string) []File {
	root, err := os.OpenRoot(s.entryDir(name, digest))
	if err != nil {
		return nil
	}
	defer root.Close()
	m, err := readManifest(root, digest)
	if err != nil {
		return nil
	}
	return m.Files
}
