package sync

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/sync/bucket/buckettest"
)

// Only what a manifest names is given out: not what was built here, not what else lies in the store.
func TestOnlyManifestsAreGivenOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		m := f.push(b, "op", "eu", "one", nil)
		n := f.add("a", "eu", withBucket(b))
		settle(time.Second)
		entries, err := n.store.List()
		if err != nil || len(entries) != 1 {
			t.Fatal(entries, err)
		}
		built := []byte("an engine")
		if err := os.WriteFile(filepath.Join(entries[0].Dir, "akidb-engine.trt"), built, 0o600); err != nil {
			t.Fatal(err)
		}
		other, err := n.store.Import(t.Context(), "private", writeDir(t, map[string]string{"config.json": "private"}), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, sha := range []string{sum(built), sum([]byte("private")), other.Model.Digest, "", "../../../../etc/passwd", strings.Repeat("0", 64)} {
			if r, err := n.sync.Blob(t.Context(), sha, 0, -1); !errors.Is(err, ErrNoBlob) {
				if err == nil {
					r.Close()
				}
				t.Errorf("%q is given out: %v", sha, err)
			}
		}
		file := m.Files[1]
		for _, c := range []struct{ offset, length int64 }{{-1, 1}, {0, file.Size + 1}, {file.Size + 1, 0}, {file.Size, 1}} {
			if r, err := n.sync.Blob(t.Context(), file.SHA256, c.offset, c.length); err == nil {
				r.Close()
				t.Errorf("%d bytes from %d of %d are given out", c.length, c.offset, file.Size)
			}
		}
		for _, sha := range []string{n.sync.Catalog(), file.SHA256} {
			r, err := n.sync.Blob(t.Context(), sha, 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(r)
			if err := errors.Join(err, r.Close()); err != nil || sum(data) != sha {
				t.Errorf("%s gives %d bytes, %v", sha, len(data), err)
			}
		}
	})
}
