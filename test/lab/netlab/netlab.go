//go:build linux

// Package netlab is a network for tests on one machine: every host is a network namespace of its own, whose only
// way out is a TUN device that this process holds, and a switch in this process carries the packets and delays,
// drops and cuts them as told. Nothing of it has a name outside: when the process ends, however it ends, the
// kernel takes the namespaces, the devices and the processes that were started in them away.
//
// It needs root (CAP_NET_ADMIN, CAP_SYS_ADMIN) and /dev/net/tun; Available says whether it can work here.
package netlab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// maxHosts is how many hosts one network takes.
const maxHosts = 200

// Place is a host to be made.
type Place struct{ Name, Region string }

// Path is how packets of one host get to another one, in that direction only.
type Path struct {
	Delay  time.Duration // one way
	Jitter time.Duration // the delay is Delay ± Jitter, evenly spread; order is kept
	Loss   float64       // share of packets that is dropped, 0 to 1
	Cut    bool          // nothing passes
}

// Net is a network. Make it with New, end it with Close.
type Net struct {
	hosts []*Host
	base  func(from, to *Host) Path
	paths atomic.Pointer[[]Path] // of hosts[i] to hosts[j] at i*len(hosts)+j
	mu    sync.Mutex             // held while paths change

	home    *os.File // the namespace this process lives in
	spawn   chan func()
	readers sync.WaitGroup
	writers sync.WaitGroup
	done    chan struct{}
	close   sync.Once
}

// Available says why netlab cannot work here, nil when it can.
func Available() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root")
	}
	f, err := os.OpenFile(tunDevice, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("no TUN devices here: %w", err)
	}
	return f.Close()
}

// New makes the hosts and the switch between them. base is how their paths are until they are changed; nil is a
// perfect network.
func New(places []Place, base func(from, to *Host) Path) (*Net, error) {
	if len(places) < 1 || len(places) > maxHosts {
		return nil, fmt.Errorf("%d hosts, 1 to %d can be made", len(places), maxHosts)
	}
	if err := Available(); err != nil {
		return nil, err
	}
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	if base == nil {
		base = func(*Host, *Host) Path { return Path{} }
	}
	n := &Net{base: base, home: home, spawn: make(chan func()), done: make(chan struct{})}
	for i, p := range places {
		h := &Host{
			Name: p.Name, Region: p.Region, Addr: netip.AddrFrom4([4]byte{10, 203, 0, byte(i + 1)}),
			net: n, index: i, lastDue: make([]time.Time, len(places)), out: newOutbox(),
		}
		if err := h.open(); err != nil {
			n.Close()
			return nil, fmt.Errorf("host %s: %w", p.Name, err)
		}
		n.hosts = append(n.hosts, h)
	}
	n.Reset()
	for _, h := range n.hosts {
		n.readers.Go(h.read)
		n.writers.Go(h.write)
	}
	n.writers.Go(n.spawner)
	return n, nil
}

// Close ends the network. Processes that still run in it are killed by the kernel.
func (n *Net) Close() {
	n.close.Do(func() {
		close(n.done)
		for _, h := range n.hosts {
			h.tun.Close()
		}
		n.readers.Wait()
		n.writers.Wait()
		for _, h := range n.hosts {
			h.ns.Close()
		}
		n.home.Close()
	})
}

// Host is the host with that name, nil when there is none.
func (n *Net) Host(name string) *Host {
	for _, h := range n.hosts {
		if h.Name == name {
			return h
		}
	}
	return nil
}

// Change lets f change each path, both directions on their own. The paths change all at once; packets under way
// arrive.
func (n *Net) Change(f func(from, to *Host, p *Path)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	paths := append([]Path(nil), *n.paths.Load()...)
	for i, from := range n.hosts {
		for j, to := range n.hosts {
			if i != j {
				f(from, to, &paths[i*len(n.hosts)+j])
			}
		}
	}
	n.paths.Store(&paths)
}

// Reset makes all paths what they were at first.
func (n *Net) Reset() {
	paths := make([]Path, len(n.hosts)*len(n.hosts))
	for i, from := range n.hosts {
		for j, to := range n.hosts {
			if i != j {
				paths[i*len(n.hosts)+j] = n.base(from, to)
			}
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.paths.Store(&paths)
}

// spawner is the one thread that starts processes. It lives as long as the network: the kernel kills the
// processes with the thread that started them, also when this process is killed.
func (n *Net) spawner() {
	runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
	// Those who carry the packets may run at a higher priority than those who are tested.
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 0)
	for {
		select {
		case f := <-n.spawn:
			f()
		case <-n.done:
			return
		}
	}
}

// Start starts a process on the host. It is killed with the network at the latest.
func (h *Host) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &unix.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	cmd.SysProcAttr.Setpgid = true // a Ctrl-C is for the lab to handle
	ended := make(chan error, 1)
	start := func() {
		if err := unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			ended <- fmt.Errorf("enter the namespace of %s: %w", h.Name, err)
			return
		}
		ended <- errors.Join(cmd.Start(), unix.Setns(int(h.net.home.Fd()), unix.CLONE_NEWNET))
	}
	select {
	case h.net.spawn <- start:
		return <-ended
	case <-h.net.done:
		return context.Canceled
	}
}
