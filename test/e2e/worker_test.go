//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/akidb/akidbd/internal/infer/testmodels"
)

// backWithin is how soon a node must serve again after its worker died or hung.
const backWithin = 4 * time.Second // slack for a slow machine; the figure that counts is logged

// times is how often something is done: n, or what the environment variable says.
func times(t *testing.T, variable string, n int) int {
	t.Helper()
	v := os.Getenv(variable)
	if v == "" {
		return n
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// workers are the processes that the node has started and that are not dead, from /proc.
func (n *node) workers() []int {
	n.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", n.cmd.Process.Pid))
	all := strings.Fields(string(data))
	if err != nil || len(all) == 0 { // children of other threads are listed there only
		all = nil
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", n.cmd.Process.Pid))
		for _, file := range tasks {
			data, _ := os.ReadFile(file)
			all = append(all, strings.Fields(string(data))...)
		}
	}
	var pids []int
	for _, s := range all {
		pid, err := strconv.Atoi(s)
		if err == nil && memory(pid) > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// memory is a process's resident memory in MB, 0 for one that ended.
func memory(pid int) float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			kb, _ := strconv.Atoi(f[1])
			return float64(kb) / 1000
		}
	}
	return 0
}

// load is clients that ask one after the other, each over one connection that it keeps.
type load struct {
	stop     chan struct{}
	wg       sync.WaitGroup
	dials    atomic.Int64
	mu       sync.Mutex
	answered int
	failures []string
	worst    time.Duration
}

func startLoad(n *node, clients int, ask func(ctx context.Context, client *http.Client, c, i int) error) *load {
	l := &load{stop: make(chan struct{})}
	for c := range clients {
		l.wg.Go(func() {
			dialer := &net.Dialer{}
			client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				l.dials.Add(1)
				return dialer.DialContext(ctx, network, addr)
			}}}
			defer client.CloseIdleConnections()
			for i := 0; ; i++ {
				select {
				case <-l.stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(context.Background(), 12*time.Second)
				began := time.Now()
				err := ask(ctx, client, c, i)
				cancel()
				l.mu.Lock()
				l.worst = max(l.worst, time.Since(began))
				if err == nil {
					l.answered++
				} else {
					l.failures = append(l.failures, err.Error())
				}
				l.mu.Unlock()
			}
		})
	}
	return l
}

// end stops the load and fails the test for any failure or closed connection.
func (l *load) end(t *testing.T, clients int) {
	t.Helper()
	close(l.stop)
	l.wg.Wait()
	t.Logf("RESULT %d requests answered, %d failed, %d connections of %d clients, the slowest took %v", l.answered, len(l.failures),
		l.dials.Load(), clients, l.worst.Round(time.Millisecond))
	if len(l.failures) > 0 {
		t.Errorf("%d failed: %.400q", len(l.failures), l.failures)
	}
	if int(l.dials.Load()) != clients {
		t.Errorf("%d clients made %d connections: some were closed", clients, l.dials.Load())
	}
	if l.answered < 20 {
		t.Errorf("%d requests were answered", l.answered)
	}
}

// hurt sends a signal to the only worker and returns how long it took until another one served.
func (n *node) hurt(sig syscall.Signal) time.Duration {
	n.t.Helper()
	pids := n.workers()
	if len(pids) != 1 {
		n.t.Fatalf("%d workers, want 1", len(pids))
	}
	began := time.Now()
	if err := syscall.Kill(pids[0], sig); err != nil {
		n.t.Fatal(err)
	}
	n.until(20*time.Second, func() bool {
		now := n.workers()
		return len(now) == 1 && now[0] != pids[0] && n.status("/readyz") == http.StatusOK
	})
	return time.Since(began)
}

// TestWorkerDies: under steady load the worker is killed, crashed and stopped again and again: no request fails, no
// connection is closed, and the node serves again soon. AKIDB_E2E_KILLS=20 is the whole measurement.
func TestWorkerDies(t *testing.T) {
	const clients = 8
	n := start(t, t.TempDir())
	l := startLoad(n, clients, func(ctx context.Context, client *http.Client, c, i int) error {
		_, err := n.embed(ctx, client, fmt.Sprintf("client %d asks for the %d. time", c, i))
		return err
	})
	rounds := times(t, "AKIDB_E2E_KILLS", 4)
	for _, sig := range []syscall.Signal{syscall.SIGSEGV, syscall.SIGKILL, syscall.SIGSTOP} {
		var took []time.Duration
		for range rounds {
			time.Sleep(time.Second)
			took = append(took, n.hurt(sig))
		}
		slices.Sort(took)
		t.Logf("RESULT back after %v: median %v, worst %v of %d", sig, took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), rounds)
		if worst := took[len(took)-1]; worst > backWithin {
			t.Errorf("%v: back after %v, at most %v", sig, worst, backWithin)
		}
	}
	out, err := exec.Command(need(t, "AKIDB_TEST_BIN"), "status", "--socket", n.socket).Output()
	if err != nil || !strings.Contains(string(out), fmt.Sprintf("%d restarts", 3*rounds)) {
		t.Errorf("status does not tell of %d restarts: %v\n%s", 3*rounds, err, out)
	}
	if !strings.Contains(string(out), "degraded") {
		t.Errorf("so many deaths do not make the node degraded:\n%s", out)
	}
	l.end(t, clients)
	if err := n.stop(); err != nil {
		t.Error(err)
	}
}

// TestWorkerDiesWithTheNode: no worker outlives a killed daemon.
func TestWorkerDiesWithTheNode(t *testing.T) {
	n := start(t, t.TempDir())
	pids := n.workers()
	if len(pids) != 1 {
		t.Fatalf("%d workers, want 1", len(pids))
	}
	t.Logf("RESULT RSS of the daemon %.0f MB, of its worker %.0f MB", memory(n.cmd.Process.Pid), memory(pids[0]))
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", n.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(maps, []byte("libonnxruntime")) {
		t.Error("the daemon itself has loaded ONNX Runtime")
	}
	n.kill()
	for end := time.Now().Add(2 * time.Second); memory(pids[0]) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the worker still runs 2 s after the daemon was killed")
		}
	}
}

// TestWorkerMemory: a swap gives the memory of the version before back. AKIDB_E2E_SWAPS=50 is the whole measurement.
func TestWorkerMemory(t *testing.T) {
	const clients = 4
	dir := t.TempDir()
	n := start(t, dir)
	l := startLoad(n, clients, func(ctx context.Context, client *http.Client, c, i int) error {
		_, err := n.embed(ctx, client, fmt.Sprintf("client %d asks for the %d. time", c, i))
		return err
	})
	var daemons, workers []float64
	swaps := times(t, "AKIDB_E2E_SWAPS", 10)
	for i := range swaps {
		before := n.workers()
		n.configure(configuration(t, dir, minilm(t, fmt.Sprintf(`, aliases: [alias%d], prompts: {p%d: "query: "}`, i, i))))
		if err := n.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		n.until(20*time.Second, func() bool {
			now := n.workers()
			return n.status(fmt.Sprintf("/v1/models/alias%d", i)) == http.StatusOK && len(now) == 1 && !slices.Contains(before, now[0])
		})
		time.Sleep(300 * time.Millisecond)
		if i == 0 || i == swaps-1 {
			time.Sleep(time.Second) // the new worker's memory grows with its first runs
		}
		daemons, workers = append(daemons, memory(n.cmd.Process.Pid)), append(workers, memory(n.workers()[0]))
	}
	l.end(t, clients)
	end := swaps - 1
	first, last := daemons[0]+workers[0], daemons[end]+workers[end]
	t.Logf("RESULT RSS of daemon + worker: %.0f + %.0f MB after the first swap, %.0f + %.0f MB after %d", daemons[0], workers[0], daemons[end], workers[end], swaps)
	if last > 1.1*first {
		t.Errorf("RSS grew from %.0f to %.0f MB over %d swaps", first, last, swaps)
	}
}

// ids asks for the vector of token ids and gives status and body.
func (n *node) ids(ctx context.Context, client *http.Client, ids ...int) (int, string, error) {
	body, err := json.Marshal(map[string]any{"model": "tiny", "input": ids})
	if err != nil {
		return 0, "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.url+"/v1/embeddings", bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("content-type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	return res.StatusCode, string(data), err
}

// plant copies the tiny model and plants a fault.
func plant(t *testing.T, fault string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(testmodels.Dir(t, testmodels.BERT))); err != nil {
		t.Fatal(err)
	}
	if fault != "" {
		if err := os.WriteFile(filepath.Join(dir, "fault.txt"), []byte(fault), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestPlantedFaults: a version that crashes or hangs while it is opened or warmed leaves the one before serving; one
// that crashes at a certain input refuses that input and answers all others.
func TestPlantedFaults(t *testing.T) {
	const clients, deadly = 4, 42
	bin := filepath.Join(t.TempDir(), "akidbd")
	if out, err := exec.Command("go", "build", "-tags", "faults", "-o", bin, "../../cmd/akidbd").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Setenv("AKIDB_TEST_BIN", bin)
	for _, swap := range []string{"beside", "unload"} {
		t.Run(swap, func(t *testing.T) {
			dir := t.TempDir()
			model := func(path string) string {
				c := configuration(t, dir, fmt.Sprintf("- {name: tiny, path: %s}\n", path)) + "api: {token_ids: true}\n"
				return strings.Replace(c, "engine: {", "engine: {swap: "+swap+", ", 1)
			}
			if err := os.WriteFile(filepath.Join(dir, "akidbd.yaml"), []byte(model(plant(t, ""))), 0o644); err != nil {
				t.Fatal(err)
			}
			n := start(t, dir)
			l := startLoad(n, clients, func(ctx context.Context, client *http.Client, c, i int) error {
				status, body, err := n.ids(ctx, client, 5+c, 6+i%30, 7)
				if err == nil && status != http.StatusOK {
					err = fmt.Errorf("status %d: %s", status, body)
				}
				return err
			})
			seen := 0
			for _, fault := range []string{"load", "warmup", "hang"} {
				n.configure(model(plant(t, fault)))
				if err := n.cmd.Process.Signal(syscall.SIGHUP); err != nil {
					t.Fatal(err)
				}
				seen++
				n.until(20*time.Second, func() bool { return strings.Count(n.log.String(), "configuration not reloaded as a whole") == seen })
				n.until(5*time.Second, func() bool { return n.status("/readyz") == http.StatusOK })
				time.Sleep(200 * time.Millisecond)
			}
			before := n.workers()
			n.configure(model(plant(t, fmt.Sprintf("input %d", deadly))))
			if err := n.cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			n.until(20*time.Second, func() bool {
				return strings.Count(n.log.String(), `"msg":"configuration reloaded"`) == seen+1 && !slices.Equal(n.workers(), before)
			})
			for range 2 {
				status, body, err := n.ids(t.Context(), http.DefaultClient, 3, deadly, 4)
				if err != nil || status/100 != 4 || !strings.Contains(body, "died 3 times") {
					t.Errorf("the deadly input: %d %s %v", status, body, err)
				}
			}
			l.end(t, clients)
			if err := n.stop(); err != nil {
				t.Error(err)
			}
		})
	}
}
