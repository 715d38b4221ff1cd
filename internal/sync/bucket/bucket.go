// Package bucket is where models are kept for all nodes: objects that are written once, in Amazon S3 or a server like
// it.
package bucket

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

// Bucket is a place for objects that are written once. Implementations: S3, and buckettest.Fake for tests; both pass
// buckettest.Conformance.
//
// Errors wrap fs.ErrNotExist (no such key, in Get and Head), fs.ErrExist (Put), ErrDenied (the credentials are wrong,
// expired or not enough), ErrChanged (Get) or nothing of these: then the bucket could not be reached or did not do
// its work, and a later try may succeed. An operation that failed may have happened all the same. Methods are safe
// for concurrent use and return soon after ctx ends.
type Bucket interface {
	// Get opens length bytes of an object from offset on, to its end when length is negative. etag, if not "", is the
	// one that the object must have, else ErrChanged. A body that ends early gives io.ErrUnexpectedEOF. The reader
	// must be closed.
	Get(ctx context.Context, key string, offset, length int64, etag string) (io.ReadCloser, error)
	// Put writes an object of size bytes, unless one is there. Readers see all of it or none. A Put of the same body
	// that was interrupted, in this process or another, may go on where it stopped. progress, if not nil, is told how
	// many bytes more have arrived, from any goroutine but one at a time.
	Put(ctx context.Context, key string, body io.ReaderAt, size int64, progress func(n int64)) error
	// List gives the objects whose keys start with prefix, sorted by key. It ends with the first error.
	List(ctx context.Context, prefix string) iter.Seq2[Object, error]
	// Head gives one object.
	Head(ctx context.Context, key string) (Object, error)
	// Delete removes an object; one that is not there is no error.
	Delete(ctx context.Context, key string) error
}

// Object is what a listing says.
type Object struct {
	Key      string
	Size     int64
	ETag     string // changes with the content, and says nothing of it: with multipart uploads or KMS it is no hash
	Modified time.Time
}

// Errors of a Bucket.
var (
	ErrDenied  = errors.New("access denied")
	ErrChanged = errors.New("the object is not the one that was listed")
)
