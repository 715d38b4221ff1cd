package hub

import (
	"cmp"
	"context"
	"crypto/sha1" //nolint:gosec // git's object ids
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"time"
)

// tries is how often a file is tried that breaks off.
const tries = 4

// stallLimit ends a download from which nothing comes; the next try goes on where it stopped.
const stallLimit = 30 * time.Second

// errStalled is why.
var errStalled = errors.New("nothing comes any more")

// Fetch brings the files of l into dir, which it makes, and leaves nothing of another revision there. What an earlier
// Fetch of the same commit left is not fetched again. progress, if not nil, is told of bytes that are there.
func (c Client) Fetch(ctx context.Context, l Listing, dir string, progress func(n int64)) error {
	if progress == nil {
		progress = func(int64) {}
	}
	mark := filepath.Join(dir, ".commit")
	if was, err := os.ReadFile(mark); err != nil || string(was) != l.Commit {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return err
		}
		if err := os.WriteFile(mark, []byte(l.Commit), 0o600); err != nil {
			return err
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, f := range l.Files {
		if err := c.fetchFile(ctx, root, l, f, progress); err != nil {
			return fmt.Errorf("%s: %s: %w", l.Ref, f.Path, err)
		}
	}
	return nil
}

// fetchFile gets one file into <path>.part, which starts with "." so that it never counts, and renames it.
func (c Client) fetchFile(ctx context.Context, root *os.Root, l Listing, f File, progress func(int64)) error {
	name := filepath.FromSlash(f.Path)
	if info, err := root.Lstat(name); err == nil && info.Mode().IsRegular() && info.Size() == f.Size {
		progress(f.Size)
		return nil // it was compared before it got its name
	}
	if dir := path.Dir(f.Path); dir != "." {
		if err := root.MkdirAll(filepath.FromSlash(dir), 0o750); err != nil {
			return err
		}
	}
	part := filepath.FromSlash(path.Join(path.Dir(f.Path), ".part-"+path.Base(f.Path)))
	var err error
	for try := range tries {
		if try > 0 {
			select {
			case <-time.After(time.Second << try / 2):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if err = c.download(ctx, root, part, l, f, progress); err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return err
	}
	return root.Rename(part, name)
}

// download appends what part lacks and compares the whole.
func (c Client) download(ctx context.Context, root *os.Root, part string, l Listing, f File, progress func(int64)) (err error) {
	out, err := root.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	h := f.hash()
	had, err := io.Copy(h, io.LimitReader(out, f.Size))
	if err != nil {
		return err
	}
	told := had
	progress(had)
	defer func() {
		if err != nil {
			progress(-told)
		}
	}()
	if had < f.Size {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		limit := cmp.Or(c.stall, stallLimit)
		watch := time.AfterFunc(limit, func() { cancel(errStalled) })
		defer watch.Stop()
		body, err := c.get(ctx, "/"+l.Ref.Repo+"/resolve/"+l.Commit+"/"+escape(f.Path), had)
		if errors.Is(err, errNoRange) {
			return errors.Join(err, out.Truncate(0))
		}
		if err != nil {
			return cmp.Or(stalled(ctx), err)
		}
		n, err := io.Copy(io.MultiWriter(out, h, counter(func(n int) { watch.Reset(limit); told += int64(n); progress(int64(n)) })), io.LimitReader(body, f.Size-had+1))
		if err != nil {
			err = cmp.Or(stalled(ctx), err)
		}
		if err := errors.Join(err, body.Close()); err != nil {
			return err
		}
		if had+n != f.Size {
			return errors.Join(fmt.Errorf("it has %d bytes, the list of files says %d", had+n, f.Size), out.Truncate(0))
		}
	}
	if want, got := f.wanted(), hex.EncodeToString(h.Sum(nil)); want != "" && got != want {
		return errors.Join(fmt.Errorf("its hash is %s, the list of files says %s", got, want), out.Truncate(0))
	}
	return out.Sync()
}

// stalled is errStalled when that is why ctx ended.
func stalled(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, errStalled) {
		return cause
	}
	return nil
}

func (f File) wanted() string {
	if f.SHA256 != "" {
		return f.SHA256
	}
	return f.GitID
}

func (f File) hash() hash.Hash {
	if f.SHA256 != "" || f.GitID == "" {
		return sha256.New()
	}
	h := sha1.New() //nolint:gosec // git's object ids
	fmt.Fprintf(h, "blob %d\x00", f.Size)
	return h
}

// escape makes a path fit for a URL, its slashes as they are.
func escape(p string) string { return (&url.URL{Path: p}).EscapedPath() }

type counter func(n int)

func (c counter) Write(p []byte) (int, error) {
	c(len(p))
	return len(p), nil
}
