// Package systemd holds the units of akidbd; their test is here.
package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// unit gives a copy of the unit, with its drop-ins, that names programs which are here.
func unit(t *testing.T, dropIns ...string) string {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("SKIPPED: no systemd-analyze here; make e2e-systemd does the same")
	}
	dir := t.TempDir()
	data, err := os.ReadFile("akidbd.service")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(data), "/usr/bin/akidbd", "/bin/true")
	service := filepath.Join(dir, "akidbd.service")
	if err := os.WriteFile(service, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(service+".d", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range dropIns {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(service+".d", name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return service
}

func analyze(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command("systemd-analyze", args...).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze %v: %v\n%s", args, err, out)
	}
	if len(out) > 0 && args[0] == "verify" {
		t.Errorf("systemd-analyze %v is not silent:\n%s", args, out)
	}
}

func TestVerify(t *testing.T) {
	analyze(t, "verify", "--man=no", unit(t))
	analyze(t, "verify", "--man=no", unit(t, "gpu.conf", "credentials.conf"))
	data, err := os.ReadFile("akidbd.socket")
	if err != nil {
		t.Fatal(err)
	}
	service := unit(t)
	socket := filepath.Join(filepath.Dir(service), "akidbd.socket")
	if err := os.WriteFile(socket, data, 0o644); err != nil {
		t.Fatal(err)
	}
	analyze(t, "verify", "--man=no", socket, service)
}

// TestExposure: the sandbox stays at 2.0 of 10 or below.
func TestExposure(t *testing.T) {
	analyze(t, "security", "--offline=true", "--threshold=20", "--no-pager", unit(t))
}

// TestOldSystems: nothing in the unit needs more than systemd 245, of JetPack 5. What that does not know, such as
// ProtectProc=, it says in its log and leaves out.
func TestOldSystems(t *testing.T) {
	data, err := os.ReadFile("akidbd.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, newer := range []string{"Type=notify-reload", "RestartSteps=", "RestartMode=", "%d/", "LoadCredential"} {
		if strings.Contains(string(data), newer) {
			t.Errorf("%s is not known to old systems", newer)
		}
	}
}
