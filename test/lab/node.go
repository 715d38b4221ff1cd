//go:build linux

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/akidb/akidbd/test/lab/netlab"
)

const (
	httpPort = 8080
	linkPort = 7946
)

// node is one akidbd, running or not.
type node struct {
	place
	host   *netlab.Host
	home   string
	log    string // path
	config string
	engine engine

	program string // in place of the engine's

	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
	how   error         // how it ended
	meant bool          // its end is the lab's doing
	admin *http.Client
}

func (n *node) socket() string { return filepath.Join(n.home, "admin.sock") }
func (n *node) url() string {
	return "http://" + net.JoinHostPort(n.host.Addr.String(), fmt.Sprint(httpPort))
}

// start starts the process; its log is appended to.
func (n *node) start() error {
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own
	n.cmd = exec.Command(cmp.Or(n.program, n.engine.program), append(append([]string(nil), n.engine.args...), n.config)...)
	n.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + n.home, "GOTRACEBACK=all"}
	n.cmd.Stdout, n.cmd.Stderr = log, log
	n.meant = false
	if err := n.host.Start(n.cmd); err != nil {
		return fmt.Errorf("start %s: %w", n.name, err)
	}
	ended := make(chan struct{})
	n.ended = ended
	cmd := n.cmd
	go func() {
		n.how = cmd.Wait()
		close(ended)
	}()
	return nil
}

func (n *node) running() bool {
	if n.cmd == nil {
		return false
	}
	select {
	case <-n.ended:
		return false
	default:
		return true
	}
}

func (n *node) signal(s syscall.Signal) error {
	if s == syscall.SIGKILL || s == syscall.SIGTERM {
		n.meant = true
	}
	return n.cmd.Process.Signal(s)
}

// kill ends the process at once and waits for its end.
func (n *node) kill() error {
	if err := n.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-n.ended
	return nil
}

// stop ends the process as an operator does. One that takes longer than the limit is killed.
func (n *node) stop(limit time.Duration) error {
	if err := n.signal(syscall.SIGTERM); err != nil {
		return err
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-n.ended:
		if n.how != nil {
			return fmt.Errorf("%s ended with %w after SIGTERM", n.name, n.how)
		}
		return nil
	case <-timer.C:
		_ = n.signal(syscall.SIGQUIT) // its stacks go into its log
		time.Sleep(200 * time.Millisecond)
		_ = n.kill()
		return fmt.Errorf("%s still ran %v after SIGTERM; its stacks are in its log", n.name, limit)
	}
}

// newAdmin is a client of the node's admin service; unix sockets do not care about network namespaces.
func (n *node) newAdmin() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", n.socket())
	}}}
}

// call asks the admin service.
func (n *node) call(ctx context.Context, method string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://akidbd/akidb.admin.v1.AdminService/"+method, strings.NewReader("{}"))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := n.admin.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, 8<<20))
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s of %s: %d %s", method, n.name, res.StatusCode, data)
	}
	return json.Unmarshal(data, into)
}

// member is a node as another one sees it.
type member struct {
	Node, Link, LinkCause string
	Self                  bool
}

// members asks for the fleet as this node sees it.
func (n *node) members(ctx context.Context) (map[string]member, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var res struct{ Members []member }
	if err := n.call(ctx, "ListMembers", &res); err != nil {
		return nil, err
	}
	byName := make(map[string]member, len(res.Members))
	for _, m := range res.Members {
		byName[m.Node] = m
	}
	return byName, nil
}

// busy says how many requests wait or run on this node.
func (n *node) busy(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var res struct {
		Models []struct{ QueueRequests int }
	}
	if err := n.call(ctx, "Status", &res); err != nil {
		return 0, err
	}
	sum := 0
	for _, m := range res.Models {
		sum += m.QueueRequests
	}
	return sum, nil
}

// worker is the process id of the node's worker, which must have loaded its model.
func (n *node) worker(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var res struct {
		Models []struct {
			WorkerPid int `json:",string"`
		}
	}
	if err := n.call(ctx, "Status", &res); err != nil {
		return 0, err
	}
	for _, m := range res.Models {
		if m.WorkerPid > 0 {
			return m.WorkerPid, nil
		}
	}
	return 0, fmt.Errorf("%s has no worker", n.name)
}

// metrics sums the samples of each metric over its labels.
func (n *node) metrics(ctx context.Context, from *http.Client) (map[string]float64, error) {
	data, err := n.scrape(ctx, from)
	if err != nil {
		return nil, err
	}
	return parseMetrics(data)
}

func (n *node) scrape(ctx context.Context, from *http.Client) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.url()+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	res, err := from.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	return io.ReadAll(io.LimitReader(res.Body, 8<<20))
}

// parseMetrics reads the text format of Prometheus as akidbd writes it: without timestamps.
func parseMetrics(data []byte) (map[string]float64, error) {
	sums := map[string]float64{}
	for line := range bytes.Lines(data) {
		text := strings.TrimSpace(string(line))
		if text == "" || text[0] == '#' {
			continue
		}
		cut := strings.LastIndexByte(text, ' ')
		if cut < 0 {
			return nil, fmt.Errorf("metrics: no value in %.80q", text)
		}
		var v float64
		if _, err := fmt.Sscan(text[cut+1:], &v); err != nil {
			return nil, fmt.Errorf("metrics: %.80q: %w", text, err)
		}
		name, _, _ := strings.Cut(text[:cut], "{")
		sums[name] += v
	}
	return sums, nil
}

// complaints gives the first lines of the log that no healthy node writes.
func (n *node) complaints(from int64) []string {
	data, err := os.ReadFile(n.log)
	if err != nil || int64(len(data)) < from {
		return nil
	}
	var found []string
	for line := range bytes.Lines(data[from:]) {
		text := strings.TrimSpace(string(line))
		if strings.Contains(text, "level=ERROR") || strings.HasPrefix(text, "panic:") || strings.HasPrefix(text, "fatal error:") || strings.Contains(text, "DATA RACE") {
			found = append(found, fmt.Sprintf("%s: %.300s", n.name, text))
			if len(found) == 3 {
				break
			}
		}
	}
	return found
}
