package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/akidb/akidbd/internal/atomicfile"
)

// Import copies the files of the model directory src that count (see served) into the store under name and
// gives the entry. Where the file system can, the copy shares src's blocks. A src that is known and looks
// unchanged is not read; one that is read and has content that is here already adds nothing. An entry of the
// same name with other content stays beside it.
//
// progress, if not nil, is called with the bytes read and the bytes there are, from the same goroutine; it is
// not called when src is not read. When ctx ends, and on any error, the store is as it was.
func (s *Store) Import(ctx context.Context, name, src string, progress func(done, total int64)) (Entry, error) {
	if !nameForm.MatchString(name) {
		return Entry{}, fmt.Errorf("model name %q, must be 1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or digit", name)
	}
	e, err := s.importDir(ctx, name, src, progress)
	if err != nil {
		return Entry{}, fmt.Errorf("model %s from %s: %w", name, src, err)
	}
	return e, nil
}

func (s *Store) importDir(ctx context.Context, name, src string, progress func(done, total int64)) (Entry, error) {
	if err := ctx.Err(); err != nil {
		return Entry{}, err
	}
	src, err := filepath.Abs(src)
	if err != nil {
		return Entry{}, err
	}
	from, err := os.OpenRoot(src)
	if err != nil {
		return Entry{}, err
	}
	defer from.Close()
	seen := s.system.now()
	files, err := scan(from, s.limits)
	if err != nil {
		return Entry{}, err
	}
	if known, ok := s.readSource(name); ok && known.Path == src && slices.Equal(known.Files, files) {
		if e, err := s.glance(name, known.Digest); err == nil {
			return e, nil
		}
	}

	temp, err := os.MkdirTemp(s.dir, tempPrefix)
	if err != nil {
		return Entry{}, err
	}
	defer os.RemoveAll(temp) // gone already after a commit; what cannot be removed now, the next Open removes
	made := filepath.Join(temp, "entry")
	m, err := s.copyTo(ctx, made, from, files, progress)
	if err != nil {
		return Entry{}, err
	}
	again, err := scan(from, s.limits)
	if err != nil || !slices.Equal(again, files) {
		return Entry{}, errors.Join(changed("the directory"), err)
	}
	return s.commit(ctx, name, source{Path: src, Digest: m.digest(), Files: files}, seen, made)
}

// copyTo makes dir and fills it with files of from and their manifest, all synced.
func (s *Store) copyTo(ctx context.Context, dir string, from *os.Root, files []print, progress func(done, total int64)) (manifest, error) {
	if err := os.Mkdir(dir, 0o750); err != nil {
		return manifest{}, err
	}
	to, err := os.OpenRoot(dir)
	if err != nil {
		return manifest{}, err
	}
	defer to.Close()
	c := &copier{store: s, from: from, to: to, dir: dir, progress: progress}
	for _, f := range files {
		c.total += f.Size
	}
	var m manifest
	for _, f := range files {
		sum, err := c.file(ctx, f)
		if err != nil {
			return manifest{}, c.explain(err)
		}
		m.Files = append(m.Files, File{Path: f.Path, Size: f.Size, SHA256: sum})
	}
	if err := c.seal(m); err != nil {
		return manifest{}, c.explain(err)
	}
	return m, nil
}

// commit makes a finished copy visible, or drops it when the same content is here already.
func (s *Store) commit(ctx context.Context, name string, src source, seen time.Time, made string) (Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := s.entryDir(name, src.Digest)
	if err := s.place(ctx, dir, src.Digest, made); err != nil {
		_ = os.Remove(s.nameDir(name)) // only works while it is empty
		return Entry{}, err
	}
	// The entry is there whether or not the next import can be quick.
	if err := s.system.at("source"); err == nil {
		_ = s.remember(name, src, seen)
	}
	return s.glance(name, src.Digest)
}

// place renames made to dir, unless dir has that content already.
func (s *Store) place(ctx context.Context, dir, digest, made string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Dir(dir), 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if _, err := os.Lstat(dir); err == nil {
		err := verifyDir(ctx, dir, digest)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if err := s.discard(dir); err != nil { // damaged: the new copy takes its place
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.system.at("rename"); err != nil {
		return err
	}
	if err := os.Rename(made, dir); err != nil {
		return err
	}
	return errors.Join(atomicfile.SyncDir(filepath.Dir(dir)), atomicfile.SyncDir(s.dir))
}
