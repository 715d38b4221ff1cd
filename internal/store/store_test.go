package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if point := os.Getenv(dieAt); point != "" {
		importAndDie(point)
	}
	goleak.VerifyTestMain(m)
}

// open opens a store in dir that believes every file is old enough to be remembered.
func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	s.system.now = func() time.Time { return time.Now().Add(time.Hour) }
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return s
}

// write makes the files of a model directory. They look an hour old: a change within the same tick of the file
// system's clock would not show.
func write(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func model(t *testing.T) string {
	t.Helper()
	return write(t, t.TempDir(), map[string]string{
		"config.json": `{"model_type": "bert"}`, "model.safetensors": strings.Repeat("w", 3*chunk+17), "1_Pooling/config.json": "{}", "empty.txt": "",
	})
}

func mustImport(t *testing.T, s *Store, name, src string) Entry {
	t.Helper()
	e, err := s.Import(t.Context(), name, src, nil)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// tree lists the files and directories below dir, sorted, but for the lock.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && path != dir && d.Name() != lockName {
			rel, _ := filepath.Rel(dir, path)
			out = append(out, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestTwoDaemonsCannotShareAStore(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	_, err := Open(dir)
	if err == nil || !strings.Contains(err.Error(), "in use by process "+strconv.Itoa(os.Getpid())) {
		t.Fatalf("second Open: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

func TestOpenRemovesWhatInterruptedImportsLeft(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{".tmp-1/entry/model.safetensors": "half", ".tmp-2": "half", "minilm/keep.txt": "x"})
	open(t, dir)
	if got := tree(t, dir); !slices.Equal(got, []string{"minilm", "minilm/keep.txt"}) {
		t.Errorf("left: %q", got)
	}
}

func TestOpenWhereNoDirectoryCanBe(t *testing.T) {
	file := filepath.Join(write(t, t.TempDir(), map[string]string{"f": ""}), "f")
	if _, err := Open(filepath.Join(file, "store")); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("%v", err)
	}
	dir := t.TempDir()
	if err := os.Symlink("/etc/hostname", filepath.Join(dir, lockName)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil {
		t.Error("the lock was taken, and written to, through a link")
	}
}

func TestListAndRemove(t *testing.T) {
	s := open(t, t.TempDir())
	src := model(t)
	b := mustImport(t, s, "b", src)
	a := mustImport(t, s, "a", src)
	write(t, src, map[string]string{"config.json": "{}"})
	b2 := mustImport(t, s, "b", src)
	want := []Entry{a, b, b2}
	if b2.Model.Digest < b.Model.Digest {
		want = []Entry{a, b2, b}
	}
	if got, err := s.List(); err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	mapped, err := os.Open(filepath.Join(b.Dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer mapped.Close()
	for _, e := range []Entry{b, b2} {
		if err := s.Remove(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Remove(b); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("second Remove: %v", err)
	}
	if got, err := s.List(); err != nil || !slices.Equal(got, []Entry{a}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got := tree(t, s.dir); slices.ContainsFunc(got, func(p string) bool { return p == "b" || strings.HasPrefix(p, ".") }) {
		t.Errorf("left: %q", got)
	}
	if n, err := mapped.ReadAt(make([]byte, 10), 0); n != 10 || err != nil {
		t.Errorf("a file open before the removal: %d, %v", n, err)
	}
	if _, err := s.Lookup("a", a.Model.Digest); err != nil {
		t.Error(err)
	}
	for _, bad := range [][2]string{{"../a", a.Model.Digest}, {"a", "../x"}, {"a", "sha256-00"}, {"", ""}} {
		if _, err := s.Lookup(bad[0], bad[1]); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestListTellsWhatIsDamaged(t *testing.T) {
	s := open(t, t.TempDir())
	good := mustImport(t, s, "good", model(t))
	bad := mustImport(t, s, "bad", model(t))
	if err := os.Truncate(filepath.Join(bad.Dir, "model.safetensors"), 5); err != nil {
		t.Fatal(err)
	}
	got, err := s.List()
	if !slices.Equal(got, []Entry{good}) {
		t.Errorf("%+v", got)
	}
	if err == nil || !strings.Contains(err.Error(), "model.safetensors is a file of 5 bytes, must be a file of 3145745") {
		t.Errorf("%v", err)
	}
}

func TestVerify(t *testing.T) {
	for _, tt := range []struct {
		name string
		harm func(t *testing.T, dir string) error
		want string // "" when nothing is wrong
	}{
		{"as imported", func(*testing.T, string) error { return nil }, ""},
		{"a built graph beside", func(t *testing.T, dir string) error {
			write(t, dir, map[string]string{"akidb-graph.onnx": "x", "1_Pooling/akidb-x": "y"})
			return nil
		}, ""},
		{"one bit", func(t *testing.T, dir string) error {
			return os.WriteFile(filepath.Join(dir, "1_Pooling/config.json"), []byte("{]"), 0o644)
		}, "1_Pooling/config.json has 2 bytes with SHA-256"},
		{"missing", func(t *testing.T, dir string) error { return os.Remove(filepath.Join(dir, "config.json")) }, "config.json: no such file"},
		{"too much", func(t *testing.T, dir string) error {
			write(t, dir, map[string]string{"evil.json": "x"})
			return nil
		}, "evil.json does not belong here"},
		{"link", func(t *testing.T, dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "empty.txt")), os.Symlink("/dev/null", filepath.Join(dir, "empty.txt")))
		}, "empty.txt is something else (L"},
		{"no manifest", func(t *testing.T, dir string) error { return os.Remove(filepath.Join(dir, manifestName)) }, manifestName},
		{"foreign manifest", func(t *testing.T, dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, manifestName)), os.WriteFile(filepath.Join(dir, manifestName), []byte(`{"files": []}`), 0o644))
		}, "akidb-manifest.json is of sha256-e3b0c44"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t, t.TempDir())
			e := mustImport(t, s, "m", model(t))
			if err := tt.harm(t, e.Dir); err != nil {
				t.Fatal(err)
			}
			err := s.Verify(t.Context(), e)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
	s := open(t, t.TempDir())
	e := mustImport(t, s, "m", model(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Verify(ctx, e); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(`{"files":[{"path":"a/b","size":1,"sha256":"` + strings.Repeat("0", 64) + `"}]}`))
	f.Add([]byte(`{"files":[{"path":"../b","size":-1}]}`))
	f.Add([]byte(`{"files":[{"path":"a\nb 1 x"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseManifest(data)
		if err != nil {
			return
		}
		for _, file := range m.Files {
			if !filepath.IsLocal(file.Path) || strings.ContainsAny(file.Path, "\n\\") || file.Size < 0 {
				t.Errorf("accepted %+v", file)
			}
		}
		if m.bytes() < 0 || !digestForm.MatchString(m.digest()) {
			t.Errorf("%d bytes, digest %s", m.bytes(), m.digest())
		}
	})
}
