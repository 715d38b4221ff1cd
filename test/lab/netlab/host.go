//go:build linux

package netlab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	tunDevice = "/dev/net/tun"
	ifName    = "eth0"
	mtu       = 1500
)

// Host is one machine of the network.
type Host struct {
	Name, Region string
	Addr         netip.Addr

	net   *Net
	index int
	ns    *os.File // its network namespace
	tun   *os.File // its wire: what the host sends is read here, what is written here the host receives

	lastDue []time.Time // by destination; of the reader alone
	out     *outbox
}

// open makes the namespace with its device, address and route.
func (h *Host) open() error {
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread is left in the new namespace and ends with this goroutine
		ended <- h.openHere()
	}()
	return <-ended
}

func (h *Host) openHere() (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("new network namespace: %w", err)
	}
	if h.ns, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return err
	}
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", tunDevice, err)
	}
	ifr, err := unix.NewIfreq(ifName)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		unix.Close(fd)
		return fmt.Errorf("TUNSETIFF: %w", err)
	}
	h.tun = os.NewFile(uintptr(fd), "tun of "+h.Name)
	return h.configure()
}

// configure gives the interfaces their addresses and sets them up. It runs in the namespace.
func (h *Host) configure() error {
	return withSocket(func(s int) error {
		set := func(what string, request uint, name string, value func(*unix.Ifreq) error) error {
			ifr, err := unix.NewIfreq(name)
			if err != nil {
				return err
			}
			if err := value(ifr); err != nil {
				return err
			}
			if err := unix.IoctlIfreq(s, request, ifr); err != nil {
				return fmt.Errorf("%s of %s: %w", what, name, err)
			}
			return nil
		}
		address := func(a []byte) func(*unix.Ifreq) error {
			return func(i *unix.Ifreq) error { return i.SetInet4Addr(a) }
		}
		if err := set("address", unix.SIOCSIFADDR, ifName, address(h.Addr.AsSlice())); err != nil {
			return err
		}
		if err := set("netmask", unix.SIOCSIFNETMASK, ifName, address([]byte{255, 255, 0, 0})); err != nil {
			return err
		}
		if err := set("mtu", unix.SIOCSIFMTU, ifName, func(i *unix.Ifreq) error { i.SetUint32(mtu); return nil }); err != nil {
			return err
		}
		for _, name := range []string{"lo", ifName} {
			if err := setFlag(s, name, true); err != nil {
				return err
			}
		}
		return nil
	})
}

func withSocket(f func(s int) error) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	return f(s)
}

func setFlag(s int, name string, up bool) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, ifr); err != nil {
		return fmt.Errorf("flags of %s: %w", name, err)
	}
	flags := ifr.Uint16() &^ unix.IFF_UP
	if up {
		flags |= unix.IFF_UP
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("set %s up or down: %w", name, err)
	}
	return nil
}

// In runs f on a thread that is in the namespace of the host. Sockets that f opens stay there.
func (h *Host) In(f func() error) error {
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			ended <- fmt.Errorf("enter the namespace of %s: %w", h.Name, err)
			return
		}
		err := f()
		if unix.Setns(int(h.net.home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread() // else the thread ends with the goroutine
		}
		ended <- err
	}()
	return <-ended
}

// DialContext dials from the host, as net.Dialer does. The address must be an IP address with a port.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if network == "tcp" || network == "udp" {
		network += "4"
	}
	var conn net.Conn
	err := h.In(func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// SetUp takes the host's interface down, or up again.
func (h *Host) SetUp(up bool) error {
	return h.In(func() error { return withSocket(func(s int) error { return setFlag(s, ifName, up) }) })
}
