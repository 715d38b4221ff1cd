// Package buckettest holds what tests need of a bucket.Bucket: a fake in memory that fails both ways, "it failed" and
// "it failed but it happened", and the conformance suite that the fake and every real bucket pass.
package buckettest

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // ETags look like this
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/akidb/akidbd/internal/sync/bucket"
)

// Op is a method of a Bucket.
type Op string

// Operations that may fail.
const (
	Get    Op = "get"
	Put    Op = "put"
	List   Op = "list"
	Head   Op = "head"
	Delete Op = "delete"
)

// Fault is what goes wrong with one operation.
type Fault struct {
	Err      error // what it returns; nil with one of the following
	Happened bool  // it was done all the same
	Truncate bool  // Get: half of the body, then io.ErrUnexpectedEOF
	Flip     bool  // Get: one bit of the body is wrong
	Hang     bool  // it waits for its context to end
}

// Fake is a bucket.Bucket in memory. The zero value is empty and works.
type Fake struct {
	// Fault, if not nil, is asked before each operation and gives nil for those that work.
	Fault func(op Op, key string) *Fault
	Now   func() time.Time // for Object.Modified; nil: time.Now

	mu      sync.Mutex
	objects map[string]object
	read    map[string]int64 // bytes given out by key
	calls   map[Op]int
}

type object struct {
	data     []byte
	modified time.Time
}

var _ bucket.Bucket = (*Fake)(nil)

func (f *Fake) fault(ctx context.Context, op Op, key string) (*Fault, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	if f.calls == nil {
		f.calls = map[Op]int{}
	}
	f.calls[op]++
	ask := f.Fault
	f.mu.Unlock()
	if ask == nil {
		return &Fault{}, nil
	}
	fault := ask(op, key)
	switch {
	case fault == nil:
		return &Fault{}, nil
	case fault.Hang:
		<-ctx.Done()
		return nil, ctx.Err()
	case fault.Err != nil && !fault.Happened:
		return nil, fault.Err
	}
	return fault, nil
}

// Get is bucket.Bucket's.
func (f *Fake) Get(ctx context.Context, key string, offset, length int64, etag string) (io.ReadCloser, error) {
	fault, err := f.fault(ctx, Get, key)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	o, ok := f.objects[key]
	if !ok {
		return nil, fmt.Errorf("get %s: %w", key, fs.ErrNotExist)
	}
	if etag != "" && etag != etagOf(o.data) {
		return nil, fmt.Errorf("get %s: %w", key, bucket.ErrChanged)
	}
	if fault.Err != nil {
		return nil, fault.Err
	}
	if offset > int64(len(o.data)) {
		return nil, fmt.Errorf("get %s: offset %d is past its %d bytes", key, offset, len(o.data))
	}
	data := o.data[offset:]
	if length >= 0 {
		if int64(len(data)) < length {
			return &body{ctx: ctx, Reader: io.MultiReader(bytes.NewReader(data), broken{})}, nil
		}
		data = data[:length]
	}
	if f.read == nil {
		f.read = map[string]int64{}
	}
	f.read[key] += int64(len(data))
	r := io.Reader(bytes.NewReader(data))
	switch {
	case fault.Truncate:
		r = io.MultiReader(bytes.NewReader(data[:len(data)/2]), broken{})
	case fault.Flip && len(data) > 0:
		data = bytes.Clone(data)
		data[len(data)/3] ^= 4
		r = bytes.NewReader(data)
	}
	return &body{ctx: ctx, Reader: r}, nil
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

type body struct {
	ctx context.Context
	io.Reader
}

func (b *body) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	return b.Reader.Read(p)
}

func (b *body) Close() error { return nil }

// Put is bucket.Bucket's.
func (f *Fake) Put(ctx context.Context, key string, r io.ReaderAt, size int64, progress func(int64)) error {
	fault, err := f.fault(ctx, Put, key)
	if err != nil {
		return err
	}
	data := make([]byte, size)
	if n, err := r.ReadAt(data, 0); int64(n) < size {
		return fmt.Errorf("put %s: body of %d bytes: %w", key, size, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.objects[key]; ok {
		return fmt.Errorf("put %s: %w", key, fs.ErrExist)
	}
	f.set(key, data)
	if progress != nil {
		progress(size)
	}
	return fault.Err
}

func (f *Fake) set(key string, data []byte) {
	now := time.Now
	if f.Now != nil {
		now = f.Now
	}
	if f.objects == nil {
		f.objects = map[string]object{}
	}
	f.objects[key] = object{data: data, modified: now().Truncate(time.Second)}
}

// Set writes an object over whatever is there, as somebody with another program would.
func (f *Fake) Set(key string, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set(key, bytes.Clone(data))
}

// List is bucket.Bucket's.
func (f *Fake) List(ctx context.Context, prefix string) iter.Seq2[bucket.Object, error] {
	return func(yield func(bucket.Object, error) bool) {
		fault, err := f.fault(ctx, List, prefix)
		if err != nil {
			yield(bucket.Object{}, err)
			return
		}
		f.mu.Lock()
		var found []bucket.Object
		for _, key := range slices.Sorted(maps.Keys(f.objects)) {
			if strings.HasPrefix(key, prefix) {
				found = append(found, f.objects[key].object(key))
			}
		}
		f.mu.Unlock()
		for i, o := range found {
			if fault.Err != nil && i == len(found)/2 {
				break
			}
			if !yield(o, nil) {
				return
			}
		}
		if fault.Err != nil {
			yield(bucket.Object{}, fault.Err)
		}
	}
}

func (o object) object(key string) bucket.Object {
	return bucket.Object{Key: key, Size: int64(len(o.data)), ETag: etagOf(o.data), Modified: o.modified}
}

func etagOf(data []byte) string {
	h := md5.Sum(data) //nolint:gosec // an ETag
	return `"` + hex.EncodeToString(h[:]) + `"`
}

// Head is bucket.Bucket's.
func (f *Fake) Head(ctx context.Context, key string) (bucket.Object, error) {
	fault, err := f.fault(ctx, Head, key)
	if err != nil {
		return bucket.Object{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	o, ok := f.objects[key]
	if !ok {
		return bucket.Object{}, fmt.Errorf("head %s: %w", key, fs.ErrNotExist)
	}
	return o.object(key), fault.Err
}

// Delete is bucket.Bucket's.
func (f *Fake) Delete(ctx context.Context, key string) error {
	fault, err := f.fault(ctx, Delete, key)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.objects, key)
	return fault.Err
}

// Keys lists what is there.
func (f *Fake) Keys() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.objects))
}

// BytesRead counts what Get gave out of the objects whose key contains part.
func (f *Fake) BytesRead(part string) (n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, bytes := range f.read {
		if strings.Contains(key, part) {
			n += bytes
		}
	}
	return n
}

// Calls counts the operations of a kind, those that failed among them.
func (f *Fake) Calls(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

// SetFault replaces Fault while the bucket is in use.
func (f *Fake) SetFault(fault func(op Op, key string) *Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Fault = fault
}
