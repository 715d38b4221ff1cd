package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestImport(t *testing.T) {
	src := model(t)
	write(t, src, map[string]string{
		".git/config": "x", ".gitattributes": "x", "README.md": "x", "LICENSE": "x", "modeling.py": "x", "pytorch_model-00001-of-00002.bin": "x",
		"tf_model.h5": "x", "flax_model.msgpack": "x", "openvino/openvino_model.bin": "x", "akidb-graph.onnx": "x", "unigram.bin": "kept",
		"onnx/model.onnx": "kept", "onnx/model.onnx_data": "kept", "onnx/model_O4.onnx": "x", "onnx/model_fp16.onnx_data": "x", "onnx/scales.txt": "kept",
	})
	s := open(t, t.TempDir())
	var done []int64
	e, err := s.Import(t.Context(), "minilm", src, func(d, total int64) {
		if d > total || total != e0Total {
			t.Errorf("progress says %d of %d", d, total)
		}
		done = append(done, d)
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSorted(done) || done[len(done)-1] != e0Total || len(done) < 4 || e.Bytes != e0Total {
		t.Errorf("progress was %v, Bytes is %d, want %d", done, e.Bytes, e0Total)
	}
	if e.Model.Name != "minilm" || e.Dir != filepath.Join(s.dir, "minilm", e.Model.Digest) {
		t.Errorf("%+v", e)
	}
	// Made with sha256sum(1) from the same files: the digest is a promise between nodes and versions.
	if want := "sha256-" + e0Digest; e.Model.Digest != want {
		t.Errorf("digest %s, want %s", e.Model.Digest, want)
	}
	want := []string{
		"1_Pooling", "1_Pooling/config.json", "akidb-manifest.json", "config.json", "empty.txt", "model.safetensors",
		"onnx", "onnx/model.onnx", "onnx/model.onnx_data", "onnx/scales.txt", "unigram.bin",
	}
	if got := tree(t, e.Dir); !slices.Equal(got, want) {
		t.Errorf("holds %q\nwant  %q", got, want)
	}
	for _, name := range want {
		info, err := os.Lstat(filepath.Join(e.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().IsRegular() && info.Mode().Perm() != 0o444 {
			t.Errorf("%s has mode %s", name, info.Mode())
		}
	}
	if err := s.Verify(t.Context(), e); err != nil {
		t.Error(err)
	}
	got, err := os.ReadFile(filepath.Join(e.Dir, "model.safetensors"))
	if err != nil || string(got) != strings.Repeat("w", 3*chunk+17) {
		t.Errorf("the weights differ: %d bytes, %v", len(got), err)
	}
}

const (
	e0Total  = 3*chunk + 17 + 22 + 2 + 0 + 4*4
	e0Digest = "4ade3b2127db2e67ae0c9156c384d8db888eef38c46eec2cc55aea36941f84a4"
)

func TestSameContentTwiceIsOneCopy(t *testing.T) {
	s := open(t, t.TempDir())
	e := mustImport(t, s, "m", model(t))
	before := tree(t, s.dir)
	inode := func() uint64 {
		info, err := os.Stat(filepath.Join(e.Dir, "model.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Ino
	}
	first := inode()
	if again := mustImport(t, s, "m", model(t)); again != e { // other files, same content
		t.Errorf("%+v, want %+v", again, e)
	}
	if inode() != first || !slices.Equal(tree(t, s.dir), before) {
		t.Errorf("the store changed: %q", tree(t, s.dir))
	}
}

func TestUnchangedSourceIsNotRead(t *testing.T) {
	dir, src := t.TempDir(), model(t)
	s := open(t, dir)
	e := mustImport(t, s, "m", src)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	read := false
	again := func() Entry {
		t.Helper()
		read = false
		got, err := s.Import(t.Context(), "m", src, func(int64, int64) { read = true })
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := again(); got != e || read {
		t.Errorf("unchanged: %+v, read: %v", got, read)
	}
	write(t, src, map[string]string{"config.json": `{"model_type": "BERT"}`}) // same size
	e2 := again()
	if e2.Model == e.Model || !read {
		t.Errorf("changed: %+v, read: %v", e2, read)
	}
	if got, err := s.List(); err != nil || len(got) != 2 {
		t.Errorf("both contents must stay: %+v, %v", got, err)
	}
	if err := os.Chtimes(filepath.Join(src, "config.json"), time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if got := again(); got != e2 || !read {
		t.Errorf("touched: %+v, read: %v", got, read)
	}
	moved := src + "-moved"
	if err := os.Rename(src, moved); err != nil {
		t.Fatal(err)
	}
	src = moved
	if got := again(); got != e2 || !read {
		t.Errorf("moved: %+v, read: %v", got, read)
	}
	if err := s.Remove(e2); err != nil {
		t.Fatal(err)
	}
	if got := again(); got != e2 || !read {
		t.Errorf("entry removed: %+v, read: %v", got, read)
	}
	if err := os.Truncate(filepath.Join(e2.Dir, "config.json"), 3); err != nil {
		t.Fatal(err)
	}
	if got := again(); got != e2 || !read || s.Verify(t.Context(), got) != nil {
		t.Errorf("entry damaged: %+v, read: %v, %v", got, read, s.Verify(t.Context(), got))
	}
	if err := os.WriteFile(filepath.Join(s.dir, "m", sourceName), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := again(); got != e2 || !read {
		t.Errorf("record damaged: %+v, read: %v", got, read)
	}
}

func TestSourceWrittenJustNowIsReadAgain(t *testing.T) {
	s, src := open(t, t.TempDir()), model(t)
	s.system.now = time.Now
	mustImport(t, s, "m", src)
	read := false
	if _, err := s.Import(t.Context(), "m", src, func(int64, int64) { read = true }); err != nil || !read {
		t.Errorf("read: %v, %v", read, err)
	}
}

func TestImportRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(t *testing.T, src string) error
		want string
	}{
		{"link outside", func(t *testing.T, src string) error {
			return os.Symlink("/etc/passwd", filepath.Join(src, "vocab.txt"))
		}, "vocab.txt is a link that leads outside or nowhere"},
		{"relative link outside", func(t *testing.T, src string) error {
			return os.Symlink("../../etc/passwd", filepath.Join(src, "1_Pooling", "vocab.txt"))
		}, "1_Pooling/vocab.txt is a link that leads outside or nowhere"},
		{"dangling link", func(t *testing.T, src string) error {
			return os.Symlink("nothing", filepath.Join(src, "vocab.txt"))
		}, "cp -rL"},
		{"link to a directory", func(t *testing.T, src string) error {
			return os.Symlink("1_Pooling", filepath.Join(src, "2_Pooling"))
		}, "2_Pooling is a link to a directory"},
		{"loop", func(t *testing.T, src string) error { return os.Symlink(".", filepath.Join(src, "again")) }, "again is a link to a directory"},
		{"fifo", func(t *testing.T, src string) error { return unix.Mkfifo(filepath.Join(src, "vocab.txt"), 0o644) }, "vocab.txt is not a regular file (p"},
		{"link to a fifo", func(t *testing.T, src string) error {
			return errors.Join(unix.Mkfifo(filepath.Join(src, ".pipe"), 0o644), os.Symlink(".pipe", filepath.Join(src, "vocab.txt")))
		}, "vocab.txt is not a regular file (p"},
		{"name of two lines", func(t *testing.T, src string) error {
			write(t, src, map[string]string{"a 0 x\nb": ""})
			return nil
		}, `"a 0 x\nb" is a name that cannot be kept`},
		{"name that is not UTF-8", func(t *testing.T, src string) error {
			write(t, src, map[string]string{"\xff": ""})
			return nil
		}, `"\xff" is a name that cannot be kept`},
		{"too many files", func(t *testing.T, src string) error {
			for i := range 1000 {
				write(t, src, map[string]string{fmt.Sprintf("f%d", i): ""})
			}
			return nil
		}, "over 1000 files of a model in it"},
		{"too deep", func(t *testing.T, src string) error {
			write(t, src, map[string]string{"1/2/3/4/5/6/7/8/9/f": ""})
			return nil
		}, "1/2/3/4/5/6/7/8/9 is over 8 directories deep"},
		{"too large", func(t *testing.T, src string) error {
			write(t, src, map[string]string{"sparse.safetensors": ""})
			return os.Truncate(filepath.Join(src, "sparse.safetensors"), 257<<30)
		}, "over 274877906944 bytes of a model in it"},
		{"nothing", func(t *testing.T, src string) error {
			for _, e := range []string{"config.json", "model.safetensors", "1_Pooling", "empty.txt"} {
				if err := os.RemoveAll(filepath.Join(src, e)); err != nil {
					return err
				}
			}
			write(t, src, map[string]string{"README.md": "x"})
			return nil
		}, "no file of a model in it"},
		{"no directory", func(t *testing.T, src string) error { return os.RemoveAll(src) }, "no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, src := open(t, t.TempDir()), model(t)
			if err := tt.make(t, src); err != nil {
				t.Fatal(err)
			}
			_, err := s.Import(t.Context(), "m", src, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if left := tree(t, s.dir); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
	s := open(t, t.TempDir())
	for _, name := range []string{"", "..", "../m", ".m", "a/b"} {
		if _, err := s.Import(t.Context(), name, model(t), nil); err == nil {
			t.Errorf("the name %q was taken", name)
		}
	}
}

func TestLinkInsideIsCopiedAsItsFile(t *testing.T) {
	s, src := open(t, t.TempDir()), model(t)
	plain := mustImport(t, s, "plain", src)
	path := filepath.Join(src, "config.json")
	if err := errors.Join(os.Rename(path, filepath.Join(src, ".blob")), os.Symlink(".blob", path)); err != nil {
		t.Fatal(err)
	}
	linked := mustImport(t, s, "linked", src)
	if linked.Model.Digest != plain.Model.Digest {
		t.Errorf("digest %s, want %s", linked.Model.Digest, plain.Model.Digest)
	}
	if info, err := os.Lstat(filepath.Join(linked.Dir, "config.json")); err != nil || !info.Mode().IsRegular() {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestDirectoriesAreReadWithinALimit(t *testing.T) {
	s, src := open(t, t.TempDir()), model(t)
	for i := range 10 {
		write(t, src, map[string]string{fmt.Sprintf("%d.md", i): "", fmt.Sprintf("d%d/e/f.md", i): ""})
	}
	s.limits.seen = 30 // 5 of the model, 10 and 30 more
	if _, err := s.Import(t.Context(), "m", src, nil); err == nil || !strings.Contains(err.Error(), "over 30 files and directories in it") {
		t.Errorf("%v", err)
	}
	s.limits.seen = 45
	mustImport(t, s, "m", src)
}

func TestClonesNeedNoRoom(t *testing.T) {
	s, src := open(t, t.TempDir()), model(t)
	want := mustImport(t, s, "copied", src)
	clones := 0
	s.system.clone = func(to, from *os.File) error { // as FICLONE does, neither offset moves
		clones++
		data, err := io.ReadAll(io.NewSectionReader(from, 0, 1<<40))
		if err == nil {
			_, err = to.WriteAt(data, 0)
		}
		return err
	}
	s.system.free = func(string) (int64, error) { return 0, nil }
	e := mustImport(t, s, "cloned", src)
	if e.Model.Digest != want.Model.Digest || clones != 4 {
		t.Errorf("digest %s, want %s, after %d clones", e.Model.Digest, want.Model.Digest, clones)
	}
	if err := s.Verify(t.Context(), e); err != nil {
		t.Error(err)
	}
}

func TestCloneThatIsNotWhole(t *testing.T) {
	s, src := open(t, t.TempDir()), model(t)
	s.system.clone = func(to, _ *os.File) error { return to.Truncate(1) }
	if e, err := s.Import(t.Context(), "m", src, nil); err == nil {
		t.Errorf("imported as %+v", e)
	}
	if left := tree(t, s.dir); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

func TestImportsAtOnce(t *testing.T) {
	s, src := open(t, t.TempDir()), model(t)
	other := write(t, model(t), map[string]string{"config.json": "{}"})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			from := src
			if i%2 == 1 {
				from = other
			}
			e, err := s.Import(t.Context(), "m", from, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Verify(t.Context(), e); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got, err := s.List(); err != nil || len(got) != 2 {
		t.Errorf("%+v, %v", got, err)
	}
}

func BenchmarkImport(b *testing.B) {
	const size = 90 << 20
	src, dir := b.TempDir(), b.TempDir()
	if err := os.WriteFile(filepath.Join(src, "model.safetensors"), bytes.Repeat([]byte("0123456789abcdef"), size/16), 0o644); err != nil {
		b.Fatal(err)
	}
	s, err := Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	s.system.now = func() time.Time { return time.Now().Add(time.Hour) }
	run := func(b *testing.B, after func(Entry) error) {
		b.SetBytes(size)
		for b.Loop() {
			e, err := s.Import(b.Context(), "m", src, nil)
			if err == nil {
				err = after(e)
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("read", func(b *testing.B) { run(b, s.Remove) })
	b.Run("known", func(b *testing.B) { run(b, func(Entry) error { return nil }) })
	b.Run("verify", func(b *testing.B) { run(b, func(e Entry) error { return s.Verify(b.Context(), e) }) })
}
