//go:build e2e

// Package e2e runs the real program with a real model and real clients. `make e2e` builds what it needs.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/akidb/akidbd/internal/testlog"
)

// node is one running akidbd.
type node struct {
	t      *testing.T
	cmd    *exec.Cmd
	url    string
	socket string
	config string
	log    *testlog.Buffer
	ready  time.Duration // from its start until /readyz said 200
	ended  chan error
}

func need(t *testing.T, variable string) string {
	t.Helper()
	v := os.Getenv(variable)
	if v == "" {
		t.Fatalf("%s is not set: run make e2e", variable)
	}
	return v
}

func configuration(t *testing.T, dir, models string) string {
	return fmt.Sprintf(`
node: {name: e2e, region: lab}
listen: [{address: "127.0.0.1:0"}]
admin: {socket: %[1]s/admin.sock}
state_dir: %[1]s/state
cache_dir: %[1]s/cache
log: {level: info, format: json}
engine: {library_path: %[2]s}
drain_delay: 1500ms
models:
%[3]s`, dir, need(t, "AKIDB_TEST_ORT"), models)
}

func minilm(t *testing.T, more string) string {
	return fmt.Sprintf("- {name: all-MiniLM-L6-v2, path: %s%s}\n", need(t, "AKIDB_TEST_MODEL"), more)
}

// start runs the program in dir and waits until it is ready.
func start(t *testing.T, dir string) *node {
	t.Helper()
	n := &node{t: t, socket: filepath.Join(dir, "admin.sock"), config: filepath.Join(dir, "akidbd.yaml"), log: &testlog.Buffer{}, ended: make(chan error, 1)}
	if _, err := os.Stat(n.config); err != nil {
		n.configure(configuration(t, dir, minilm(t, "")))
	}
	n.cmd = exec.Command(need(t, "AKIDB_TEST_BIN"), "serve", "--config", n.config)
	n.cmd.Stderr = n.log
	n.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	began := time.Now()
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { n.ended <- n.cmd.Wait() }()
	t.Cleanup(n.kill)
	n.url = n.address()
	n.until(20*time.Second, func() bool { return n.status("/readyz") == http.StatusOK })
	n.ready = time.Since(began)
	return n
}

func (n *node) configure(yaml string) {
	n.t.Helper()
	if err := os.WriteFile(n.config, []byte(yaml), 0o644); err != nil {
		n.t.Fatal(err)
	}
}

// address asks the admin socket where the node listens.
func (n *node) address() string {
	n.t.Helper()
	var status struct {
		Listeners []struct{ Role, Address string }
	}
	n.until(20*time.Second, func() bool {
		out, err := exec.Command(need(n.t, "AKIDB_TEST_BIN"), "status", "--json", "--socket", n.socket).Output()
		return err == nil && json.Unmarshal(out, &status) == nil
	})
	for _, l := range status.Listeners {
		if l.Role == "public" {
			return "http://" + l.Address
		}
	}
	n.t.Fatalf("no public listener in %+v", status)
	return ""
}

func (n *node) until(limit time.Duration, ok func() bool) {
	n.t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(2 * time.Millisecond) {
		select {
		case err := <-n.ended:
			n.ended <- err
			n.t.Fatalf("the node ended: %v\n%s", err, n.log)
		default:
		}
		if time.Now().After(end) {
			n.t.Fatalf("did not come true within %v\n%s", limit, n.log)
		}
	}
}

func (n *node) status(path string) int {
	res, err := http.Get(n.url + path)
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode
}

func (n *node) kill() {
	_ = n.cmd.Process.Kill()
	err := <-n.ended
	n.ended <- err
	if n.t.Failed() {
		n.t.Logf("log of the node:\n%s", n.log)
	}
}

// stop ends the node as systemd does and returns how it ended.
func (n *node) stop() error {
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-n.ended:
		n.ended <- err
		return err
	case <-time.After(30 * time.Second):
		return fmt.Errorf("still running 30 s after SIGTERM")
	}
}

// rss is the resident memory of the daemon and its workers in MB. What both map of one file counts twice.
func (n *node) rss() float64 {
	n.t.Helper()
	sum := memory(n.cmd.Process.Pid)
	if sum == 0 {
		n.t.Fatal("no VmRSS")
	}
	for _, pid := range n.workers() {
		sum += memory(pid) - executable(pid) // which the two share
	}
	return sum
}

// executable is how much of its own program a process has in memory, in MB.
func executable(pid int) float64 {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return 0
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return 0
	}
	sum, inside := 0, false
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		switch {
		case len(f) >= 5 && strings.Contains(f[0], "-"):
			inside = len(f) == 6 && f[5] == path
		case inside && len(f) == 3 && f[0] == "Rss:":
			kb, _ := strconv.Atoi(f[1])
			sum += kb
		}
	}
	return float64(sum) / 1000
}

type answer struct {
	Embeddings [][]float32
	Model      string
	status     int
	header     http.Header
}

// embed asks the native API.
func (n *node) embed(ctx context.Context, client *http.Client, texts ...string) (answer, error) {
	body, err := json.Marshal(map[string]any{"texts": texts})
	if err != nil {
		return answer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.url+"/api/v1/embed", bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	res, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{status: res.StatusCode, header: res.Header}
	if res.StatusCode != http.StatusOK {
		return a, fmt.Errorf("status %d: %s", res.StatusCode, data)
	}
	return a, json.Unmarshal(data, &a)
}
