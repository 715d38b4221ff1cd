//go:build systemd

package systemd

import (
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

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
