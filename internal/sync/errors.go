package sync

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/akidb/akidbd/internal/sync/bucket"
)

// Errors of other nodes, for Peers.
var (
	// ErrNoBlob is the answer of a node that does not have a blob and does not get it either.
	ErrNoBlob = errors.New("the node does not have the blob")
	// ErrComing is the answer of a node that gets the blob but does not have that part of it yet.
	ErrComing = errors.New("the node does not have that part of the blob yet")
	// ErrBusy is the answer of a node that gives out as much as it can at once.
	ErrBusy = errors.New("the node gives out as many blobs as it can")
)

var (
	errAhead   = errors.New("its clock is ahead of this node's")
	errCorrupt = errors.New("the content is not what its hash says")
	errLoad    = errors.New("it does not serve")
	errNoRoom  = errors.New("no room")
)

// Reason is why a step failed, for metrics and `akidbd model status`.
type Reason string

// The closed set of reasons.
const (
	ReasonUnavailable Reason = "unavailable" // a bucket or peer could not be reached or did not do its work
	ReasonDenied      Reason = "denied"      // wrong, expired or too weak credentials
	ReasonMissing     Reason = "missing"     // nobody has a blob that a manifest names, or not yet
	ReasonCorrupt     Reason = "corrupt"     // a blob is not what its hash says
	ReasonManifest    Reason = "manifest"    // a manifest cannot be read
	ReasonSignature   Reason = "signature"   // a manifest without the signature of a trusted key
	ReasonClock       Reason = "clock"       // a manifest from the future
	ReasonDisk        Reason = "disk"        // no room, or the disk fails
	ReasonLoad        Reason = "load"        // the engine does not take it: it does not load, or not to its golden vectors
)

// Reasons lists them all, for pre-created labels.
func Reasons() []Reason {
	return []Reason{ReasonUnavailable, ReasonDenied, ReasonMissing, ReasonCorrupt, ReasonManifest, ReasonSignature, ReasonClock, ReasonDisk, ReasonLoad}
}

func reasonOf(err error) Reason {
	switch {
	case errors.Is(err, errCorrupt):
		return ReasonCorrupt
	case errors.Is(err, errLoad):
		return ReasonLoad
	case errors.Is(err, errSignature):
		return ReasonSignature
	case errors.Is(err, errAhead):
		return ReasonClock
	case errors.Is(err, errNoRoom), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EIO), errors.Is(err, unix.EROFS):
		return ReasonDisk
	case errors.Is(err, bucket.ErrDenied):
		return ReasonDenied
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, ErrNoBlob):
		return ReasonMissing
	}
	return ReasonUnavailable
}

// lasting says that the version itself is at fault: a try in a second would fail like the last.
func (r Reason) lasting() bool { return r == ReasonCorrupt || r == ReasonLoad }

func readLimited(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, most)
}

// readAll reads at most most bytes; more are an error.
func readAll(r io.Reader, most int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("over %d bytes, the limit", most)
	}
	return data, err
}
