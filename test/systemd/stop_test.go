//go:build systemd

package systemd

import (
	"net/http"
	"strings"
	"time"
)

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
