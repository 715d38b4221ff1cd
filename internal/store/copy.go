package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/akidb/akidbd/internal/atomicfile"
)

// chunk is how much is read and hashed at once, and how far a canceled import still goes.
const chunk = 1 << 20

// copier copies the files of one import.
type copier struct {
	store    *Store
	from, to *os.Root
	dir      string // of to
	dirs     []string
	progress func(done, total int64)

	done, total int64 // bytes
	noClone     bool  // cloning does not work between these file systems
	refused     bool  // the error says already that there is no room
}

// file copies one file, syncs it and gives its SHA-256 in hex. It fails when the file is not the one that was
// seen; whether somebody wrote to it meanwhile, a scan after the last file tells.
func (c *copier) file(ctx context.Context, seen print) (string, error) {
	in, err := openRegular(c.from, seen.Path)
	if err != nil {
		return "", err
	}
	defer in.Close()
	if err := unchanged(in, seen); err != nil {
		return "", err
	}
	if err := c.makeDirs(path.Dir(seen.Path)); err != nil {
		return "", err
	}
	name := filepath.FromSlash(seen.Path)
	// Readable for the hash of a clone; read-only for everybody once it is closed.
	out, err := c.to.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return "", err
	}
	sum, n, err := c.fill(ctx, out, in, seen.Size)
	if err == nil && n != seen.Size {
		err = changed(seen.Path)
	}
	if err == nil {
		err = c.store.system.at("sync")
	}
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return "", err
	}
	return sum, nil
}

func unchanged(f *os.File, seen print) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if printOf(seen.Path, info) != seen {
		return changed(seen.Path)
	}
	return nil
}

func changed(what string) error {
	return fmt.Errorf("%s changed while it was copied: import it again when it is complete", what)
}

// fill gives out the content of in, but no more than one byte over size, and its hash. A clone is hashed
// itself, so that the hash is of what was kept. copy_file_range gains nothing over reading: the bytes must
// pass by for the hash in any case.
func (c *copier) fill(ctx context.Context, out, in *os.File, size int64) (sum string, n int64, err error) {
	h := sha256.New()
	if !c.noClone && c.store.system.clone(out, in) == nil {
		n, err = pump(ctx, h, io.LimitReader(out, size+1), c.advance)
		return hex.EncodeToString(h.Sum(nil)), n, err
	}
	if !c.noClone {
		c.noClone = true
		if err := c.room(c.total - c.done); err != nil {
			return "", 0, err
		}
	}
	if err := c.store.system.at("copy"); err != nil {
		return "", 0, err
	}
	n, err = pump(ctx, io.MultiWriter(h, out), io.LimitReader(in, size+1), c.advance)
	return hex.EncodeToString(h.Sum(nil)), n, err
}

func (c *copier) advance(n int) {
	c.done += int64(n)
	if c.progress != nil {
		c.progress(min(c.done, c.total), c.total)
	}
}

// pump copies from r to w until its end or the end of ctx.
func pump(ctx context.Context, w io.Writer, r io.Reader, advance func(int)) (int64, error) {
	buf := make([]byte, chunk)
	var total int64
	for {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return total, err
			}
			total += int64(n)
			if advance != nil {
				advance(n)
			}
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

func (c *copier) makeDirs(dir string) error {
	if dir == "." {
		return nil
	}
	if err := c.to.MkdirAll(filepath.FromSlash(dir), 0o750); err != nil {
		return err
	}
	for ; dir != "."; dir = path.Dir(dir) {
		c.dirs = append(c.dirs, dir)
	}
	return nil
}

// seal writes the manifest and syncs the directories.
func (c *copier) seal(m manifest) error {
	if err := c.store.system.at("manifest"); err != nil {
		return err
	}
	data, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return err
	}
	f, err := c.to.OpenFile(manifestName, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	for _, dir := range append(c.dirs, ".") {
		if err := atomicfile.SyncDir(filepath.Join(c.dir, filepath.FromSlash(dir))); err != nil {
			return err
		}
	}
	return nil
}

// spare is what an import leaves free: a full disk stops more than this store.
const spare = 64 << 20

// room checks that n bytes can be written.
func (c *copier) room(n int64) error {
	free, err := c.store.system.free(c.dir)
	if err != nil {
		return err
	}
	if free < n+spare {
		c.refused = true
		return fmt.Errorf("no room in %s: %d bytes are needed and %d to spare, %d are free: %w", c.store.dir, n, spare, free, unix.ENOSPC)
	}
	return nil
}

// explain tells how much room there is when it ran out on the way.
func (c *copier) explain(err error) error {
	if c.refused || !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	free, ferr := c.store.system.free(c.dir)
	if ferr != nil || free < 0 {
		return err
	}
	return fmt.Errorf("the room in %s ran out after %d of %d bytes, %d are free: %w", c.store.dir, c.done, c.total, free, err)
}

// clone makes to share the blocks of from, where the file system can (btrfs, XFS).
func clone(to, from *os.File) error { return unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) }

func free(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(min(st.Bavail, 1<<62/uint64(max(st.Bsize, 1)))) * st.Bsize, nil
}
