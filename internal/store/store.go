// Package store keeps this node's own copies of model directories. They are the only place that models are
// mapped into memory from: a file that somebody overwrites while it is mapped kills the process with SIGBUS,
// and nobody but the store writes here.
//
//	<dir>/.lock                              held by the one daemon that owns the store; its pid inside
//	<dir>/.tmp-*                             an import or a removal that is not finished
//	<dir>/<name>/source.json                 what the last imported source looked like
//	<dir>/<name>/<digest>/...                the files of the model, 0444
//	<dir>/<name>/<digest>/akidb-manifest.json their sizes and hashes
//
// An entry appears by one rename, whole and synced to the disk, or not at all. The digest names the content:
// it is "sha256-" and the hex SHA-256 over one line "path size sha256\n" per file, sorted by path. Which files
// count is decided by served, so that two nodes with the same model agree. Others may add files whose names
// start with "akidb-" to an entry, such as an ONNX graph that was built for it.
//
// The package is for Linux.
package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/akidb/akidbd/internal/atomicfile"
	"github.com/akidb/akidbd/internal/embedding"
)

// ownPrefix starts the names of files that akidb adds to an entry; a file of a source that is called so is not
// imported.
const ownPrefix = "akidb-"

const (
	lockName   = ".lock"
	tempPrefix = ".tmp-"
	sourceName = "source.json"
)

var (
	nameForm   = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$`)
	digestForm = regexp.MustCompile(`^sha256-[0-9a-f]{64}$`)
)

// Entry is one model in the store.
type Entry struct {
	Model embedding.Model // Precision is "": the files do not say what they are computed in
	Dir   string          // absolute
	Bytes int64           // size of its files, without those that others added
}

// Store is the opened store of one daemon, safe for concurrent use.
type Store struct {
	dir    string
	lock   *os.File
	limits limits
	system system

	mu    sync.Mutex // held while entries appear or go
	blobs sync.Map   // blob by SHA-256, of what was asked for: other nodes ask for each file part by part
}

// system is what a test replaces.
type system struct {
	clone func(to, from *os.File) error   // make to share the blocks of from
	free  func(dir string) (int64, error) // bytes that may still be written below dir
	now   func() time.Time                // compared with the times of files
	at    func(point string) error        // called at the steps of an import, for faults
}

// Open makes dir if it is not there, takes its lock and removes what interrupted imports left. It fails when
// another process holds the lock, naming it where it can.
func Open(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("model store: %w", err)
	}
	lock, err := takeLock(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, lock: lock, limits: defaultLimits(), system: realSystem()}
	if err := s.removeLeftovers(); err != nil {
		return nil, errors.Join(fmt.Errorf("model store: %w", err), lock.Close())
	}
	return s, nil
}

func realSystem() system {
	return system{clone: clone, free: free, now: time.Now, at: func(string) error { return nil }}
}

// Close gives up the lock. Entries stay where they are.
func (s *Store) Close() error { return s.lock.Close() }

func (s *Store) removeLeftovers() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			if err := os.RemoveAll(filepath.Join(s.dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// List gives the entries, sorted by name and digest. Entries that are damaged as far as a look at their
// manifest and sizes shows are left out and told in the error, which does not make the others less good.
func (s *Store) List() ([]Entry, error) {
	names, err := subdirectories(s.dir, nameForm)
	if err != nil {
		return nil, fmt.Errorf("model store: %w", err)
	}
	var entries []Entry
	var damaged []error
	for _, name := range names {
		digests, err := subdirectories(filepath.Join(s.dir, name), digestForm)
		if err != nil {
			damaged = append(damaged, err)
			continue
		}
		for _, digest := range digests {
			e, err := s.glance(name, digest)
			if err != nil {
				damaged = append(damaged, err)
				continue
			}
			entries = append(entries, e)
		}
	}
	return entries, errors.Join(damaged...)
}

// Lookup gives the entry of one name and digest as List does. A missing one is fs.ErrNotExist.
func (s *Store) Lookup(name, digest string) (Entry, error) {
	if !nameForm.MatchString(name) || !digestForm.MatchString(digest) {
		return Entry{}, fmt.Errorf("%q@%q is no name of an entry: %w", name, digest, fs.ErrNotExist)
	}
	return s.glance(name, digest)
}

// Remove deletes an entry. Maps of its files that are still open stay good until they are closed. A missing
// entry is fs.ErrNotExist.
func (s *Store) Remove(e Entry) error {
	name, digest := e.Model.Name, e.Model.Digest
	if !nameForm.MatchString(name) || !digestForm.MatchString(digest) {
		return fmt.Errorf("%q@%q is no name of an entry: %w", name, digest, fs.ErrNotExist)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.discard(s.entryDir(name, digest)); err != nil {
		return fmt.Errorf("model %s: %w", e.Model, err)
	}
	left, err := subdirectories(s.nameDir(name), digestForm)
	if err != nil || len(left) > 0 {
		return err
	}
	if err := os.Remove(filepath.Join(s.nameDir(name), sourceName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Remove(s.nameDir(name))
}

// discard takes a directory out of sight by one rename, then deletes it.
func (s *Store) discard(dir string) error {
	temp, err := os.MkdirTemp(s.dir, tempPrefix)
	if err != nil {
		return err
	}
	if err := os.Rename(dir, filepath.Join(temp, "gone")); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if err := atomicfile.SyncDir(filepath.Dir(dir)); err != nil {
		return err
	}
	return os.RemoveAll(temp)
}

func (s *Store) nameDir(name string) string { return filepath.Join(s.dir, name) }

func (s *Store) entryDir(name, digest string) string { return filepath.Join(s.dir, name, digest) }

func subdirectories(dir string, form *regexp.Regexp) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() && form.MatchString(e.Name()) {
			out = append(out, e.Name())
		}
	}
	slices.Sort(out)
	return out, nil
}
