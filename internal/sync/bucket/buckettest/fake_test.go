package buckettest

import (
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/akidb/akidbd/internal/sync/bucket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFake(t *testing.T) {
	Conformance(t, 1<<20, func(*testing.T) bucket.Bucket { return &Fake{} })
}

// The fake fails both ways, and what it gives out may be torn or wrong.
func TestFaults(t *testing.T) {
	down := errors.New("503 slow down")
	fault := &Fault{}
	f := &Fake{Fault: func(Op, string) *Fault { return fault }}
	fault = &Fault{Err: down}
	if err := f.Put(t.Context(), "k", strings.NewReader("abcdef"), 6, nil); !errors.Is(err, down) || len(f.Keys()) != 0 {
		t.Errorf("failed: %v, there is %v", err, f.Keys())
	}
	fault = &Fault{Err: down, Happened: true}
	if err := f.Put(t.Context(), "k", strings.NewReader("abcdef"), 6, nil); !errors.Is(err, down) || len(f.Keys()) != 1 {
		t.Errorf("failed but happened: %v, there is %v", err, f.Keys())
	}
	fault = nil
	if err := f.Put(t.Context(), "k", strings.NewReader("abcdef"), 6, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("again: %v", err)
	}
	read := func() (string, error) {
		r, err := f.Get(t.Context(), "k", 0, -1, "")
		if err != nil {
			return "", err
		}
		data, err := io.ReadAll(r)
		return string(data), err
	}
	fault = &Fault{Truncate: true}
	if data, err := read(); data != "abc" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("truncated: %q, %v", data, err)
	}
	fault = &Fault{Flip: true}
	if data, err := read(); err != nil || len(data) != 6 || data == "abcdef" {
		t.Errorf("flipped: %q, %v", data, err)
	}
}
