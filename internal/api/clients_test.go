//go:build clients

package api

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/akidb/akidbd/internal/embedding"
)

// TestRealClients runs the real clients of test/clients against the fakes, keys and faults included, which a
// real server does not give on demand. It installs them on its first run.
func TestRealClients(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	writeKeys(t, path, "alice:"+keyA)
	d := newDoor(t, Config{KeysFile: path})
	d.fake.fail = func(req embedding.Request) error {
		fault, ok := strings.CutPrefix(req.Model, "fault-")
		if !ok {
			return nil
		}
		code := map[string]embedding.Code{"overloaded": embedding.CodeOverloaded, "unavailable": embedding.CodeUnavailable,
			"deadline": embedding.CodeDeadline, "internal": embedding.CodeInternal}[fault]
		return embedding.Errorf(code, "asked for")
	}
	url, _, _ := serveDoor(t, ServerConfig{}, d.Handler())
	run := exec.CommandContext(t.Context(), "../../test/clients/run.sh", url)
	run.Env = append(os.Environ(), "AKIDB_API_KEY="+keyA, "AKIDB_FAULTS=1")
	out, err := run.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !regexp.MustCompile(`(?m)^[1-9][0-9]* passed, 0 failed\n\z`).Match(out) {
		t.Errorf("the clients failed: %v", err)
	}
}
