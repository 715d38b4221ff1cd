package store

import (
	"cmp"
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
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/akidb/akidbd/internal/embedding"
)

const manifestName = ownPrefix + "manifest.json"

// maxManifest bounds a manifest or a source record: a thousand files with paths of 512 bytes fit.
const maxManifest = 2 << 20

var hashForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// manifest says what an entry holds.
type manifest struct {
	Files []File `json:"files"` // sorted by path
}

// digest names the content of m.
func (m manifest) digest() string {
	files := slices.SortedFunc(slices.Values(m.Files), func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%s %d %s\n", f.Path, f.Size, f.SHA256)
	}
	return "sha256-" + hex.EncodeToString(h.Sum(nil))
}

func (m manifest) bytes() int64 {
	var n int64
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

func parseManifest(data []byte) (manifest, error) {
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return manifest{}, err
	}
	if err := checkFiles(m.Files); err != nil {
		return manifest{}, err
	}
	return m, nil
}

// ErrDamaged is of an entry that is not what its digest says. An entry that cannot be read at the moment is not: the
// process may have too many open files, or the disk answers at the next try.
var ErrDamaged = errors.New("damaged")

// damage makes err one of a damaged entry, unless it only says that something could not be read.
func damage(err error) error {
	if code, ok := errors.AsType[unix.Errno](err); ok && code != unix.ENOENT && code != unix.ENOTDIR && code != unix.ELOOP && code != unix.EISDIR {
		return err
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

// checkFiles says which of files cannot be.
func checkFiles(files []File) error {
	seen := make(map[string]bool, len(files))
	var total int64
	for _, f := range files {
		switch {
		case !goodPath(f.Path) || seen[f.Path]:
			return fmt.Errorf("%q is no path or there twice", f.Path)
		case f.Size < 0 || total+f.Size < total:
			return fmt.Errorf("%q has the impossible size %d", f.Path, f.Size)
		case !hashForm.MatchString(f.SHA256):
			return fmt.Errorf("%q has no SHA-256 but %q", f.Path, f.SHA256)
		}
		seen[f.Path] = true
		total += f.Size
	}
	return nil
}

// readManifest reads the manifest of an entry directory and checks that it is the one its name promises.
func readManifest(root *os.Root, digest string) (manifest, error) {
	data, err := readLimited(root, manifestName)
	if err != nil {
		return manifest{}, err
	}
	m, err := parseManifest(data)
	if err != nil {
		return manifest{}, fmt.Errorf("%s: %w", manifestName, err)
	}
	if got := m.digest(); got != digest {
		return manifest{}, fmt.Errorf("%s is of %s", manifestName, got)
	}
	return m, nil
}

func readLimited(root *os.Root, name string) ([]byte, error) {
	f, err := openRegular(root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxManifest {
		return nil, fmt.Errorf("%s is over %d bytes", name, maxManifest)
	}
	return data, nil
}

// openRegular opens a file for reading, and nothing else: not a pipe, on which open itself would wait.
func openRegular(root *os.Root, name string) (*os.File, error) {
	f, err := root.OpenFile(filepath.FromSlash(name), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file (%s)", name, info.Mode().Type())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// glance checks what can be checked without reading the files: the manifest, and that every file is there,
// regular and of its size.
func (s *Store) glance(name, digest string) (Entry, error) {
	model := embedding.Model{Name: name, Digest: digest}
	dir := s.entryDir(name, digest)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Entry{}, fmt.Errorf("model %s: %w", model, err)
	}
	defer root.Close()
	m, err := readManifest(root, digest)
	if err != nil {
		return Entry{}, fmt.Errorf("model %s in %s is %w", model, dir, damage(err))
	}
	for _, f := range m.Files {
		info, err := root.Lstat(filepath.FromSlash(f.Path))
		switch {
		case err != nil:
			return Entry{}, fmt.Errorf("model %s in %s is %w", model, dir, damage(err))
		case !info.Mode().IsRegular() || info.Size() != f.Size:
			return Entry{}, fmt.Errorf("model %s in %s is %w: %s is %s of %d bytes, must be a file of %d",
				model, dir, ErrDamaged, f.Path, describe(info.Mode()), info.Size(), f.Size)
		}
	}
	return Entry{Model: model, Dir: dir, Bytes: m.bytes()}, nil
}

func describe(mode fs.FileMode) string {
	if mode.IsRegular() {
		return "a file"
	}
	return "something else (" + mode.Type().String() + ")"
}

// Verify reads every file of an entry again and compares it with the digest. Files that akidb added are
// allowed; anything else that is missing, different or too much is an error that names the file.
func (s *Store) Verify(ctx context.Context, e Entry) error {
	if _, err := s.Lookup(e.Model.Name, e.Model.Digest); err != nil {
		return err
	}
	if err := verifyDir(ctx, s.entryDir(e.Model.Name, e.Model.Digest), e.Model.Digest); err != nil {
		return fmt.Errorf("model %s in %s: %w", e.Model, e.Dir, err)
	}
	return nil
}

func verifyDir(ctx context.Context, dir, digest string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	m, err := readManifest(root, digest)
	if err != nil {
		return damage(err)
	}
	listed := make(map[string]bool, len(m.Files))
	for _, f := range m.Files {
		listed[f.Path] = true
		if err := verifyFile(ctx, root, f); err != nil {
			return err
		}
	}
	return fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || listed[path] || strings.HasPrefix(entry.Name(), ownPrefix) {
			return err
		}
		return fmt.Errorf("%w: %s does not belong here", ErrDamaged, path)
	})
}

func verifyFile(ctx context.Context, root *os.Root, want File) error {
	info, err := root.Lstat(filepath.FromSlash(want.Path))
	if err != nil {
		return damage(err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: %s is %s", ErrDamaged, want.Path, describe(info.Mode()))
	}
	f, err := openRegular(root, want.Path)
	if err != nil {
		return damage(err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := pump(ctx, h, f, nil)
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); n != want.Size || got != want.SHA256 {
		return fmt.Errorf("%w: %s has %d bytes with SHA-256 %s, must have %d with %s", ErrDamaged, want.Path, n, got, want.Size, want.SHA256)
	}
	return nil
}
