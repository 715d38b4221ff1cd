//go:build systemd

package systemd

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestPackage: what can be said of the packages without installing them.
func TestPackage(t *testing.T) {
	t.Parallel() // lintian takes its time, and nothing of ours
	dist := need(t, "AKIDB_E2E_DIST")
	out, err := exec.Command("lintian", "--fail-on", "warning", filepath.Join(dist, filepath.Base(deb(currentVersion)))).CombinedOutput()
	if err != nil || strings.Contains(string(out), "E: ") || strings.Contains(string(out), "W: ") {
		t.Errorf("lintian: %v\n%s", err, out)
	}
}

// TestService is the life of one machine, from apt to purge.
func TestService(t *testing.T) {
	t.Parallel()
	lab, root, given := network(t), rootfs(t, release), binds(t)
	m := boot(t, lab.Host("us-1"), root, given...)

	step(t, "install", func(t *testing.T) {
		out := m.install(currentVersion)
		if !strings.Contains(out, "systemctl start akidbd") {
			t.Errorf("the installation does not say what is next:\n%s", out)
		}
		if state := m.run("systemctl", "is-enabled", "akidbd"); state != "enabled" {
			t.Errorf("after the installation: %s", state)
		}
		if active, _ := m.try("systemctl", "is-active", "akidbd"); active != "inactive" {
			t.Errorf("the installation started it: %s", active)
		}
		listed := strings.Fields(m.run("dpkg-query", "-L", "akidbd"))
		for _, file := range []string{
			"/usr/share/man/man1/akidbd-serve.1.gz", "/usr/share/bash-completion/completions/akidbd", "/usr/lib/sysctl.d/50-akidbd.conf",
			"/usr/share/doc/akidbd/onnxruntime-notices.txt.gz", "/usr/share/doc/akidbd/jetson.md.gz",
		} {
			// Not the file: dpkg leaves documents out where the system is configured so.
			if !slices.Contains(listed, file) {
				t.Errorf("the package has no %s", file)
			}
		}
		if conf := m.run("dpkg-query", "-W", "-f", "${Conffiles}", "akidbd"); !strings.Contains(conf, "/etc/akidbd/akidbd.yaml") {
			t.Errorf("conffiles: %s", conf)
		}
		if out := m.run("systemd-analyze", "verify", "--man=no", "akidbd.service", "akidbd.socket"); out != "" {
			t.Errorf("systemd-analyze verify: %s", out)
		}
		m.run("systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", "/usr/lib/systemd/system/akidbd.service")
	}, m)

	step(t, "enable and start without a model", func(t *testing.T) {
		m.run("systemctl", "enable", "--now", "akidbd")
		if status, body := m.get("/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "no model is configured") {
			t.Errorf("readyz when systemctl came back: %d %s", status, body)
		}
		if status, _ := m.get("/livez"); status != http.StatusOK {
			t.Errorf("livez: %d", status)
		}
		if text := m.show("StatusText"); !strings.Contains(text, "akidbd model pull") {
			t.Errorf("the status does not say what is next: %q", text)
		}
		m.sandbox()
		m.doctor()
	}, m)

	step(t, "reload brings a model", func(t *testing.T) {
		m.configure(minilm)
		if out := m.run("systemctl", "reload", "akidbd"); out != "" {
			t.Errorf("reload said %q", out)
		}
		if !m.ready() {
			t.Error("not ready when the reload came back")
		}
		if text := m.show("StatusText"); !strings.HasPrefix(text, "ready: minilm on cpu") {
			t.Errorf("status %q", text)
		}
		m.embeds()
	}, m)

	step(t, "start returns at READY, readyz follows", func(t *testing.T) {
		m.run("systemctl", "restart", "akidbd")
		began := time.Now()
		if status, _ := m.get("/livez"); status != http.StatusOK {
			t.Errorf("livez when systemctl came back: %d", status)
		}
		m.waitReady()
		t.Logf("RESULT ready %v after READY", time.Since(began).Round(10*time.Millisecond))
		m.embeds()
	}, m)

	step(t, "reload", func(t *testing.T) { m.reloads() }, m)
	step(t, "credentials", func(t *testing.T) { m.credentials() }, m)
	step(t, "watchdog", func(t *testing.T) { m.watchdog() }, m)
	step(t, "kill -9", func(t *testing.T) { m.killed() }, m)
	step(t, "bad configuration", func(t *testing.T) { m.badConfiguration() }, m)
	step(t, "stop under load", func(t *testing.T) { m.stopUnderLoad() }, m)
	step(t, "sockets of systemd", func(t *testing.T) { m.sockets() }, m)
	step(t, "memory limit", func(t *testing.T) { m.memory() }, m)

	step(t, "upgrade under load", func(t *testing.T) {
		old := boot(t, lab.Host("us-2"), root, given...)
		old.install(previousVersion)
		old.configure(minilm + "# changed by hand\n")
		old.run("systemctl", "start", "akidbd")
		old.waitReady()
		if out := old.run("akidbd", "version"); !strings.Contains(out, previousVersion) {
			t.Fatalf("the previous version says %s", out)
		}
		models := old.run("ls", "/var/lib/akidbd/models")
		l := startLoad(m, 4, m, old)
		time.Sleep(time.Second)
		before := old.mainPID()
		old.install(currentVersion)
		if now := old.mainPID(); now == before || now == 0 {
			t.Errorf("main process %d before the upgrade, %d after it", before, now)
		}
		old.waitReady()
		l.nodes()
		time.Sleep(time.Second)
		if by := l.nodes(); by["us-2"] == 0 {
			t.Errorf("after the upgrade the node answers nothing: %v", by)
		}
		l.end(t)
		if l.refused > 0 {
			t.Errorf("%d requests found no node at all", l.refused)
		}
		if _, body := old.get("/health"); !strings.Contains(body, `"version":"v`+currentVersion) {
			t.Errorf("after the upgrade: %s", body)
		}
		if text := old.run("cat", "/etc/akidbd/akidbd.yaml"); !strings.Contains(text, "# changed by hand") {
			t.Error("the upgrade changed the configuration")
		}
		if now := old.run("ls", "/var/lib/akidbd/models"); now != models {
			t.Errorf("models before the upgrade: %s, after it: %s", models, now)
		}
		old.powerOff()
	}, m)

	step(t, "remove and purge", func(t *testing.T) {
		m.run("apt-get", "remove", "-y", "akidbd")
		if !m.exists("/etc/akidbd/akidbd.yaml") || !m.exists("/var/lib/akidbd/models") {
			t.Error("remove took configuration or state")
		}
		if status, body := m.get("/livez"); status != 0 {
			t.Errorf("it still answers after its removal: %d %s", status, body)
		}
		m.run("apt-get", "purge", "-y", "akidbd")
		for _, gone := range []string{"/etc/akidbd", "/var/lib/akidbd", "/var/cache/akidbd", "/usr/lib/akidbd", "/usr/bin/akidbd", "/run/akidbd",
			"/etc/systemd/system/multi-user.target.wants/akidbd.service", "/etc/systemd/system/akidbd.service"} {
			if m.exists(gone) {
				t.Errorf("purge left %s: %s", gone, m.run("find", gone))
			}
		}
		m.install(currentVersion)
		m.run("systemctl", "start", "akidbd")
	}, m)
}

// TestOldSystem: the package on a system as old as JetPack 5.
func TestOldSystem(t *testing.T) {
	m := boot(t, network(t).Host("us-1"), rootfs(t, oldRelease), binds(t)...)
	step(t, "an old system", func(t *testing.T) {
		t.Logf("RESULT %s, %s", strings.Fields(m.run("systemctl", "--version"))[1], m.run("sh", "-c", "ldd --version | head -1"))
		m.install(currentVersion)
		m.configure(minilm)
		m.run("systemctl", "enable", "--now", "akidbd")
		m.waitReady()
		m.embeds()
		m.sandbox()
		m.run("systemctl", "reload", "akidbd")
		m.run("systemctl", "stop", "akidbd")
		m.run("apt-get", "purge", "-y", "akidbd")
		if m.exists("/var/lib/akidbd") || m.exists("/etc/akidbd") {
			t.Error("purge left something")
		}
	}, m)
}
