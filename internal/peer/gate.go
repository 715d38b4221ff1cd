package peer

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/quic-go/quic-go"
)

// Limits of handshakes under way, hello included. A whole fleet that comes back at once stays below them, or pays
// one round trip more.
const (
	maxUnproven       = 32  // from addresses that may be forged; above it a Retry has each prove its address first
	maxHandshakes     = 256 // from all proven addresses
	maxHandshakesFrom = 32  // from one proven IP address
)

var errBusy = errors.New("too many handshakes are under way")

// gate counts handshakes.
type gate struct {
	mu       sync.Mutex
	unproven int
	proven   int
	from     map[netip.Addr]int // of the proven
}

// wary says whether an address has to be proven before a handshake begins.
func (g *gate) wary() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.unproven >= maxUnproven
}

// enter takes a place; false when there is none. leave gives it back.
func (g *gate) enter(ip netip.Addr, proven bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !proven && g.unproven >= maxUnproven, proven && (g.proven >= maxHandshakes || g.from[ip] >= maxHandshakesFrom):
		return false
	case proven:
		g.proven++
		g.from[ip]++
	default:
		g.unproven++
	}
	return true
}

func (g *gate) leave(ip netip.Addr, proven bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !proven {
		g.unproven--
		return
	}
	g.proven--
	if g.from[ip]--; g.from[ip] == 0 {
		delete(g.from, ip)
	}
}

type attemptKey struct{}

// attempt is a connection that somebody began. It counts as refused unless it got through the handshake.
type attempt struct {
	accepted atomic.Bool
	shown    fingerprint // of the certificate that this node had when it began
	leave    func()      // gives its place at the gate back
}

// attemptOf is the attempt that an accepted connection was.
func attemptOf(conn *quic.Conn) *attempt {
	a, _ := conn.Context().Value(attemptKey{}).(*attempt)
	return a
}

func (l *Links) attempt(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	ip := ipOf(info.RemoteAddr)
	if !l.gate.enter(ip, info.AddrVerified) {
		l.refuse(refusedFlood, info.RemoteAddr)
		return nil, errBusy
	}
	a := &attempt{shown: l.shown(), leave: sync.OnceFunc(func() { l.gate.leave(ip, info.AddrVerified) })}
	ctx = context.WithValue(ctx, attemptKey{}, a)
	context.AfterFunc(ctx, func() {
		a.leave()
		if !a.accepted.Load() {
			l.refuse(refusedHandshake, info.RemoteAddr, "reason", context.Cause(ctx))
		}
	})
	return ctx, nil
}

func ipOf(addr net.Addr) netip.Addr {
	if u, ok := addr.(*net.UDPAddr); ok {
		return u.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
