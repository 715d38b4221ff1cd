package hub

import (
	"context"
	"crypto/sha1" //nolint:gosec // git's object ids
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const commit = "0123456789abcdef0123456789abcdef01234567"

// standIn answers as the Hub does, with large files at another host.
type standIn struct {
	files map[string]string
	lfs   []string // paths of files in LFS
	token string   // asked for when not ""

	corrupt   map[string]bool
	hang      atomic.Int64 // answers that still stop in the middle and stay open
	cut       atomic.Int64 // answers that still break off in the middle
	ranges    atomic.Int64 // answers that went on
	fetched   atomic.Int64 // answers with files
	leaked    atomic.Bool  // the other host was sent a token
	api, cdn  *httptest.Server
	noListing atomic.Bool
}

func newStandIn(t *testing.T) *standIn {
	s := &standIn{
		files: map[string]string{
			"config.json": `{"model_type":"bert"}`, "tokenizer.json": strings.Repeat("t", 5000), "1_Pooling/config.json": "{}",
			"model.safetensors": strings.Repeat("weights ", 20_000), "pytorch_model.bin": "pickle", "README.md": "# hello",
			".gitattributes": "*", "onnx/model.onnx": "graph", "onnx/model_qint8.onnx": "variant", "openvino/model.bin": "x", "empty.json": "",
		},
		lfs: []string{"model.safetensors", "pytorch_model.bin", "onnx/model.onnx", "onnx/model_qint8.onnx"}, corrupt: map[string]bool{},
	}
	s.api = httptest.NewServer(http.HandlerFunc(s.serveAPI))
	s.cdn = httptest.NewServer(http.HandlerFunc(s.serveCDN))
	t.Cleanup(func() { s.api.Close(); s.cdn.Close(); http.DefaultClient.CloseIdleConnections() })
	return s
}

func (s *standIn) serveAPI(w http.ResponseWriter, r *http.Request) {
	if s.token != "" && r.Header.Get("Authorization") != "Bearer "+s.token {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if path, ok := strings.CutPrefix(r.URL.Path, "/org/tiny/resolve/"+commit+"/"); ok {
		// Another name for the loopback is another host for the client.
		http.Redirect(w, r, strings.Replace(s.cdn.URL, "127.0.0.1", "localhost", 1)+"/"+path, http.StatusFound)
		return
	}
	if s.noListing.Load() || r.URL.Path != "/api/models/org/tiny/revision/main" && r.URL.Path != "/api/models/org/tiny/revision/"+commit || r.URL.Query().Get("blobs") != "true" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	type sibling map[string]any
	var list []sibling
	for path, data := range s.files {
		e := sibling{"rfilename": path, "size": len(data), "blobId": gitID(data)}
		if slices.Contains(s.lfs, path) {
			h := sha256.Sum256([]byte(data))
			e["lfs"] = map[string]any{"sha256": hex.EncodeToString(h[:]), "size": len(data), "pointerSize": 130}
			e["blobId"] = strings.Repeat("0", 40)
		}
		list = append(list, e)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"sha": commit, "siblings": list, "private": false})
}

func gitID(data string) string {
	h := sha1.Sum([]byte(fmt.Sprintf("blob %d\x00%s", len(data), data))) //nolint:gosec // git's object ids
	return hex.EncodeToString(h[:])
}

func (s *standIn) serveCDN(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "" {
		s.leaked.Store(true)
	}
	path := strings.TrimPrefix(r.URL.Path, "/")
	data, ok := s.files[path]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if s.corrupt[path] {
		data = strings.ToUpper(data)
	}
	if r.Header.Get("Range") != "" {
		s.ranges.Add(1)
	}
	s.fetched.Add(1)
	if len(data) > 10_000 && s.cut.Add(-1) >= 0 {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write([]byte(data[:len(data)/2]))
		return
	}
	if len(data) > 10_000 && s.hang.Add(-1) >= 0 {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write([]byte(data[:len(data)/2]))
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
		<-r.Context().Done()
		return
	}
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(data))
}

func (s *standIn) client() Client { return Client{Endpoint: s.api.URL, Token: s.token} }

// wanted is what serving needs of the stand-in's files.
var wanted = []string{"1_Pooling/config.json", "config.json", "empty.json", "model.safetensors", "onnx/model.onnx", "tokenizer.json"}

func fetch(t *testing.T, s *standIn, dir string, progress func(int64)) error {
	t.Helper()
	ref, err := ParseRef("hf://org/tiny")
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.client().List(t.Context(), ref)
	if err != nil {
		return err
	}
	return s.client().Fetch(t.Context(), l, dir, progress)
}

func check(t *testing.T, s *standIn, dir string) {
	t.Helper()
	var got []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if string(data) != s.files[filepath.ToSlash(rel)] {
			t.Errorf("%s has %d other bytes", rel, len(data))
		}
		got = append(got, filepath.ToSlash(rel))
		return err
	})
	slices.Sort(got)
	if err != nil || !slices.Equal(got, wanted) {
		t.Errorf("there are %v, want %v, %v", got, wanted, err)
	}
}

func TestFetch(t *testing.T) {
	s, dir := newStandIn(t), filepath.Join(t.TempDir(), "m")
	s.token = "hf_secret"
	var seen, total int64
	for _, p := range wanted {
		total += int64(len(s.files[p]))
	}
	if err := fetch(t, s, dir, func(n int64) { seen += n }); err != nil {
		t.Fatal(err)
	}
	check(t, s, dir)
	if seen != total {
		t.Errorf("progress told of %d of %d bytes", seen, total)
	}
	if s.leaked.Load() {
		t.Error("the token went to the other host")
	}
	before := s.fetched.Load()
	if err := fetch(t, s, dir, nil); err != nil || s.fetched.Load() != before {
		t.Errorf("again: %d files were fetched, %v", s.fetched.Load()-before, err)
	}
	s.token = "another"
	c := s.client()
	c.Token = ""
	if _, err := c.List(t.Context(), Ref{Repo: "org/tiny", Revision: "main"}); err == nil || !strings.Contains(err.Error(), "set HF_TOKEN") {
		t.Errorf("without the token: %v", err)
	}
}

func TestFetchGoesOn(t *testing.T) {
	s, dir := newStandIn(t), t.TempDir()
	s.cut.Store(1)
	if err := fetch(t, s, dir, nil); err != nil {
		t.Fatal(err)
	}
	check(t, s, dir)
	if s.ranges.Load() == 0 {
		t.Error("the file that broke off was fetched from its beginning")
	}
}

// A download from which nothing comes any more is ended, and goes on.
func TestFetchThatHangs(t *testing.T) {
	s := newStandIn(t)
	s.hang.Store(1)
	ref, err := ParseRef("hf://org/tiny")
	if err != nil {
		t.Fatal(err)
	}
	c := s.client()
	l, err := c.List(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	c.stall = 100 * time.Millisecond
	dir := filepath.Join(t.TempDir(), "files")
	if err := c.Fetch(t.Context(), l, dir, nil); err != nil {
		t.Fatal(err)
	}
	check(t, s, dir)
	if s.ranges.Load() == 0 {
		t.Error("it began anew")
	}
}

func TestWrongBytesAreRefused(t *testing.T) {
	for _, path := range []string{"model.safetensors", "tokenizer.json"} { // of LFS, of git
		s, dir := newStandIn(t), t.TempDir()
		s.corrupt[path] = true
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond) // after the second try
		defer cancel()
		l, err := s.client().List(ctx, Ref{Repo: "org/tiny", Revision: "main"})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.client().Fetch(ctx, l, dir, nil); err == nil {
			t.Errorf("%s was taken", path)
		}
		if _, err := os.Stat(filepath.Join(dir, path)); err == nil {
			t.Errorf("%s has its name", path)
		}
	}
}

func TestRefs(t *testing.T) {
	for text, want := range map[string]Ref{
		"hf://org/name": {"org/name", "main"}, "hf://org/name@v1.0": {"org/name", "v1.0"}, "hf://org/name@refs/pr/1": {"org/name", "refs/pr/1"},
		"hf://org/name@" + commit: {"org/name", commit},
	} {
		r, err := ParseRef(text)
		if err != nil || r != want || r.Pinned() != (want.Revision == commit) {
			t.Errorf("%s: %+v, %v", text, r, err)
		}
	}
	for _, text := range []string{"", "org/name", "hf://name", "hf://org/name@", "hf://../name", "hf://org/name@../x", "hf://org/name/more", "hf://o rg/name"} {
		if _, err := ParseRef(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
	if _, err := newStandIn(t).client().List(t.Context(), Ref{Repo: "org/none", Revision: "main"}); err == nil || !strings.Contains(err.Error(), "no such model") {
		t.Errorf("%v", err)
	}
}

func FuzzListing(f *testing.F) {
	f.Add([]byte(`{"sha":"` + commit + `","siblings":[{"rfilename":"config.json","size":3,"blobId":"` + commit + `"}]}`))
	f.Add([]byte(`{"sha":"` + commit + `","siblings":[{"rfilename":"../x","size":-3,"lfs":{"sha256":"x"}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := parseListing(data)
		if err != nil {
			return
		}
		for _, file := range l.Files {
			if !filepath.IsLocal(file.Path) || file.Size < 0 {
				t.Fatalf("taken: %+v", file)
			}
		}
	})
}
