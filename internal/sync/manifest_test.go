package sync

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"

	"github.com/akidb/akidbd/internal/store"
)

// manifestOf makes a publish of files with the contents given by path.
func manifestOf(name, id string, at time.Time, contents map[string]string) *Manifest {
	m := &Manifest{Format: format, Kind: KindPublish, Name: name, Clock: ClockAt(at), Node: "n", Region: "eu"}
	if id != "" {
		m.Node = nodeID(id)
	}
	for _, p := range sortedKeys(contents) {
		m.Files = append(m.Files, store.File{Path: p, Size: int64(len(contents[p])), SHA256: sum([]byte(contents[p]))})
	}
	m.Digest = store.Digest(m.Files)
	return m
}

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func TestManifestRoundTrip(t *testing.T) {
	m := manifestOf("m", "", noon, map[string]string{"config.json": "{}", "1_Pooling/config.json": "{}", "model.safetensors": "weights"})
	m.Note, m.Scope = "erste Fassung", Scope{Region: "us"}
	raw, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseManifest(raw)
	if err != nil {
		t.Fatal(err)
	}
	again, err := got.Encode()
	if err != nil || !bytes.Equal(again, raw) {
		t.Errorf("the bytes changed: %s, %s, %v", raw, again, err)
	}
	if ManifestKey(got) != "models/m/versions/"+got.Clock.String()+"-n.json" {
		t.Errorf("key %s", ManifestKey(got))
	}
	name, clock, id, err := parseManifestKey(ManifestKey(got))
	if err != nil || name != "m" || clock != got.Clock || id != got.Node {
		t.Errorf("%s, %v, %s, %v", name, clock, id, err)
	}
}

func TestManifestRefusals(t *testing.T) {
	good := func() map[string]any {
		raw, err := manifestOf("m", "", noon, map[string]string{"a": "1", "b": "2"}).Encode()
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(raw, &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	for want, edit := range map[string]func(map[string]any){
		"this program reads 1":        func(m map[string]any) { m["format"] = 2 },
		"unknown field":               func(m map[string]any) { m["run"] = "rm -rf" },
		"no name of a model":          func(m map[string]any) { m["name"] = "../m" },
		"is no clock":                 func(m map[string]any) { m["clock"] = "now" },
		"no clock":                    func(m map[string]any) { m["clock"] = strings.Repeat("0", 16) },
		"no name of a node":           func(m map[string]any) { m["node"] = "-n" },
		"no name of a region":         func(m map[string]any) { m["region"] = "" },
		"kind \"move\"":               func(m map[string]any) { m["kind"] = "move" },
		"the digest is":               func(m map[string]any) { m["digest"] = "sha256-" + strings.Repeat("0", 64) },
		"no files":                    func(m map[string]any) { delete(m, "files") },
		"the note has":                func(m map[string]any) { m["note"] = strings.Repeat("x", 2000) },
		"of printable text":           func(m map[string]any) { m["note"] = "\x1b[2J" },
		"a tombstone names":           func(m map[string]any) { m["kind"] = "delete" },
		"is no path or there twice":   func(m map[string]any) { m["files"].([]any)[0].(map[string]any)["path"] = "../../etc/passwd" },
		"files are sorted":            func(m map[string]any) { f := m["files"].([]any); f[0], f[1] = f[1], f[0] },
		"impossible size":             func(m map[string]any) { m["files"].([]any)[0].(map[string]any)["size"] = -1 },
		"has no SHA-256":              func(m map[string]any) { m["files"].([]any)[0].(map[string]any)["sha256"] = "x" },
		"is no file of a model":       func(m map[string]any) { m["files"].([]any)[0].(map[string]any)["path"] = ".git" },
		"akidb-x.trt\" is no file of": func(m map[string]any) { m["files"].([]any)[0].(map[string]any)["path"] = "akidb-x.trt" },
	} {
		m := good()
		edit(m)
		raw, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseManifest(raw); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	if _, err := ParseManifest([]byte(`{"format":1} {}`)); err == nil {
		t.Error("two values were taken")
	}
	if _, err := ParseManifest(bytes.Repeat([]byte(" "), maxManifest+1)); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("too long: %v", err)
	}
}

func TestSignature(t *testing.T) {
	public, private, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	trusted, err := ParseKeys([]string{other.String(), public.String()})
	if err != nil {
		t.Fatal(err)
	}
	strangers, err := ParseKeys([]string{other.String()})
	if err != nil {
		t.Fatal(err)
	}
	m := manifestOf("m", "", noon, map[string]string{"a": "1"})
	if err := trusted.Verify(m); err == nil || reasonOf(err) != ReasonSignature {
		t.Errorf("unsigned: %v", err)
	}
	if err := (Keys{}).Verify(m); err != nil {
		t.Errorf("without keys: %v", err)
	}
	if err := m.Sign(private); err != nil {
		t.Fatal(err)
	}
	raw, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if m, err = ParseManifest(raw); err != nil {
		t.Fatal(err)
	}
	if err := trusted.Verify(m); err != nil {
		t.Errorf("signed: %v", err)
	}
	if err := strangers.Verify(m); err == nil {
		t.Error("signed by a stranger")
	}
	for what, edit := range map[string]func(m *Manifest){
		"clock": func(m *Manifest) { m.Clock++ }, "name": func(m *Manifest) { m.Name = "other" },
		"scope": func(m *Manifest) { m.Scope.Region = "us" }, "kind": func(m *Manifest) { m.Kind = KindStage },
		"content": func(m *Manifest) {
			m.Files = []store.File{{Path: "a", Size: 1, SHA256: sum([]byte("2"))}}
			m.Digest = store.Digest(m.Files)
		},
	} {
		forged := *m
		edit(&forged)
		if err := trusted.Verify(&forged); err == nil {
			t.Errorf("with another %s it still counts", what)
		}
	}
	if _, err := ParseKeys([]string{"RWQ"}); err == nil {
		t.Error("half a key was taken")
	}
}

func TestKeys(t *testing.T) {
	for _, key := range []string{
		"models//versions/x", "models/m/versions/0000000000000001-.json", "models/m/versions/0000000000000001.json",
		"models/m/versions/000000000000000g-n.json", "models/m/versions/0000000000000001-n", "models/m/blobs/0000000000000001-n.json",
		"other/m/versions/0000000000000001-n.json", "models/m/versions/0000000000000001-n/x.json", "models/../versions/0000000000000001-n.json",
	} {
		if name, _, id, err := parseManifestKey(key); err == nil {
			t.Errorf("%s was taken for manifest of %s by %s", key, name, id)
		}
	}
	sha := strings.Repeat("ab", 32)
	if name, got, ok := parseBlobKey(BlobKey("m", sha)); !ok || name != "m" || got != sha {
		t.Errorf("%s, %s, %v", name, got, ok)
	}
	if _, _, ok := parseBlobKey("models/m/blobs/sha256-x"); ok {
		t.Error("a blob without a hash")
	}
}

func FuzzManifest(f *testing.F) {
	for _, m := range []*Manifest{
		manifestOf("m", "", noon, map[string]string{"a": "1", "b/c": "2"}),
		{Format: format, Kind: KindDelete, Name: "m", Clock: 1, Node: "n", Region: "eu"},
	} {
		raw, err := m.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := ParseManifest(raw)
		if err != nil {
			return
		}
		again, err := m.Encode()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		o, err := ParseManifest(again)
		if err != nil || o.ID() != m.ID() || o.Digest != m.Digest {
			t.Fatalf("what was written reads as something else: %v", err)
		}
	})
}

func FuzzDocument(f *testing.F) {
	f.Add([]byte(`{"wants":["m"],"manifests":[{"name":"m","id":"0000000000000001-n","sha256":"` + strings.Repeat("a", 64) + `"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := parseDocument(data)
		if err != nil {
			return
		}
		for _, r := range doc.Manifests {
			if !nameForm.MatchString(r.Name) || len(r.SHA256) != 64 {
				t.Fatalf("taken: %+v", r)
			}
		}
	})
}
