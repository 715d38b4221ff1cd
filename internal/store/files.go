package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
)

// File is one file of a model.
type File struct {
	Path   string `json:"path"` // slashes
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // 64 hex digits
}

// Digest names the content of files, in whatever order they come.
func Digest(files []File) string { return manifest{Files: files}.digest() }

// CheckFiles says what is wrong with files that somebody else listed: they must be some, sorted by path, of names
// that count and can be kept, and within the limits of an Import.
func CheckFiles(files []File) error {
	l := defaultLimits()
	switch {
	case len(files) == 0:
		return errors.New("no files")
	case len(files) > l.files:
		return fmt.Errorf("%d files, the limit is %d", len(files), l.files)
	}
	if err := checkFiles(files); err != nil {
		return err
	}
	for i, f := range files {
		if i > 0 && f.Path <= files[i-1].Path {
			return fmt.Errorf("%q does not come after %q: files are sorted by path", f.Path, files[i-1].Path)
		}
		if !ServedPath(f.Path) {
			return fmt.Errorf("%q is no file of a model", f.Path)
		}
	}
	if n := (manifest{Files: files}).bytes(); n > l.bytes {
		return fmt.Errorf("%d bytes, the limit is %d", n, l.bytes)
	}
	return nil
}

// ServedPath says whether a file of that path counts in a model directory. Variants of a graph beside a model.onnx
// (see WithoutVariants) are not told by their path alone.
func ServedPath(p string) bool {
	if !goodPath(p) {
		return false
	}
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		if !served(path.Base(dir), true) {
			return false
		}
	}
	return served(path.Base(p), false)
}

// ServedPaths gives those of the paths that count, without the variants of ONNX graphs beside a model.onnx: what an
// Import of a directory of all of them would take.
func ServedPaths(paths []string) []string {
	graphs := map[string]bool{}
	for _, p := range paths {
		if path.Base(p) == "model.onnx" {
			graphs[path.Dir(p)] = true
		}
	}
	var out []string
	for _, p := range paths {
		if ServedPath(p) && !(graphs[path.Dir(p)] && isVariant(path.Base(p))) {
			out = append(out, p)
		}
	}
	return out
}

// Hash lists the files of the model directory src that count, sorted by path, with their hashes. progress, if not
// nil, is called with the bytes read and the bytes there are. It fails when the directory changes meanwhile.
func Hash(ctx context.Context, src string, progress func(done, total int64)) ([]File, error) {
	root, err := os.OpenRoot(src)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	seen, err := scan(root, defaultLimits())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", src, err)
	}
	var done, total int64
	for _, p := range seen {
		total += p.Size
	}
	advance := func(n int) {
		done += int64(n)
		if progress != nil {
			progress(min(done, total), total)
		}
	}
	files := make([]File, 0, len(seen))
	for _, p := range seen {
		f, err := hashFile(ctx, root, p, advance)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", src, err)
		}
		files = append(files, f)
	}
	return files, nil
}

func hashFile(ctx context.Context, root *os.Root, seen print, advance func(int)) (File, error) {
	in, err := openRegular(root, seen.Path)
	if err != nil {
		return File{}, err
	}
	defer in.Close()
	h := sha256.New()
	n, err := pump(ctx, h, io.LimitReader(in, seen.Size+1), advance)
	if err != nil {
		return File{}, err
	}
	if err := unchanged(in, seen); err != nil || n != seen.Size {
		return File{}, errors.Join(err, changed(seen.Path))
	}
	return File{Path: seen.Path, Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

// HashFile gives the SHA-256 in hex and the size of one file.
func HashFile(ctx context.Context, name string) (string, int64, error) {
	f, err := os.Open(filepath.Clean(name))
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := pump(ctx, h, f, nil)
	return hex.EncodeToString(h.Sum(nil)), n, err
}
