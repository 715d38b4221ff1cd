package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSourceThatChangesWhileItIsCopied(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(src string) error
	}{
		{"same size", func(src string) error {
			return os.WriteFile(filepath.Join(src, "config.json"), []byte(`{"model_type": "BERT"}`), 0o644)
		}},
		{"grows", func(src string) error {
			f, err := os.OpenFile(filepath.Join(src, "model.safetensors"), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("x")
			return errors.Join(err, f.Close())
		}},
		{"shrinks", func(src string) error { return os.Truncate(filepath.Join(src, "model.safetensors"), 5) }},
		{"replaced by a pipe", func(src string) error {
			return errors.Join(os.Remove(filepath.Join(src, "model.safetensors")), unix.Mkfifo(filepath.Join(src, "model.safetensors"), 0o644))
		}},
		{"replaced by a link outside", func(src string) error {
			return errors.Join(os.Remove(filepath.Join(src, "model.safetensors")), os.Symlink("/etc/passwd", filepath.Join(src, "model.safetensors")))
		}},
		{"another file", func(src string) error { return os.WriteFile(filepath.Join(src, "zzz.json"), nil, 0o644) }},
		{"a file less", func(src string) error { return os.Remove(filepath.Join(src, "empty.txt")) }},
	} {
		for _, point := range []string{"copy", "manifest"} { // before the first byte, after the last
			t.Run(tt.name+" at "+point, func(t *testing.T) {
				s, src := open(t, t.TempDir()), model(t)
				var once sync.Once
				s.system.at = func(p string) (err error) {
					if p == point {
						once.Do(func() { err = tt.change(src) })
					}
					return err
				}
				e, err := s.Import(t.Context(), "m", src, nil)
				if err == nil {
					t.Fatalf("imported as %+v", e)
				}
				t.Log(err)
				if left := tree(t, s.dir); len(left) > 0 {
					t.Errorf("left: %q", left)
				}
			})
		}
	}
}

// A directory that is exchanged and put back in time looks as it did before, but its files were other ones.
func TestDirectoryExchangedWhileItIsCopied(t *testing.T) {
	s, src := open(t, t.TempDir()), model(t)
	write(t, src, map[string]string{"onnx/model.onnx": "good", ".evil/model.onnx": "evil"})
	onnx, evil, aside := filepath.Join(src, "onnx"), filepath.Join(src, ".evil"), filepath.Join(src, ".aside")
	var first, last sync.Once
	s.system.at = func(p string) (err error) {
		switch p {
		case "copy": // of 1_Pooling/config.json
			first.Do(func() { err = errors.Join(os.Rename(onnx, aside), os.Rename(evil, onnx)) })
		case "manifest":
			last.Do(func() { err = errors.Join(os.Rename(onnx, evil), os.Rename(aside, onnx)) })
		}
		return err
	}
	if e, err := s.Import(t.Context(), "m", src, nil); err == nil || !strings.Contains(err.Error(), "onnx/model.onnx changed") {
		t.Errorf("%+v, %v", e, err)
	}
}

// points are the steps of an import, as system.at sees them.
var points = []string{"copy", "sync", "manifest", "rename"}

func TestFailedImportLeavesNothing(t *testing.T) {
	src, fault := model(t), errors.New("fault")
	for _, point := range points {
		for nth := 1; nth <= 4; nth++ {
			s, n := open(t, t.TempDir()), 0
			s.system.at = func(p string) error {
				if p == point {
					if n++; n == nth {
						return fault
					}
				}
				return nil
			}
			_, err := s.Import(t.Context(), "m", src, nil)
			if n < nth { // the point is not passed so often
				if n == 0 {
					t.Errorf("%s is never passed", point)
				}
				break
			}
			if !errors.Is(err, fault) {
				t.Errorf("%s %d: %v", point, nth, err)
			}
			if left := tree(t, s.dir); len(left) > 0 {
				t.Errorf("%s %d left %q", point, nth, left)
			}
		}
	}
	s := open(t, t.TempDir())
	s.system.at = func(p string) error {
		if p == "source" {
			return fault
		}
		return nil
	}
	if e, err := s.Import(t.Context(), "m", src, nil); err != nil || s.Verify(t.Context(), e) != nil {
		t.Errorf("without the source record: %+v, %v", e, err)
	}
}

func TestCanceledImportLeavesNothing(t *testing.T) {
	s, src := open(t, t.TempDir()), model(t)
	for stop := int64(0); stop < e0Total; stop += chunk / 2 {
		ctx, cancel := context.WithCancel(t.Context())
		if stop == 0 {
			cancel()
		}
		_, err := s.Import(ctx, "m", src, func(done, _ int64) {
			if done >= stop {
				cancel()
			}
		})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("at %d bytes: %v", stop, err)
		}
		if left := tree(t, s.dir); len(left) > 0 {
			t.Errorf("at %d bytes left %q", stop, left)
		}
	}
}

// The environment of a child of TestKilledImportIsNeverSeen.
const (
	dieAt  = "STORE_TEST_DIE_AT"
	dieDir = "STORE_TEST_DIR"
	dieSrc = "STORE_TEST_SRC"
)

func importAndDie(point string) {
	s, err := Open(os.Getenv(dieDir))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s.system.at = func(p string) error {
		if p == point {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	}
	_, err = s.Import(context.Background(), "m", os.Getenv(dieSrc), nil)
	fmt.Fprintln(os.Stderr, "lived: ", err)
	os.Exit(1)
}

func TestKilledImportIsNeverSeen(t *testing.T) {
	src := model(t)
	for _, point := range append(points, "source") {
		dir := t.TempDir()
		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env = append(os.Environ(), dieAt+"="+point, dieDir+"="+dir, dieSrc+"="+src)
		out, err := child.CombinedOutput()
		if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			t.Fatalf("%s: %v, %s", point, err, out)
		}
		s := open(t, dir) // the lock died with the child
		got, err := s.List()
		switch {
		case err != nil:
			t.Errorf("%s: %v", point, err)
		case point == "source" && (len(got) != 1 || s.Verify(t.Context(), got[0]) != nil):
			t.Errorf("%s: the finished entry is not whole: %+v", point, got)
		case point != "source" && len(got) != 0:
			t.Errorf("%s: %+v is visible", point, got)
		}
		for _, p := range tree(t, dir) {
			if strings.HasPrefix(p, tempPrefix) {
				t.Errorf("%s: %s is still there", point, p)
			}
		}
		if e, err := s.Import(t.Context(), "m", src, nil); err != nil || s.Verify(t.Context(), e) != nil {
			t.Errorf("%s: the next import: %+v, %v", point, e, err)
		}
	}
}

func TestNoRoom(t *testing.T) {
	s, src := open(t, t.TempDir()), model(t)
	s.system.clone = func(_, _ *os.File) error { return unix.EOPNOTSUPP }
	s.system.free = func(string) (int64, error) { return 1000, nil }
	_, err := s.Import(t.Context(), "m", src, nil)
	if want := "3145769 bytes are needed and 67108864 to spare, 1000 are free"; err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	s.system.free = free
	s.system.at = func(p string) error {
		if p == "sync" {
			return &fs.PathError{Op: "write", Path: "x", Err: unix.ENOSPC}
		}
		return nil
	}
	if _, err = s.Import(t.Context(), "m", src, nil); err == nil || !strings.Contains(err.Error(), "ran out after") || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%v", err)
	}
	if left := tree(t, s.dir); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}
