//go:build systemd

package systemd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/akidb/akidbd/internal/testlog"
	"github.com/akidb/akidbd/test/lab/netlab"
)

// machine is a container whose first process is systemd, on a host of the lab's network, in a memory cgroup of its own.
type machine struct {
	t      *testing.T
	name   string
	host   *netlab.Host
	cgroup string // "" where the kernel has one hierarchy
	nspawn *exec.Cmd
	init   int // its first process, as this machine counts
	ended  chan struct{}
	log    testlog.Buffer // of nspawn
	http   *http.Client
}

const memoryCgroups = "/sys/fs/cgroup/memory"

// boot starts a machine. binds are FROM:TO, read-only.
func boot(t *testing.T, host *netlab.Host, root string, binds ...string) *machine {
	t.Helper()
	m := &machine{t: t, name: host.Name, host: host, ended: make(chan struct{})}
	m.http = &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{DialContext: host.DialContext, DisableKeepAlives: true}}
	// The shell goes into the cgroup and becomes nspawn.
	script := `[ -z "$0" ] || echo $$ > "$0/cgroup.procs"; exec systemd-nspawn "$@"`
	if _, err := os.Stat(memoryCgroups); err == nil {
		m.cgroup = filepath.Join(memoryCgroups, fmt.Sprintf("akidbd-e2e-%d-%s", os.Getpid(), m.name))
		check(t, os.Mkdir(m.cgroup, 0o755))
	}
	args := []string{"-c", script, m.cgroup, "--quiet", "--directory=" + root, "--volatile=overlay", "--boot", "--register=no", "--keep-unit",
		"--console=pipe", "--machine=" + m.name, "--hostname=" + m.name}
	for _, b := range binds {
		args = append(args, "--bind-ro="+b)
	}
	m.nspawn = exec.Command("/bin/sh", args...)
	m.nspawn.Stdout, m.nspawn.Stderr = &m.log, &m.log
	check(t, host.Start(m.nspawn))
	go func() {
		_ = m.nspawn.Wait()
		close(m.ended)
	}()
	t.Cleanup(m.powerOff)
	m.until(10*time.Second, "its first process", func() bool {
		for _, f := range strings.Fields(children(m.nspawn.Process.Pid)) { // helpers of nspawn come and go
			if comm, _ := os.ReadFile("/proc/" + f + "/comm"); string(comm) == "systemd\n" {
				m.init, _ = strconv.Atoi(f)
			}
		}
		return m.init != 0
	})
	m.until(20*time.Second, "systemd", func() bool {
		out, _ := m.try("systemctl", "is-system-running")
		return out == "running" || out == "degraded"
	})
	if m.cgroup != "" {
		m.run("mount", "-o", "remount,bind,rw", memoryCgroups)
		m.run("systemctl", "daemon-reexec")
	}
	return m
}

func children(pid int) string {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var all strings.Builder
	for _, file := range tasks {
		data, _ := os.ReadFile(file)
		all.Write(data)
	}
	return all.String()
}

// powerOff is what a power cut does.
func (m *machine) powerOff() {
	select {
	case <-m.ended:
		return
	default:
	}
	if m.t.Failed() {
		out, _ := m.try("journalctl", "--no-pager", "-u", "akidbd", "-n", "40", "-o", "cat")
		m.t.Logf("journal of %s:\n%s", m.name, out)
	}
	_ = syscall.Kill(m.init, syscall.SIGKILL)
	select {
	case <-m.ended:
	case <-time.After(10 * time.Second):
		_ = m.nspawn.Process.Kill()
		<-m.ended
	}
	m.http.CloseIdleConnections()
	if m.cgroup != "" {
		removeCgroups(m.cgroup)
	}
}

// reap ends the machines of runs that were killed: a container outlives who started it.
func reap() {
	left, _ := filepath.Glob(filepath.Join(memoryCgroups, "akidbd-e2e-*"))
	for _, dir := range left {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), "akidbd-e2e-"), "-")
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, fs.ErrNotExist) {
			removeCgroups(dir)
		}
	}
}

// removeCgroups ends what runs in a tree of cgroups and removes it, the leaves first.
func removeCgroups(root string) {
	for range 50 {
		var dirs []string
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		slices.Reverse(dirs)
		for _, d := range dirs {
			procs, _ := os.ReadFile(filepath.Join(d, "cgroup.procs"))
			for _, p := range strings.Fields(string(procs)) {
				if pid, err := strconv.Atoi(p); err == nil && pid > 1 {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
			_ = syscall.Rmdir(d)
		}
		if _, err := os.Stat(root); errors.Is(err, fs.ErrNotExist) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (m *machine) until(limit time.Duration, what string, ok func() bool) {
	m.t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			m.t.Fatalf("%s: no %s within %v\n%s", m.name, what, limit, m.log.String())
		}
	}
}

// path is a file of the machine as this one sees it.
func (m *machine) path(name string) string { return fmt.Sprintf("/proc/%d/root%s", m.init, name) }

func (m *machine) write(name, text string, mode fs.FileMode) {
	m.t.Helper()
	check(m.t, os.MkdirAll(filepath.Dir(m.path(name)), 0o755))
	check(m.t, os.WriteFile(m.path(name), []byte(text), mode))
	check(m.t, os.Chmod(m.path(name), mode))
}

func (m *machine) exists(name string) bool {
	_, err := os.Lstat(m.path(name))
	return err == nil
}

// try runs a program on the machine, as root.
func (m *machine) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	enter := []string{"-t", strconv.Itoa(m.init), "-m", "-u", "-i", "-n", "-p", "-C", "--", "env", "-i",
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"}
	out, err := exec.CommandContext(ctx, "nsenter", append(enter, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (m *machine) run(args ...string) string {
	m.t.Helper()
	out, err := m.try(args...)
	if err != nil {
		m.t.Fatalf("%s: %s: %v\n%s", m.name, strings.Join(args, " "), err, out)
	}
	return out
}

// show gives a property of the service.
func (m *machine) show(property string) string {
	m.t.Helper()
	return m.run("systemctl", "show", "--value", "-p", property, "akidbd")
}

func (m *machine) mainPID() int {
	m.t.Helper()
	pid, err := strconv.Atoi(m.show("MainPID"))
	check(m.t, err)
	return pid
}

// dropIn changes the unit until the machine ends; "" takes the change back.
func (m *machine) dropIn(text string) {
	m.t.Helper()
	const file = "/etc/systemd/system/akidbd.service.d/e2e.conf"
	if text == "" {
		check(m.t, os.Remove(m.path(file)))
	} else {
		m.write(file, "[Service]\n"+text, 0o644)
	}
	m.run("systemctl", "daemon-reload")
}

func (m *machine) url() string { return fmt.Sprintf("http://%s:8080", m.host.Addr) }

// get asks the machine from itself and gives status and body; 0 when it does not answer.
func (m *machine) get(path string) (int, string) { return read(m.http.Get(m.url() + path)) }

// post sends JSON; its answer is like that of get.
func (m *machine) post(path, body string) (int, string) {
	return read(m.http.Post(m.url()+path, "application/json", strings.NewReader(body)))
}

func read(res *http.Response, err error) (int, string) {
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(data)
}

func (m *machine) ready() bool {
	status, _ := m.get("/readyz")
	return status == http.StatusOK
}

func (m *machine) waitReady() {
	m.t.Helper()
	m.until(20*time.Second, "200 of /readyz", m.ready)
}

func (m *machine) journal() string {
	m.t.Helper()
	return m.run("journalctl", "--no-pager", "-u", "akidbd", "-o", "cat")
}

func TestMain(m *testing.M) {
	reap()
	os.Exit(m.Run())
}
