package peer

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"
)

// OnBlob sets what gives blobs out: files, each named by the SHA-256 of its content in 64 lower-case hex digits.
// It opens length bytes from offset on, to the end when length is negative, and must know by itself what may be
// given out; ErrNoBlob and ErrComing, which it may wrap, say why not, any other error is logged here and not told.
// What the reader gives is sent as it comes; it may wait until ctx ends, and is closed in the end. Set it before
// Run; without it nothing is given out.
func (l *Links) OnBlob(open func(ctx context.Context, sha string, offset, length int64) (io.ReadCloser, error)) {
	l.onBlob = open
}

// Errors of Links.Blob beside those of the way there.
var (
	// ErrNoBlob is the answer of a node that does not give that part of that blob.
	ErrNoBlob = errors.New("the node does not give out that blob")
	// ErrComing is the answer of a node that gets the blob itself and does not have that part of it yet.
	ErrComing = errors.New("the node does not have that part of the blob yet")
	// ErrBusy is the answer of a node that gives out as many blobs as it does at once.
	ErrBusy = errors.New("the node gives out as many blobs as it can")
)

// blobVersion is the ALPN name of a connection that carries blobs.
const blobVersion = "akidb-blob/1"

// Limits of blobs.
const (
	blobChunk     = 64 << 10         // bytes read and sent at once
	blobStall     = 20 * time.Second // to take each chunk, and to send the next
	blobsOfOne    = 2                // connections of one node
	maxBlobOffset = 1 << 50          // bytes, of an offset and of a length
	maxReason     = 512              // bytes of an error's message
)

// A blob is one stream of a connection of its own.
//
//	request: u8 version · u8 streamBlob · 32 bytes SHA-256 · u64 offset · u64 length (blobRest: to the end)
//	answer:  u8 version · u8 code · (blobOK:) u64 length, blobRest when it is not known yet · bytes
//	         (any other code:) u16 len · message
//
// The end of the stream is the end of the part; whatever goes wrong on the way resets the stream.
const (
	streamBlob = 5
	blobRest   = ^uint64(0)
)

// Codes of an answer. They are on the wire: never renumber.
const (
	blobOK      = 0
	blobNone    = 1
	blobComing  = 2
	blobBusy    = 3
	blobFailed  = 4
	blobStopped = 5
)

type blobRequest struct {
	sha            [32]byte
	offset, length int64 // length is negative for all that follows
}

const blobRequestSize = 2 + 32 + 8 + 8

func newBlobRequest(sha string, offset, length int64) (blobRequest, error) {
	r := blobRequest{offset: offset, length: max(length, -1)}
	sum, err := hex.DecodeString(sha)
	switch {
	case err != nil || len(sum) != len(r.sha) || hex.EncodeToString(sum) != sha:
		return r, fmt.Errorf("blob %.80q: a blob is named by 64 lower-case hex digits", sha)
	case offset < 0 || offset > maxBlobOffset || length > maxBlobOffset:
		return r, fmt.Errorf("%d bytes of a blob from %d on: both may be %d at most", length, offset, int64(maxBlobOffset))
	}
	copy(r.sha[:], sum)
	return r, nil
}

func (r blobRequest) frame() []byte {
	b := append(make([]byte, 0, blobRequestSize), frameVersion, streamBlob)
	b = append(b, r.sha[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(r.offset))
	return binary.BigEndian.AppendUint64(b, uint64(r.length)) // -1 is blobRest
}

// readBlobRequest reads a request to the end of its stream.
func readBlobRequest(r io.Reader) (blobRequest, error) {
	var q blobRequest
	var b [blobRequestSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return q, fmt.Errorf("request for a blob: %w", err)
	}
	offset, length := binary.BigEndian.Uint64(b[34:]), binary.BigEndian.Uint64(b[42:])
	switch {
	case b[0] != frameVersion || b[1] != streamBlob:
		return q, fmt.Errorf("a stream of version %d and type %d instead of a request for a blob", b[0], b[1])
	case offset > maxBlobOffset || length > maxBlobOffset && length != blobRest:
		return q, fmt.Errorf("request for %d bytes of a blob from %d on: both may be %d at most", length, offset, int64(maxBlobOffset))
	}
	copy(q.sha[:], b[2:])
	q.offset, q.length = int64(offset), int64(length)
	return q, readEnd(r)
}

// blobAnswer is the head of an answer: the length of what follows, or why nothing does.
func blobAnswer(code byte, length int64, reason string) []byte {
	b := []byte{frameVersion, code}
	if code == blobOK {
		return binary.BigEndian.AppendUint64(b, uint64(length))
	}
	reason = wireString(reason, maxReason)
	b = binary.BigEndian.AppendUint16(b, uint16(len(reason)))
	return append(b, reason...)
}

// readBlobAnswer reads the head of an answer: how many bytes follow, or -1 when the other side does not know.
func readBlobAnswer(r io.Reader) (length int64, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, fmt.Errorf("head of a blob: %w", noEOF(err))
	}
	if head[0] != frameVersion {
		return 0, fmt.Errorf("frame version %d is not known here", head[0])
	}
	if head[1] == blobOK {
		var b [8]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return 0, fmt.Errorf("head of a blob: %w", noEOF(err))
		}
		n := binary.BigEndian.Uint64(b[:])
		if n > maxBlobOffset && n != blobRest {
			return 0, fmt.Errorf("a blob of %d bytes is over the limit of %d", n, int64(maxBlobOffset))
		}
		return int64(n), nil
	}
	var b [2]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, fmt.Errorf("refusal of a blob: %w", noEOF(err))
	}
	n := int(binary.BigEndian.Uint16(b[:]))
	if n > maxReason {
		return 0, overLimit("refusal of a blob", n, maxReason)
	}
	reason, err := readN(r, n)
	if err != nil {
		return 0, fmt.Errorf("refusal of a blob: %w", err)
	}
	return 0, blobError(head[1], wireString(string(reason), maxReason))
}

// blobError is what an answer's code means.
func blobError(code byte, reason string) error {
	switch code {
	case blobNone:
		return ErrNoBlob
	case blobComing:
		return ErrComing
	case blobBusy:
		return ErrBusy
	case blobStopped:
		return errors.New("the node stops")
	}
	return fmt.Errorf("the node cannot give the blob out (code %d): %s", code, reason)
}

// blobCode is the code for an error of OnBlob's, and what to tell the other node of it.
func blobCode(err error) (code byte, reason string) {
	switch {
	case errors.Is(err, ErrNoBlob):
		return blobNone, ""
	case errors.Is(err, ErrComing):
		return blobComing, ""
	}
	return blobFailed, "its log says why"
}
