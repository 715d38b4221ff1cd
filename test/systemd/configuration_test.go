//go:build systemd

package systemd

import (
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// reloads: what may change is in force when the reload comes back; a bad file changes nothing, fails the reload and
// shows; what needs a restart is said.
func (m *machine) reloads() {
	t := m.t
	const keys = "/etc/akidbd/api-keys"
	good := minilm + "log: {level: debug}\nengine: {queue_tokens: 60000}\napi: {keys_file: " + keys + "}\n"
	m.write(keys, "", 0o640)
	m.run("chown", "root:akidb", keys)
	m.write(keys, "me:0123456789abcdef0123456789abcdef\n", 0o640)
	m.configure(strings.Replace(good, "/srv/minilm", "/srv/minilm, aliases: [other]", 1))
	m.run("systemctl", "reload", "akidbd")
	if status, _ := m.post("/api/v1/embed", `{"text": "x"}`); status != http.StatusUnauthorized {
		t.Errorf("without a key: %d", status)
	}
	if text := m.show("StatusText"); !strings.Contains(text, "needs a restart: engine.queue_tokens") {
		t.Errorf("status %q", text)
	}
	if out := m.run("akidbd", "status", "--json"); !strings.Contains(strings.ReplaceAll(out, " ", ""), `"logLevel":"debug"`) || !strings.Contains(out, "other") {
		t.Errorf("log level or alias is not in force: %s", out)
	}

	pid := m.mainPID()
	m.configure(good + "nonsense: 1\n")
	if out, err := m.try("systemctl", "reload", "akidbd"); err == nil {
		t.Errorf("a bad file was reloaded: %s", out)
	}
	if state := m.show("ActiveState") + " " + m.show("SubState"); state != "active running" || m.mainPID() != pid {
		t.Errorf("after a bad reload: %s, process %d, before %d", state, m.mainPID(), pid)
	}
	if text := m.show("StatusText"); !strings.Contains(text, "the reload at") || !strings.Contains(text, "nonsense") {
		t.Errorf("status %q", text)
	}
	if _, body := m.get("/metrics"); !strings.Contains(body, "\nakidb_daemon_last_reload_successful 0\n") {
		t.Error("the metric does not tell of the bad reload")
	}
	if status, _ := m.post("/api/v1/embed", `{"text": "x"}`); status != http.StatusUnauthorized {
		t.Errorf("the bad reload changed the keys: %d", status)
	}

	m.configure(minilm)
	m.run("systemctl", "kill", "-s", "HUP", "--kill-who=main", "akidbd") // the other way
	m.until(5*time.Second, "reload by SIGHUP", func() bool {
		status, _ := m.post("/api/v1/embed", `{"text": "x"}`)
		return status == http.StatusOK
	})
	m.until(2*time.Second, "metric of a good reload", func() bool {
		_, body := m.get("/metrics")
		return strings.Contains(body, "\nakidb_daemon_last_reload_successful 1\n")
	})
	m.until(2*time.Second, "state running", func() bool { return m.show("SubState") == "running" })
}

// credentials: the daemon has a secret that its user has no file of.
func (m *machine) credentials() {
	t := m.t
	m.write("/etc/akidbd/aws-credentials", "[default]\naws_secret_access_key = secret\n", 0o600)
	data, err := os.ReadFile("../../systemd/credentials.conf")
	check(t, err)
	_, service, _ := strings.Cut(string(data), "[Service]\n")
	m.dropIn(service)
	defer m.dropIn("")
	m.run("systemctl", "restart", "akidbd")
	pid := strconv.Itoa(m.mainPID())
	const file = "/run/credentials/akidbd.service/aws"
	if out := m.run("nsenter", "-t", pid, "-m", "--", "setpriv", "--reuid=akidb", "--regid=akidb", "--clear-groups", "cat", file); !strings.Contains(out, "secret") {
		t.Errorf("the daemon's user reads %q", out)
	}
	if out, err := m.try("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "cat", file); err == nil {
		t.Errorf("nobody reads %q", out)
	}
	if env := m.run("cat", "/proc/"+pid+"/environ"); !strings.Contains(env, "AWS_SHARED_CREDENTIALS_FILE="+file) {
		t.Error("the daemon is not told where its credentials are")
	}
}

// badConfiguration: exit 78, and systemd leaves it at that.
func (m *machine) badConfiguration() {
	t := m.t
	m.configure("engine: {thread: 2}\n")
	if out, err := m.try("systemctl", "restart", "akidbd"); err == nil {
		t.Fatalf("started with a bad configuration: %s", out)
	}
	time.Sleep(3 * time.Second) // longer than RestartSec
	if got := strings.Join([]string{m.show("ActiveState"), m.show("Result"), m.show("ExecMainStatus"), m.show("NRestarts")}, " "); got != "failed exit-code 78 0" {
		t.Errorf("state, result, exit status and restarts: %s", got)
	}
	if j := m.journal(); !strings.Contains(j, "did you mean engine.threads") {
		t.Error("the journal does not say what is wrong")
	}
	m.configure(minilm)
	m.run("systemctl", "start", "akidbd")
	m.waitReady()
}
