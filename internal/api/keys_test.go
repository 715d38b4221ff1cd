package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/akidb/akidbd/internal/embedding"
)

const (
	keyA = "aaaaaaaaaaaaaaaa-secret-a"
	keyB = "bbbbbbbbbbbbbbbb-secret-b"
)

func sumOf(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

func writeKeys(t testing.TB, path, body string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	writeKeys(t, path, "# who\n\n alice : "+keyA+" \nbob:sha256="+sumOf(keyB)+"\n")
	d := newDoor(t, Config{KeysFile: path, RequireKeyForMetrics: true})
	protected := []struct{ method, path, body string }{
		{"POST", "/api/v1/embed", `{"text":"x"}`}, {"GET", "/api/v1/models", ""}, {"POST", "/v1/embeddings", `{"input":"x"}`},
		{"GET", "/v1/models", ""}, {"GET", "/v1/models/minilm", ""}, {"GET", "/metrics", ""},
	}
	for _, p := range protected {
		for _, tc := range []struct {
			name, value string
			ok          bool
			message     string
		}{
			{"Authorization", "Bearer " + keyA, true, ""},
			{"Authorization", "bearer  " + keyB, true, ""},
			{"X-Api-Key", keyA, true, ""},
			{"X-Api-Key", keyB, true, ""},
			{"X-Api-Key", "", false, "an API key is needed"},
			{"X-Api-Key", keyA + "x", false, "not known"},
			{"X-Api-Key", keyA[:len(keyA)-1], false, "not known"},
			{"X-Api-Key", "sha256=" + sumOf(keyB), false, "not known"},
			{"X-Api-Key", sumOf(keyB), false, "not known"},
			{"Authorization", "Basic " + keyA, false, `must be "Bearer KEY"`},
			{"Authorization", "Bearer", false, "an API key is needed"},
			{"Authorization", keyA, false, `must be "Bearer KEY"`},
		} {
			w := d.do(p.method, p.path, p.body, tc.name, tc.value)
			if tc.ok {
				if w.Code != 200 {
					t.Errorf("%s with %s: %s: got %d", p.path, tc.name, tc.value, w.Code)
				}
				continue
			}
			checkFailure(t, w, p.path, 401, tc.message, "")
			if w.Header().Get("WWW-Authenticate") != `Bearer realm="akidbd"` {
				t.Errorf("www-authenticate is %q", w.Header().Get("WWW-Authenticate"))
			}
		}
	}
	for _, path := range []string{"/health", "/livez", "/readyz", "/"} {
		if w := d.do("GET", path, ""); w.Code != 200 {
			t.Errorf("%s without a key gave %d", path, w.Code)
		}
	}
	if w := newDoor(t, Config{KeysFile: path}).do("GET", "/metrics", ""); w.Code != 200 {
		t.Errorf("/metrics without a key gave %d", w.Code)
	}
	log := d.log.String()
	if strings.Contains(log, "secret") || strings.Contains(log, sumOf(keyA)) {
		t.Error("a key is in the log")
	}
	if !strings.Contains(log, `"key_name":"alice"`) || !strings.Contains(log, `"key_name":"bob"`) {
		t.Error("the names of the keys are not in the log")
	}
	if n := d.metric("akidb_embed_requests_total", "code", string(embedding.CodeUnauthenticated)); n != 16 {
		t.Errorf("%g refused embed requests were counted, want 16", n)
	}
}

func TestParseKeys(t *testing.T) {
	many := strings.Builder{}
	for i := range maxKeys + 1 {
		fmt.Fprintf(&many, "n%d:%s\n", i, keyA)
	}
	for body, want := range map[string]string{
		"":                                 "there is no key in it",
		"# only words\n":                   "there is no key in it",
		"alice\n":                          "line 1 has no colon",
		"ok:" + keyA + "\n:" + keyB:        "line 2: a name is 1 to 64",
		"a b:" + keyA:                      "line 1: a name is 1 to 64",
		"alice:short":                      "line 1: a key has at least 16 bytes, got 5",
		"alice:sha256=abc":                 "line 1: sha256= takes 64 hex digits, got 3",
		"a:sha256=" + "zz" + sumOf("")[2:]: "line 1: sha256= takes hex digits only",
		"a:" + keyA + "\n\na:" + keyB:      "line 3: the name a is already on line 1",
		many.String():                      "a file may have 4096 keys at most",
	} {
		_, err := parseKeys([]byte(body))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q gave %v, want %q", body, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error tells a key: %v", err)
		}
	}
	dir := t.TempDir()
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "no such file",
		dir:                        "not a regular file",
	} {
		if _, err := New(Config{KeysFile: path}, newFake(t), newFakeNode()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gave %v, want %q", path, err, want)
		}
	}
	big := filepath.Join(dir, "big")
	writeKeys(t, big, strings.Repeat("#", maxKeysFileBytes+1))
	if _, err := LoadKeys(big); err == nil || !strings.Contains(err.Error(), "1048576 bytes at most, got 1048577") {
		t.Errorf("a big file gave %v", err)
	}
}

func FuzzKeys(f *testing.F) {
	f.Add([]byte("alice:" + keyA + "\nbob:sha256=" + sumOf(keyB)))
	f.Add([]byte("a:sha256=\n#\n\r\n:::"))
	f.Fuzz(func(t *testing.T, body []byte) {
		k, err := parseKeys(body)
		if (err == nil) != (k.Len() > 0) {
			t.Fatalf("%d keys and %v", k.Len(), err)
		}
		if _, ok := k.findIn(""); ok {
			t.Fatal("the empty key is known")
		}
	})
}

func (k *Keys) findIn(key string) (string, bool) {
	if k == nil {
		return "", false
	}
	return k.find(key)
}

func TestReloadKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	writeKeys(t, path, "alice:"+keyA)
	d := newDoor(t, Config{KeysFile: path})
	status := func(key string) int { return d.do("GET", "/v1/models", "", "x-api-key", key).Code }

	writeKeys(t, path, "bob")
	if err := d.ReloadKeys(); err == nil {
		t.Error("a bad file was taken")
	}
	if status(keyA) != 200 || d.metric("akidb_api_keys_reload_failures_total") != 1 {
		t.Error("a bad file took the old keys away, or was not counted")
	}
	writeKeys(t, path, "bob:"+keyB+"\ncarol:"+keyB+"2")
	if err := d.ReloadKeys(); err != nil {
		t.Error(err)
	}
	if status(keyA) != 401 || status(keyB) != 200 || d.metric("akidb_api_keys") != 2 {
		t.Error("the new keys are not in force")
	}
	d.SetKeys(nil)
	if status("") != 200 || d.metric("akidb_api_keys") != 0 {
		t.Error("keys are asked for although there are none")
	}
}

func TestKeysFileMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	writeKeys(t, path, "alice:"+keyA)
	for mode, warns := range map[os.FileMode]bool{0o600: false, 0o640: false, 0o644: true, 0o660: true} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		d := newDoor(t, Config{KeysFile: path})
		if got := strings.Contains(d.log.String(), "chmod 0640"); got != warns {
			t.Errorf("mode %o: warned %t, want %t", mode, got, warns)
		}
	}
}

// TestWatchKeys drives the watch with made-up events and time.
func TestWatchKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	writeKeys(t, path, "alice:"+keyA)
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(t, Config{KeysFile: path})
		ctx, cancel := context.WithCancel(t.Context())
		events, errs := make(chan fsnotify.Event), make(chan error)
		done := make(chan struct{})
		go func() { defer close(done); d.watchKeys(ctx, path, events, errs) }()
		known := func(key string) bool { _, ok := d.keys.Load().find(key); return ok }

		writeKeys(t, path, "bob:"+keyB)
		events <- fsnotify.Event{Name: path, Op: fsnotify.Write}
		synctest.Wait()
		if known(keyB) {
			t.Error("reloaded before the file settled")
		}
		time.Sleep(keysSettle)
		synctest.Wait()
		if !known(keyB) || known(keyA) {
			t.Error("an event did not reload the keys")
		}
		writeKeys(t, path, "broken")
		time.Sleep(keysPoll)
		synctest.Wait()
		time.Sleep(10 * keysPoll)
		synctest.Wait()
		if !known(keyB) || d.metric("akidb_api_keys_reload_failures_total") != 1 ||
			strings.Count(d.log.String(), "the old keys stay in force") != 1 {
			t.Errorf("a bad file must keep the keys, be counted and be logged once:\n%s", d.log)
		}
		errs <- errors.New("queue overflow")
		writeKeys(t, path, "alice:"+keyA)
		time.Sleep(keysPoll)
		synctest.Wait()
		if !known(keyA) {
			t.Error("polling did not find the change")
		}
		cancel()
		<-done
	})
}

// TestRunWatchesFiles uses real files: one replaced by a rename, then another file by a Reload.
func TestRunWatchesFiles(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
	writeKeys(t, first, "alice:"+keyA)
	writeKeys(t, second, "carol:"+keyA+keyB)
	d := newDoor(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	wait := func(key string) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; {
			if k := d.keys.Load(); k != nil {
				if _, ok := k.find(key); ok {
					return
				}
			}
			if time.Now().After(end) {
				t.Fatalf("the keys did not change:\n%s", d.log)
			}
			<-time.After(5 * time.Millisecond)
		}
	}
	if err := d.Reload(Config{KeysFile: first}); err != nil {
		t.Fatal(err)
	}
	wait(keyA)
	next := filepath.Join(dir, "next")
	writeKeys(t, next, "bob:"+keyB)
	if err := os.Rename(next, first); err != nil {
		t.Fatal(err)
	}
	wait(keyB)
	if err := d.Reload(Config{KeysFile: second}); err != nil {
		t.Fatal(err)
	}
	wait(keyA + keyB)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	d := newDoor(t, Config{})
	embed := func() int { return d.do("POST", "/api/v1/embed", `{"texts":["a","b"]}`).Code }
	if err := d.Reload(Config{MaxInputs: 1, KeysFile: path}); err == nil {
		t.Error("a missing keys file was taken")
	}
	if err := d.Reload(Config{MaxInputs: -1}); err == nil || !strings.Contains(err.Error(), "max inputs must be between 1 and 1048576, got -1") {
		t.Errorf("got %v", err)
	}
	if got := embed(); got != 200 {
		t.Errorf("a failed reload changed something: got %d", got)
	}
	if err := d.Reload(Config{MaxInputs: 1, RequireKeyForMetrics: true}); err != nil {
		t.Fatal(err)
	}
	if got := embed(); got != 422 {
		t.Errorf("the new limit is not in force: got %d", got)
	}
	writeKeys(t, path, "alice:"+keyA)
	if err := d.Reload(Config{KeysFile: path, RequireKeyForMetrics: true}); err != nil {
		t.Fatal(err)
	}
	if got := embed(); got != 401 {
		t.Errorf("the new keys are not in force: got %d", got)
	}
	if w := d.do("GET", "/metrics", ""); w.Code != 401 {
		t.Errorf("/metrics gave %d without a key", w.Code)
	}
	if w := d.do("GET", "/metrics", "", "x-api-key", keyA); w.Code != 200 {
		t.Errorf("/metrics gave %d with a key", w.Code)
	}
}
