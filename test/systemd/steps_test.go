//go:build systemd

package systemd

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/akidb/akidbd/internal/infer/testmodels"
	"github.com/akidb/akidbd/test/lab/netlab"
)

// farAway is half a round trip between the regions.
const farAway = 20 * time.Millisecond

func network(t *testing.T) *netlab.Net {
	t.Helper()
	if err := netlab.Available(); err != nil {
		t.Fatal(err)
	}
	n, err := netlab.New([]netlab.Place{{Name: "us-1", Region: "us"}, {Name: "us-2", Region: "us"}, {Name: "eu-1", Region: "eu"}, {Name: "eu-2", Region: "eu"}},
		func(from, to *netlab.Host) netlab.Path {
			if from.Region != to.Region {
				return netlab.Path{Delay: farAway}
			}
			return netlab.Path{}
		})
	check(t, err)
	t.Cleanup(n.Close)
	return n
}

// binds are the directories that machines are given.
func binds(t *testing.T) []string {
	t.Helper()
	models := t.TempDir()
	check(t, os.Chmod(models, 0o755))
	tiny := testmodels.Dir(t, testmodels.BERT)
	check(t, os.CopyFS(filepath.Join(models, "tiny"), os.DirFS(tiny)))
	check(t, os.CopyFS(filepath.Join(models, "eater"), os.DirFS(tiny)))
	check(t, os.WriteFile(filepath.Join(models, "eater", "fault.txt"), []byte("eat 42"), 0o644))
	return []string{need(t, "AKIDB_E2E_DIST") + ":/srv/dist", need(t, "AKIDB_TEST_MODEL") + ":/srv/minilm", models + ":/srv/models"}
}

const minilm = "models: [{name: minilm, path: /srv/minilm}]\n"

// configure writes the node's configuration.
func (m *machine) configure(more string) {
	m.t.Helper()
	m.write("/etc/akidbd/akidbd.yaml", fmt.Sprintf("node: {name: %s, region: %s}\ndrain_delay: 1s\n", m.name, m.host.Region)+more, 0o644)
}

func (m *machine) install(version string) string {
	m.t.Helper()
	return m.run("apt-get", "install", "-y", deb(version))
}

// step is a part of the whole that builds on those before it; the machines report to it meanwhile.
func step(t *testing.T, name string, f func(t *testing.T), machines ...*machine) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		for _, m := range machines {
			defer func(whole *testing.T) { m.t = whole }(m.t)
			m.t = t
		}
		began := time.Now()
		f(t)
		t.Logf("RESULT %s: %v", name, time.Since(began).Round(10*time.Millisecond))
	})
	if t.Failed() {
		t.FailNow()
	}
}

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

// sandbox: the process is in its cage.
func (m *machine) sandbox() {
	m.t.Helper()
	pid := m.mainPID()
	status := m.run("cat", fmt.Sprintf("/proc/%d/status", pid))
	for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000", "CapEff:\t0000000000000000"} {
		if !strings.Contains(status, want) {
			m.t.Errorf("no %q in the status of the daemon:\n%s", want, status)
		}
	}
	if user := m.run("stat", "-c", "%U", fmt.Sprintf("/proc/%d", pid)); user != "akidb" {
		m.t.Errorf("it runs as %s", user)
	}
	if out, err := m.try("nsenter", "-t", strconv.Itoa(pid), "-m", "--", "touch", "/usr/share/x"); err == nil || !strings.Contains(out, "Read-only") {
		m.t.Errorf("the daemon's /usr can be written: %s", out)
	}
}

// doctor: it finds what there is to find on this machine.
func (m *machine) doctor() {
	m.t.Helper()
	out, err := m.try("akidbd", "doctor", "--json")
	if code(err) != 1 {
		m.t.Errorf("a node without a model is red: %v", err)
	}
	var report struct {
		Level    string
		Findings []struct{ Check, Level, Found, Do string }
	}
	check(m.t, json.NewDecoder(strings.NewReader(out)).Decode(&report))
	level := map[string]string{}
	for _, f := range report.Findings {
		level[f.Check] = f.Level
	}
	for name, want := range map[string]string{"configuration": "green", "library": "green", "daemon": "red", "ports": "green", "disk": "green", "certificates": "skipped"} {
		if level[name] != want {
			m.t.Errorf("doctor: %s is %s, want %s in %s", name, level[name], want, out)
		}
	}
}

// embeds: vectors come out, and they mean something.
func (m *machine) embeds() {
	m.t.Helper()
	status, body := m.post("/api/v1/embed", `{"texts": ["a cat on the mat", "a kitten on the rug", "quarterly earnings"]}`)
	var a answer
	if status != http.StatusOK || json.Unmarshal([]byte(body), &a) != nil || len(a.Embeddings) != 3 || len(a.Embeddings[0]) != 384 {
		m.t.Fatalf("embed: %d %.300s", status, body)
	}
	if near, far := cosine(a.Embeddings[0], a.Embeddings[1]), cosine(a.Embeddings[0], a.Embeddings[2]); near < 0.5 || far > 0.3 {
		m.t.Errorf("cosine of cat and kitten %.3f, of cat and earnings %.3f", near, far)
	}
}

func cosine(a, b []float32) float64 {
	var ab, aa, bb float64
	for i := range a {
		ab += float64(a[i]) * float64(b[i])
		aa += float64(a[i]) * float64(a[i])
		bb += float64(b[i]) * float64(b[i])
	}
	return ab / math.Sqrt(aa*bb)
}

// code is the exit status of what try ran.
func code(err error) int {
	if e, ok := err.(*exec.ExitError); ok {
		return e.ExitCode()
	}
	return 0
}

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

const faulty = "ExecStart=\nExecStart=/srv/dist/bin/akidbd serve\n"

// watchdog: an engine that hangs is noticed by systemd, which starts the daemon again.
func (m *machine) watchdog() {
	t := m.t
	m.dropIn(faulty + "WatchdogSec=4s\n")
	defer m.dropIn("")
	m.run("systemctl", "restart", "akidbd")
	m.waitReady()
	time.Sleep(5 * time.Second) // an engine that gets on is left alone
	if n := m.show("NRestarts"); n != "0" {
		t.Fatalf("%s restarts of an engine that works", n)
	}
	pid := m.mainPID()
	m.write("/run/akidbd/hang", "", 0o644)
	began := time.Now()
	asking := exec.Command("nsenter", "-t", strconv.Itoa(m.init), "-m", "-p", "-n", "--", "/usr/bin/akidbd", "status", "--socket", "/run/akidbd/admin.sock")
	check(t, asking.Start())
	m.until(15*time.Second, "restart by the watchdog", func() bool { return m.show("NRestarts") == "1" })
	t.Logf("RESULT the watchdog ended it after %v", time.Since(began).Round(100*time.Millisecond))
	_ = asking.Process.Kill()
	_ = asking.Wait()
	m.waitReady()
	if now := m.mainPID(); now == pid {
		t.Errorf("main process is still %d", now)
	}
	if j := m.run("journalctl", "--no-pager", "-u", "akidbd", "-o", "cat", "-n", "3000"); !strings.Contains(j, "Failed with result 'watchdog'") || !strings.Contains(j, "SIGABRT") {
		t.Error("the journal does not tell of the watchdog, with stacks")
	}
	m.embeds()
}

// killed: systemd starts it again, and no worker stays behind.
func (m *machine) killed() {
	t := m.t
	m.run("systemctl", "reset-failed", "akidbd")
	m.run("systemctl", "restart", "akidbd")
	m.waitReady()
	pid := m.mainPID()
	began := time.Now()
	m.run("kill", "-9", strconv.Itoa(pid))
	m.until(15*time.Second, "another main process", func() bool {
		now := m.mainPID()
		return now != 0 && now != pid && m.ready()
	})
	t.Logf("RESULT ready again %v after kill -9", time.Since(began).Round(10*time.Millisecond))
	if n := m.show("NRestarts"); n != "1" {
		t.Errorf("%s restarts, want 1", n)
	}
	if n := len(strings.Fields(m.run("pgrep", "akidbd"))); n != 2 {
		t.Errorf("%d processes named akidbd, want the daemon and its worker", n)
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

// stopUnderLoad: what was accepted is answered, and it serves on until drain_delay is over.
func (m *machine) stopUnderLoad() {
	t := m.t
	const delay = 3 * time.Second
	m.write("/etc/akidbd/akidbd.yaml", strings.Replace(m.run("cat", "/etc/akidbd/akidbd.yaml"), "drain_delay: 1s", "drain_delay: 3s", 1)+"\n", 0o644)
	m.run("systemctl", "reload", "akidbd")
	l := startLoad(m, 8, m)
	time.Sleep(time.Second)
	began := time.Now()
	stopped := make(chan error, 1)
	go func() {
		_, err := m.try("systemctl", "stop", "akidbd")
		stopped <- err
	}()
	m.until(2*time.Second, "503 of /readyz", func() bool { status, _ := m.get("/readyz"); return status == http.StatusServiceUnavailable })
	noticed := time.Since(began)
	if text := m.show("StatusText"); !strings.Contains(text, "draining") {
		t.Errorf("status while it drains: %q", text)
	}
	if err := <-stopped; err != nil {
		t.Errorf("stop: %v", err)
	}
	took := time.Since(began)
	served := l.lastAnswered().Sub(began)
	l.end(t)
	t.Logf("RESULT not ready after %v, served on for %v, stopped after %v", noticed.Round(10*time.Millisecond), served.Round(10*time.Millisecond), took.Round(10*time.Millisecond))
	if served < delay-200*time.Millisecond {
		t.Errorf("the last answered request began %v after the stop, drain_delay is %v", served, delay)
	}
	if took > 10*time.Second {
		t.Errorf("the stop took %v", took)
	}
	if got := m.show("Result") + " " + m.show("ExecMainStatus"); got != "success 0" {
		t.Errorf("it ended with %s", got)
	}
	m.configure(minilm)
}

// sockets: systemd holds the port, so that nobody is refused while the only node restarts.
func (m *machine) sockets() {
	t := m.t
	m.run("systemctl", "enable", "--now", "akidbd.socket")
	if status, _ := m.get("/livez"); status != http.StatusOK { // the connection starts it
		t.Fatalf("livez through the socket: %d", status)
	}
	m.waitReady()
	l := startLoad(m, 4, m)
	time.Sleep(500 * time.Millisecond)
	m.run("systemctl", "restart", "akidbd")
	m.waitReady()
	before := l.count()
	m.until(5*time.Second, "answers after the restart", func() bool { return l.count() > before+20 })
	l.end(t)
	if l.refused > 0 {
		t.Errorf("%d were refused although systemd holds the socket", l.refused)
	}
	m.run("systemctl", "disable", "--now", "akidbd.socket")
	m.run("systemctl", "restart", "akidbd")
	m.waitReady()
}

// memory: a worker that takes too much is killed by the kernel and replaced by the daemon; a daemon that does is
// started again by systemd.
func (m *machine) memory() {
	t := m.t
	eater := "api: {token_ids: true}\nmodels: [{name: eater, path: /srv/models/eater}]\n"
	deadly := `{"model": "eater", "input": [[42]]}`
	m.configure(eater)
	m.dropIn(faulty + "MemoryMax=400M\n")
	defer m.dropIn("")
	m.run("systemctl", "restart", "akidbd")
	m.waitReady()
	pid := m.mainPID()
	status, body := m.post("/v1/embeddings", deadly)
	if status == http.StatusOK || status == 0 {
		t.Errorf("the input that eats all memory was answered: %d %.200s", status, body)
	}
	m.until(15*time.Second, "ready worker", func() bool {
		status, _ := m.post("/v1/embeddings", `{"model": "eater", "input": [[7, 8]]}`)
		return status == http.StatusOK
	})
	if now := m.mainPID(); now != pid || m.show("NRestarts") != "0" {
		t.Errorf("the daemon died with its worker: process %d, before %d", now, pid)
	}
	if _, body := m.get("/metrics"); !strings.Contains(body, `akidb_engine_worker_restarts_total{reason="killed"} `) || strings.Contains(body, `akidb_engine_worker_restarts_total{reason="killed"} 0`) {
		t.Error("the metric does not tell that the worker was killed")
	}

	m.configure(eater + "engine: {isolation: none}\n")
	m.run("systemctl", "restart", "akidbd")
	m.waitReady()
	pid = m.mainPID()
	_, _ = m.post("/v1/embeddings", deadly)
	m.until(15*time.Second, "restart after the daemon was killed", func() bool { return m.show("NRestarts") == "1" && m.mainPID() != pid && m.ready() })
	if now := m.mainPID(); now == pid {
		t.Errorf("main process is still %d", now)
	}
	m.configure(minilm)
}
