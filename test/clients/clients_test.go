package clients

import (
	"os"
	"os/exec"
	"regexp"
	"testing"
)

// TestClients runs every client against AKIDB_URL; without one it is skipped. See run.sh for the environment.
func TestClients(t *testing.T) {
	url := os.Getenv("AKIDB_URL")
	if url == "" {
		t.Skip("AKIDB_URL is not set: start an akidbd and name it, as in AKIDB_URL=http://127.0.0.1:8080")
	}
	out, err := exec.CommandContext(t.Context(), "./run.sh", url).CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !regexp.MustCompile(`(?m)^[1-9][0-9]* passed, 0 failed\n\z`).Match(out) {
		t.Errorf("the clients failed: %v", err)
	}
}
