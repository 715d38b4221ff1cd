package store

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// gathered puts the files of src into the incoming directory of s, named by their hashes.
func gathered(t *testing.T, s *Store, src string) ([]File, func(File) string) {
	t.Helper()
	files, err := Hash(t.Context(), src, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := s.Incoming()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(src, f.Path))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, f.SHA256), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return files, func(f File) string { return filepath.Join(dir, f.SHA256) }
}

// An added entry is the one that an import of the same files makes.
func TestAdd(t *testing.T) {
	s, src := open(t, t.TempDir()), model(t)
	files, place := gathered(t, s, src)
	e, err := s.Add(t.Context(), "m", files, place)
	if err != nil {
		t.Fatal(err)
	}
	if e.Model.Digest != Digest(files) || !slices.Equal(s.Files(e), files) {
		t.Errorf("added as %+v with %v", e, s.Files(e))
	}
	if err := s.Verify(t.Context(), e); err != nil {
		t.Error(err)
	}
	for _, f := range files {
		if err := os.Remove(place(f)); err != nil {
			t.Fatal(err)
		}
		at, size, ok := s.Blob(f.SHA256)
		if info, err := os.Stat(at); !ok || size != f.Size || err != nil || info.Mode().Perm() != 0o444 {
			t.Errorf("%s is at %s, %d bytes, %v, %v", f.Path, at, size, ok, err)
		}
	}
	again, err := s.Add(t.Context(), "m", files, func(File) string { return "/nowhere" })
	if err != nil || again != e {
		t.Errorf("what is there is added as %+v, %v", again, err)
	}
	if imported := mustImport(t, open(t, t.TempDir()), "m", src); imported.Model != e.Model {
		t.Errorf("imported as %v, added as %v", imported.Model, e.Model)
	}
	if _, _, ok := s.Blob("../" + files[0].SHA256[3:]); ok {
		t.Error("a blob that is a path")
	}
}

// A blob that went with its entry is found in another one that has it, or not at all.
func TestBlobOfRemovedEntry(t *testing.T) {
	s, src := open(t, t.TempDir()), model(t)
	a, b := mustImport(t, s, "a", src), mustImport(t, s, "b", src)
	sha := s.Files(a)[0].SHA256
	for _, e := range []Entry{a, b} {
		for range 2 { // found, then remembered
			if at, _, ok := s.Blob(sha); !ok || !strings.HasPrefix(at, e.Dir+"/") {
				t.Fatalf("it is at %q, want below %s", at, e.Dir)
			}
		}
		if err := s.Remove(e); err != nil {
			t.Fatal(err)
		}
	}
	if at, _, ok := s.Blob(sha); ok {
		t.Errorf("it is still at %s", at)
	}
}

// An Add that fails leaves nothing behind, at whatever step.
func TestAddThatFails(t *testing.T) {
	for name, fail := range map[string]func(s *Store, place func(File) string, files []File) func(File) string{
		"a file is missing": func(_ *Store, place func(File) string, files []File) func(File) string {
			_ = os.Remove(place(files[1]))
			return place
		},
		"a file is short": func(_ *Store, place func(File) string, files []File) func(File) string {
			_ = os.Truncate(place(files[1]), 1)
			return place
		},
		"a file is a link": func(_ *Store, place func(File) string, files []File) func(File) string {
			_ = errors.Join(os.Remove(place(files[1])), os.Symlink("/etc/passwd", place(files[1])))
			return place
		},
		"disk full at the second file": func(s *Store, place func(File) string, _ []File) func(File) string {
			n := 0
			s.system.at = func(point string) error {
				if n++; point == "link" && n == 2 {
					return unix.ENOSPC
				}
				return nil
			}
			return place
		},
		"disk full at the rename": func(s *Store, place func(File) string, _ []File) func(File) string {
			s.system.at = func(point string) error {
				if point == "rename" {
					return unix.ENOSPC
				}
				return nil
			}
			return place
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			files, place := gathered(t, s, model(t))
			if e, err := s.Add(t.Context(), "m", files, fail(s, place, files)); err == nil {
				t.Fatalf("added as %+v", e)
			}
			left, err := os.ReadDir(s.dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range left {
				if e.Name() != lockName && e.Name() != incomingName {
					t.Errorf("%s is left", e.Name())
				}
			}
		})
	}
}

func TestEvict(t *testing.T) {
	s := open(t, t.TempDir())
	now := time.Now()
	var entries []Entry
	for i, tag := range []string{"a", "b", "c", "d"} {
		e := mustImport(t, s, "m", write(t, t.TempDir(), map[string]string{"config.json": "{}", "w.safetensors": strings.Repeat(tag, 100)}))
		s.system.now = func() time.Time { return now.Add(time.Duration(i) * time.Minute) }
		if err := s.Used(e); err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
	other := mustImport(t, s, "other", model(t))
	s.system.now = func() time.Time { return now.Add(time.Hour) }
	if err := s.Used(other); err != nil {
		t.Fatal(err)
	}
	digests := func(list []Entry) (out []string) {
		for _, e := range list {
			out = append(out, e.Model.Digest)
		}
		return out
	}
	first := func(e Entry) bool { return e.Model.Digest == entries[0].Model.Digest }
	gone, err := s.Evict(Bound{Versions: 2}, 0, first)
	if err != nil || !slices.Equal(digests(gone), digests(entries[1:3])) {
		t.Errorf("by number: %v, %v", gone, err)
	}
	gone, err = s.Evict(Bound{Bytes: other.Bytes + 250}, 100, first) // two of 102 bytes and 100 more are too many
	if err != nil || !slices.Equal(digests(gone), digests(entries[3:])) {
		t.Errorf("by bytes: %v, %v", gone, err)
	}
	gone, err = s.Evict(Bound{Bytes: 1}, 0, func(Entry) bool { return true })
	if err != nil || len(gone) != 0 {
		t.Errorf("what is needed went: %v, %v", gone, err)
	}
	if left, err := s.List(); err != nil || len(left) != 2 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestServedPaths(t *testing.T) {
	got := ServedPaths([]string{
		"config.json", "onnx/model.onnx", "onnx/model_fp16.onnx", "onnx/model.onnx_data", "other/model_q4.onnx", "README.md", ".git/config", "pytorch_model.bin",
		"openvino/model.bin", "1_Pooling/config.json", "../up", "a\\b", "akidb-x.trt", "tokenizer.model",
	})
	want := []string{"config.json", "onnx/model.onnx", "onnx/model.onnx_data", "other/model_q4.onnx", "1_Pooling/config.json", "tokenizer.model"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	// The same rule as of an import.
	src := write(t, t.TempDir(), map[string]string{
		"config.json": "{}", "onnx/model.onnx": "g", "onnx/model_fp16.onnx": "g", "README.md": "x", "pytorch_model.bin": "x", "tokenizer.json": "{}",
	})
	files, err := Hash(t.Context(), src, nil)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, f := range files {
		paths = append(paths, f.Path)
	}
	if want := ServedPaths([]string{"README.md", "config.json", "onnx/model.onnx", "onnx/model_fp16.onnx", "pytorch_model.bin", "tokenizer.json"}); !slices.Equal(paths, want) {
		t.Errorf("hashed %v, want %v", paths, want)
	}
	if err := CheckFiles(files); err != nil {
		t.Error(err)
	}
	slices.Reverse(files)
	if err := CheckFiles(files); err == nil {
		t.Error("files that are not sorted were taken")
	}
}
