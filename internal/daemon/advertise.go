package daemon

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/akidb/akidbd/internal/node"
)

const (
	addressEvery  = 2 * time.Second // between looks at this machine's interfaces and at what peers see
	addressRetry  = 30 * time.Second
	addressLookup = 2 * time.Second // for the names of all seeds
)

// address is host:port where others reach this node's links: what is configured, else the address that it listens
// on, else one of this machine's that peers see it under, else one outside that all of them agree on (behind NAT),
// else the one of the interface that leads to a seed or out, "" while there is none: the node can dial all the
// same. It is found again when the network changes; nothing here keeps the node from starting.
type address struct {
	fixed   string // "" when it is to be found
	port    uint16
	seeds   func() []string
	machine machine
	now     atomic.Pointer[string]
}

// machine is what this machine's network tells.
type machine interface {
	// addresses are those of the interfaces that others may reach, in their order.
	addresses() []netip.Addr
	// towards is this machine's address on the way to another one. Nothing is sent.
	towards(to netip.Addr) (netip.Addr, bool)
	// lookup resolves a host name.
	lookup(ctx context.Context, host string) ([]netip.Addr, error)
}

func newAddress(configured string, bound net.Addr, seeds func() []string, m machine) *address {
	a := &address{fixed: configured, seeds: seeds, machine: m}
	if at, err := netip.ParseAddrPort(bound.String()); err == nil {
		a.port = at.Port()
		if a.fixed == "" && !at.Addr().IsUnspecified() {
			a.fixed = at.String()
		}
	} else {
		a.fixed = cmp.Or(a.fixed, bound.String())
	}
	first := a.fixed
	if first == "" {
		done, cancel := context.WithCancel(context.Background())
		cancel() // no name is looked up before the start
		first, _ = a.route(done)
	}
	a.now.Store(&first)
	return a
}

// String is the address of now.
func (a *address) String() string { return *a.now.Load() }

// run finds the address again until ctx ends, and calls changed when it is another one.
func (a *address) run(ctx context.Context, log *slog.Logger, observed func() map[node.ID]netip.AddrPort, changed func()) {
	if a.fixed != "" {
		return
	}
	tick := time.NewTicker(addressEvery)
	defer tick.Stop()
	var before []netip.Addr
	var routed string
	var tried time.Time
	sure := false
	for {
		local := a.machine.addresses()
		if !slices.Equal(local, before) || !sure && time.Since(tried) > addressRetry || tried.IsZero() {
			routed, sure = a.route(ctx)
			before, tried = local, time.Now()
		}
		next := cmp.Or(a.elect(local, observed()), routed)
		if was := a.String(); next != was && ctx.Err() == nil {
			a.now.Store(&next)
			log.Info("this node's address changed", "addr", next, "was", was)
			changed()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// elect is the address that peers see this node under, "" when they do not agree. One of this machine's own comes
// first, however many see another one: those are beyond a NAT, and its neighbours reach it directly. One peer alone
// may only choose among the machine's own.
func (a *address) elect(local []netip.Addr, observed map[node.ID]netip.AddrPort) string {
	votes := map[netip.AddrPort]int{}
	own := map[netip.AddrPort]bool{}
	for _, at := range observed {
		if slices.Contains(local, at.Addr()) {
			if at.Port() != a.port {
				continue
			}
			own[at] = true
		}
		votes[at]++
	}
	var best netip.AddrPort
	for at, n := range votes {
		switch {
		case n < 2 && !(own[at] && len(observed) == 1):
		case !own[at] && (len(own) > 0 || 2*n <= len(observed) || !at.Addr().IsGlobalUnicast()):
		case !best.IsValid() || cmp.Or(cmp.Compare(n, votes[best]), best.Compare(at)) > 0:
			best = at
		}
	}
	if !best.IsValid() {
		return ""
	}
	return best.String()
}

// route is this machine's address on the way to a seed, else on the way out, else the first there is; sure says
// that a seed was found. Names of seeds are looked up while ctx lives.
func (a *address) route(ctx context.Context) (addr string, sure bool) {
	ctx, cancel := context.WithTimeout(ctx, addressLookup)
	defer cancel()
	var ways, names []string
	for _, seed := range a.seeds() {
		host, _, err := net.SplitHostPort(seed)
		if _, perr := netip.ParseAddr(host); err == nil && perr == nil {
			ways = append(ways, host)
		} else if err == nil {
			names = append(names, host)
		}
	}
	for _, way := range ways {
		if from, ok := a.machine.towards(netip.MustParseAddr(way)); ok {
			return a.at(from), true
		}
	}
	for _, name := range names {
		if ctx.Err() != nil {
			break
		}
		ips, _ := a.machine.lookup(ctx, name) // another look comes
		for _, ip := range ips {
			if from, ok := a.machine.towards(ip); ok {
				return a.at(from), true
			}
		}
	}
	sure = len(ways)+len(names) == 0
	for _, out := range []string{"192.0.2.1", "2001:db8::1"} { // of the blocks for documentation
		if from, ok := a.machine.towards(netip.MustParseAddr(out)); ok {
			return a.at(from), sure
		}
	}
	if local := a.machine.addresses(); len(local) > 0 {
		return a.at(local[0]), sure
	}
	return "", false
}

func (a *address) at(ip netip.Addr) string { return netip.AddrPortFrom(ip, a.port).String() }

// thisMachine is the machine that the process runs on.
type thisMachine struct{}

func (thisMachine) addresses() []netip.Addr {
	addrs, _ := net.InterfaceAddrs() // none: another look comes
	var ips []netip.Addr
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				ips = append(ips, ip.Unmap())
			}
		}
	}
	return ips
}

func (thisMachine) towards(to netip.Addr) (netip.Addr, bool) {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
	if err != nil {
		return netip.Addr{}, false
	}
	defer c.Close()
	from, ok := c.LocalAddr().(*net.UDPAddr)
	if !ok {
		return netip.Addr{}, false
	}
	return from.AddrPort().Addr().Unmap().WithZone(""), true
}

func (thisMachine) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}
