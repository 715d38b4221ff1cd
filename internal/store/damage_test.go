package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What cannot be read now is not damaged; what is missing or different is.
func TestDamage(t *testing.T) {
	for code, want := range map[unix.Errno]bool{unix.EMFILE: false, unix.EIO: false, unix.EACCES: false, unix.ENOMEM: false, unix.ENOENT: true, unix.ELOOP: true} {
		err := damage(&fs.PathError{Op: "open", Path: "f", Err: code})
		if errors.Is(err, ErrDamaged) != want || !errors.Is(err, code) {
			t.Errorf("%v: damaged is %v", err, !want)
		}
	}
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "config.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := s.Import(t.Context(), "m", src, nil)
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Verify(ended, e); err == nil || errors.Is(err, ErrDamaged) {
		t.Errorf("a check that was ended says %v", err)
	}
	path := filepath.Join(e.Dir, "config.json")
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, []byte("[]"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), e); !errors.Is(err, ErrDamaged) {
		t.Errorf("other bytes: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), e); !errors.Is(err, ErrDamaged) {
		t.Errorf("a missing file: %v", err)
	}
}
