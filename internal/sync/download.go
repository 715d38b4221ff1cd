package sync

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	gosync "sync"

	"golang.org/x/sys/unix"
)

// chunkSize is how much of a blob is asked for at once, and the part that a restart may fetch again: small enough
// that eight nodes soon have something to give to each other, large enough that the round trip to a bucket (some
// ten milliseconds) hardly counts.
const chunkSize = 4 << 20

// download is a blob on its way into <dir>/<sha>. What has arrived lies in <sha>.part, and <sha>.map has one byte
// for each chunk, 1 when it is there. Neither is synced: the hash at the end tells whether a power cut tore them.
type download struct {
	dir  string
	sha  string
	size int64
	step int64 // size of a chunk

	part, chunks *os.File

	mu     gosync.Mutex
	have   []bool
	from   map[string]bool // sources that gave a part, in this process
	hashed int             // chunks that went into hash
	hash   hash.Hash
	hasher gosync.Mutex // held by whoever hashes
	broken error        // of the hasher
}

func openDownload(dir, sha string, size, step int64) (*download, error) {
	d := &download{dir: dir, sha: sha, size: size, step: step, hash: sha256.New(), from: map[string]bool{}, have: make([]bool, (size+step-1)/step)}
	var err error
	if d.part, err = os.OpenFile(d.path(".part"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o640); err != nil {
		return nil, err
	}
	if d.chunks, err = os.OpenFile(d.path(".map"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o640); err != nil {
		return nil, errors.Join(err, d.part.Close())
	}
	info, err := d.part.Stat()
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	if info.Size() != size { // new, or of another size: nothing of it counts
		if err := errors.Join(d.chunks.Truncate(0), d.part.Truncate(size)); err != nil {
			return nil, errors.Join(err, d.close())
		}
	}
	done := make([]byte, len(d.have))
	if _, err := d.chunks.ReadAt(done, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(err, d.close())
	}
	for i, b := range done {
		d.have[i] = b == 1
	}
	return d, nil
}

func (d *download) path(suffix string) string { return filepath.Join(d.dir, d.sha+suffix) }

// span is where chunk i lies.
func (d *download) span(i int) (offset, length int64) {
	offset = int64(i) * d.step
	return offset, min(d.step, d.size-offset)
}

// missing lists the chunks that are not there.
func (d *download) missing() []int {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []int
	for i, ok := range d.have {
		if !ok {
			out = append(out, i)
		}
	}
	return out
}

// arrived counts the bytes that are there.
func (d *download) arrived() (n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, ok := range d.have {
		if ok {
			_, length := d.span(i)
			n += length
		}
	}
	return n
}

// covers says whether all of a part is there.
func (d *download) covers(offset, length int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := offset / d.step; i < int64(len(d.have)) && i*d.step < offset+length; i++ {
		if !d.have[i] {
			return false
		}
	}
	return true
}

// fill writes chunk i from r, which must give all of it.
func (d *download) fill(i int, source string, r io.Reader) error {
	offset, length := d.span(i)
	n, err := io.Copy(io.NewOffsetWriter(d.part, offset), io.LimitReader(r, length))
	if err == nil && n < length {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	// The end of a part is to be read too: only then a connection is free again.
	if n, err := r.Read(make([]byte, 1)); n > 0 || err != nil && !errors.Is(err, io.EOF) {
		return errors.Join(fmt.Errorf("more than the %d bytes that were asked for", length), err)
	}
	if _, err := d.chunks.WriteAt([]byte{1}, int64(i)); err != nil {
		return err
	}
	d.mu.Lock()
	d.have[i] = true
	d.from[source] = true
	d.mu.Unlock()
	if d.hasher.TryLock() { // the one who has it will come past this chunk too, or finish does
		d.advance()
		d.hasher.Unlock()
	}
	return nil
}

// advance hashes what is there without a hole.
func (d *download) advance() {
	for d.broken == nil {
		d.mu.Lock()
		i := d.hashed
		ready := i < len(d.have) && d.have[i]
		d.mu.Unlock()
		if !ready {
			return
		}
		offset, length := d.span(i)
		_, d.broken = io.Copy(d.hash, io.NewSectionReader(d.part, offset, length))
		d.mu.Lock()
		d.hashed++
		d.mu.Unlock()
	}
}

// finish compares the hash and gives the blob its name. A blob that is something else is thrown away, with
// errCorrupt.
func (d *download) finish() error {
	d.hasher.Lock()
	defer d.hasher.Unlock()
	d.advance()
	if d.broken != nil {
		return d.broken
	}
	if got := hex.EncodeToString(d.hash.Sum(nil)); got != d.sha {
		return errors.Join(fmt.Errorf("blob %s of %d bytes: %w: it has %s", d.sha, d.size, errCorrupt, got), d.discard())
	}
	if err := d.part.Sync(); err != nil {
		return err
	}
	if err := os.Rename(d.path(".part"), d.path("")); err != nil {
		return err
	}
	return os.Remove(d.path(".map"))
}

// discard removes all that has arrived.
func (d *download) discard() error {
	errs := []error{}
	for _, suffix := range []string{".map", ".part"} {
		if err := os.Remove(d.path(suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (d *download) close() error { return errors.Join(d.part.Close(), d.chunks.Close()) }

// read opens a part that is there, in a file of its own: the download may end meanwhile.
func (d *download) read(offset, length int64) (io.ReadCloser, error) {
	for _, suffix := range []string{".part", ""} {
		r, err := openSection(d.path(suffix), offset, length)
		if !errors.Is(err, fs.ErrNotExist) {
			return r, err
		}
	}
	return nil, ErrNoBlob
}

// section is a part of a file.
type section struct {
	io.Reader
	f *os.File
}

func (s *section) Close() error { return s.f.Close() }

// openSection opens length bytes of a file from offset on, to its end when length is negative.
func openSection(name string, offset, length int64) (io.ReadCloser, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && (offset < 0 || offset > info.Size() || length > info.Size()-offset) {
		err = fmt.Errorf("%d bytes from %d on: the file has %d", length, offset, info.Size())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if length < 0 {
		length = info.Size() - offset
	}
	return &section{Reader: io.NewSectionReader(f, offset, length), f: f}, nil
}
