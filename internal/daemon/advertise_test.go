package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/node"
)

// fakeMachine has interfaces, a way out through the first of them, and names.
type fakeMachine struct {
	mu      sync.Mutex
	ips     []netip.Addr
	names   map[string]netip.Addr
	hang    bool // lookups
	lookups int
}

func (m *fakeMachine) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *fakeMachine) addresses() []netip.Addr {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.ips)
}

// towards: the address with the same first byte, else the first.
func (m *fakeMachine) towards(to netip.Addr) (netip.Addr, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ip := range m.ips {
		if ip.As4()[0] == to.Unmap().As16()[12] {
			return ip, true
		}
	}
	if len(m.ips) == 0 {
		return netip.Addr{}, false
	}
	return m.ips[0], true
}

func (m *fakeMachine) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	m.mu.Lock()
	m.lookups++
	hang, ip := m.hang, m.names[host]
	m.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if !ip.IsValid() {
		return nil, errors.New("no such host")
	}
	return []netip.Addr{ip}, nil
}

func any7946() net.Addr { return &net.UDPAddr{IP: net.IPv6unspecified, Port: 7946} }

func ips(in ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range in {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func seen(in ...string) map[node.ID]netip.AddrPort {
	out := map[node.ID]netip.AddrPort{}
	for i, s := range in {
		out[node.ID(rune('a'+i))] = netip.MustParseAddrPort(s)
	}
	return out
}

func TestAddressThatIsSaid(t *testing.T) {
	m := &fakeMachine{ips: ips("10.0.0.5")}
	none := func() []string { return nil }
	for _, c := range []struct {
		configured string
		bound      net.Addr
		want       string
	}{
		{"node.example:7000", any7946(), "node.example:7000"},
		{"", &net.UDPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 7946}, "10.0.0.9:7946"},
		{"", any7946(), "10.0.0.5:7946"},
	} {
		if got := newAddress(c.configured, c.bound, none, m).String(); got != c.want {
			t.Errorf("%q bound to %v: %q, want %q", c.configured, c.bound, got, c.want)
		}
	}
}

func TestAddressOnTheWayToASeed(t *testing.T) {
	a := newAddress("", any7946(), func() []string { return []string{"127.0.0.9:7"} }, thisMachine{})
	if got := a.String(); got != "127.0.0.1:7946" {
		t.Errorf("got %q", got)
	}
}

func TestElection(t *testing.T) {
	a := &address{port: 7946}
	local := ips("10.0.0.5", "172.17.0.1")
	for _, c := range []struct {
		what string
		seen map[node.ID]netip.AddrPort
		want string
	}{
		{"nobody", nil, ""},
		{"one alone chooses among the machine's own", seen("10.0.0.5:7946"), "10.0.0.5:7946"},
		{"one alone may not send the fleet elsewhere", seen("203.0.113.9:7946"), ""},
		{"one of two liars", seen("10.0.0.5:7946", "172.17.0.1:7946"), ""},
		{"most", seen("10.0.0.5:7946", "10.0.0.5:7946", "172.17.0.1:7946"), "10.0.0.5:7946"},
		{"its own port only", seen("10.0.0.5:1", "10.0.0.5:1"), ""},
		{"behind NAT", seen("203.0.113.9:7000", "203.0.113.9:7000"), "203.0.113.9:7000"},
		{"behind a NAT that gives each another port", seen("203.0.113.9:7000", "203.0.113.9:7001"), ""},
		{"a neighbour sees it directly", seen("203.0.113.9:7000", "203.0.113.9:7000", "203.0.113.9:7000", "10.0.0.5:7946"), ""},
		{"neighbours see it directly", seen("203.0.113.9:7000", "203.0.113.9:7000", "203.0.113.9:7000", "10.0.0.5:7946", "10.0.0.5:7946"), "10.0.0.5:7946"},
		{"no majority", seen("203.0.113.9:7000", "203.0.113.9:7000", "198.51.100.1:7946", "198.51.100.1:7946"), ""},
		{"loopback of others", seen("127.0.0.1:7946", "127.0.0.1:7946"), ""},
	} {
		if got := a.elect(local, c.seen); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

// TestAddressFollowsTheNetwork: a machine that starts before its network, whose seeds have names that hang at first,
// and whose address changes later.
func TestAddressFollowsTheNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeMachine{hang: true, names: map[string]netip.Addr{}}
		start := time.Now()
		a := newAddress("", any7946(), func() []string { return []string{"seed.example:7946"} }, m)
		if took := time.Since(start); took > 0 || m.lookups > 0 || a.String() != "" {
			t.Errorf("the start took %v and %d lookups, address %q", took, m.lookups, a)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		var peers map[node.ID]netip.AddrPort
		changes := make(chan string, 100)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			a.run(ctx, slog.New(slog.DiscardHandler), func() map[node.ID]netip.AddrPort {
				mu.Lock()
				defer mu.Unlock()
				return peers
			}, func() { changes <- a.String() })
		}()
		expect := func(what, want string, within time.Duration) {
			t.Helper()
			select {
			case got := <-changes:
				if got != want {
					t.Errorf("%s: %q, want %q", what, got, want)
				}
			case <-time.After(within):
				t.Errorf("%s: no change within %v", what, within)
			}
		}
		time.Sleep(10 * time.Second)
		m.set(func() { m.ips = ips("10.0.0.5", "172.17.0.1") })
		expect("DHCP came, names still hang", "10.0.0.5:7946", 5*time.Second)
		m.set(func() { m.hang, m.names["seed.example"] = false, netip.MustParseAddr("172.17.0.2") })
		expect("the seed is found", "172.17.0.1:7946", 40*time.Second)
		mu.Lock()
		peers = seen("10.0.0.5:7946", "10.0.0.5:7946")
		mu.Unlock()
		expect("peers see it elsewhere", "10.0.0.5:7946", 3*time.Second)
		mu.Lock()
		peers = nil
		mu.Unlock()
		m.set(func() { m.ips = ips("10.0.7.7") })
		expect("a new lease", "10.0.7.7:7946", 5*time.Second)
		lookups := func() int {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.lookups
		}
		before := lookups()
		time.Sleep(10 * time.Minute)
		if n := lookups() - before; n > 1 {
			t.Errorf("%d lookups while nothing changed", n)
		}
		cancel()
		<-ended
	})
}
