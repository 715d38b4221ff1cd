package peer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/akidb/akidbd/internal/node"
)

// flightKey is whom a dial is to reach, and where: a dial elsewhere is another one.
type flightKey struct {
	id   node.ID // "" for anybody
	addr string
}

// flight is one dial that several may wait for.
type flight struct {
	done   chan struct{}
	link   *link
	err    error
	queue  [][]byte // gossip that waits for the link
	landed time.Time
}

const (
	dialTimeout = 6 * time.Second // resolving, handshake and hello, 2 s each
	lookupTime  = 2 * time.Second
	maxQueued   = 16 // gossip datagrams that wait for a dial
	maxFlights  = 1024
	restFast    = 500 * time.Millisecond // before gossip dials again what did not answer
	restSlow    = 10 * time.Second       // what answered that it must not
)

// connect gives a link to a node, dialling when there is none. id may be "".
func (l *Links) connect(ctx context.Context, id node.ID, addr string) (*link, error) {
	select {
	case <-l.begun:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	l.mu.Lock()
	if k := l.find(id, addr); k != nil {
		l.mu.Unlock()
		return k, nil
	}
	f := l.fly(id, addr)
	l.mu.Unlock()
	if f == nil {
		return nil, errors.New("this node stops")
	}
	select {
	case <-f.done:
		return f.link, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// find gives the link that is there for a node, or for who is at an address, which a connection there proves; what
// nodes say of their addresses does not count. The caller holds mu.
func (l *Links) find(id node.ID, addr string) *link {
	if id == "" {
		k := l.at[addr]
		if k == nil {
			return nil
		}
		id = k.id
	}
	return l.best(id)
}

// fly starts a dial, or joins the one under way. nil: this node stops. The caller holds mu.
func (l *Links) fly(id node.ID, addr string) *flight {
	key := flightKey{id, addr}
	if f := l.flights[key]; f != nil && f.landed.IsZero() {
		return f
	}
	f := &flight{done: make(chan struct{})}
	if l.draining || !l.spawnLocked(func() {
		k, err := l.dial(l.dialCtx, id, addr)
		l.mu.Lock()
		f.link, f.err, f.landed = k, err, time.Now()
		for _, b := range f.queue {
			if k == nil || !push(k.gossip, b) {
				l.metrics.datagrams.Inc()
			}
		}
		f.queue = nil
		if err == nil {
			delete(l.flights, key)
		}
		l.mu.Unlock()
		close(f.done)
	}) {
		return nil
	}
	if len(l.flights) > maxFlights {
		l.forgetFlights()
	}
	l.flights[key] = f
	return f
}

func (l *Links) forgetFlights() {
	for key, f := range l.flights {
		if !f.landed.IsZero() && time.Since(f.landed) > restSlow {
			delete(l.flights, key)
		}
	}
}

// resting says that a dial failed lately and gossip should not try again yet. The caller holds mu.
func (f *flight) resting() bool {
	if f == nil || f.landed.IsZero() || f.err == nil {
		return false
	}
	rest := restFast
	if patient(causeOf(f.err)) || errors.Is(f.err, errSelf) {
		rest = restSlow
	}
	return time.Since(f.landed) < rest
}

func (l *Links) dial(ctx context.Context, want node.ID, addr string) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	shown := l.shown() // before the handshake: what it shows is this one or a newer
	to, err := resolve(ctx, addr)
	if err != nil {
		return nil, err
	}
	conn, err := l.tr.Dial(ctx, to, l.tls, l.quicConfig(to.String()))
	if err != nil {
		return nil, err
	}
	k, err := l.greet(ctx, conn, true, want)
	if err != nil {
		return nil, err
	}
	k.shown = shown
	if addr != k.at[0] {
		k.at = append(k.at, addr)
	}
	if err := l.adopt(k); err != nil {
		_ = conn.CloseWithError(codeDraining, err.Error())
		return nil, err
	}
	return k, nil
}

// resolve looks a host name up; an address needs no resolver.
func resolve(ctx context.Context, addr string) (net.Addr, error) {
	if ap, err := netip.ParseAddrPort(addr); err == nil {
		return net.UDPAddrFromAddrPort(ap), nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("address %q of a node: %w", addr, err)
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("address %q of a node: %w", addr, err)
	}
	number, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil || len(ips) == 0 {
		return nil, fmt.Errorf("address %q of a node: no such port or host: %w", addr, err)
	}
	ip := ips[rand.IntN(len(ips))] // not all of them may answer: another dial takes another
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip.Unmap(), uint16(number))), nil
}

// accept takes connections that others dial.
func (l *Links) accept(ln *quic.Listener) {
	for {
		conn, err := ln.Accept(l.ctx)
		if err != nil {
			if l.ctx.Err() == nil && !errors.Is(err, quic.ErrServerClosed) {
				l.fail(fmt.Errorf("the socket of the links %s: %w", l.Addr(), err))
			}
			return
		}
		if a := attemptOf(conn); a != nil {
			a.accepted.Store(true)
		}
		l.spawn(func() { l.welcome(conn) })
	}
}

func (l *Links) welcome(conn *quic.Conn) {
	if conn.ConnectionState().TLS.NegotiatedProtocol == blobVersion {
		if a := attemptOf(conn); a != nil {
			a.leave()
		}
		l.serveBlobs(conn)
		return
	}
	k, err := l.greet(l.ctx, conn, false, "")
	if a := attemptOf(conn); a != nil {
		a.leave()
		if k != nil {
			k.shown = a.shown
		}
	}
	if err == nil {
		if err = l.adopt(k); err != nil {
			_ = conn.CloseWithError(codeDraining, err.Error())
		}
		return
	}
	reason := refusedHandshake
	switch {
	case errors.Is(err, errSelf):
		return
	case is[*cloneError](err):
		reason = refusedClone
	case is[*unauthorizedError](err):
		reason = refusedIdentity
	}
	l.refuse(reason, conn.RemoteAddr(), "reason", err)
}

// backoff is how long to wait before dial n after a loss.
func backoff(n int, cause string) time.Duration {
	base, limit := 50*time.Millisecond, 2*time.Second
	switch {
	case patient(cause):
		base, limit = 5*time.Second, time.Minute
	case cause == causeDraining && n == 0:
		return jitter(time.Second) // it stops now
	case n == 0:
		return 0
	}
	return jitter(min(limit, base<<min(n, 10)))
}

func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }

const (
	steady    = 5 * time.Second       // a link that lived so long was a good one
	headStart = 30 * time.Millisecond // of the smaller name, so that mostly one side dials
	noAddress = 30 * time.Second      // between looks at whether a node can be dialled

	nextAddress = 50 * time.Millisecond // before the next address of a node
)

// keep keeps a link to a node until ctx ends.
func (l *Links) keep(ctx context.Context, id node.ID) {
	n, cause, said := 0, "", map[string]bool{}
	var linked time.Time // since when; zero without a link
	for ctx.Err() == nil {
		l.mu.Lock()
		r := l.remotes[id]
		if r == nil {
			l.mu.Unlock()
			return
		}
		has, changed, addrs, lost := len(r.links) > 0, r.changed, r.addresses(), r.info.Link.Cause
		l.mu.Unlock()
		if has {
			if linked.IsZero() {
				linked = time.Now()
				clear(said)
			}
			select {
			case <-ctx.Done():
			case <-changed:
			}
			continue
		}
		if !linked.IsZero() {
			if cause = lost; time.Since(linked) > steady {
				n = 0
			}
			linked = time.Time{}
		}
		if !l.rest(ctx, changed, id, len(addrs), n, cause) {
			if patient(cause) { // a new identity or address: worth a try at once
				n, cause = 0, ""
			}
			continue
		}
		addr := addrs[n%len(addrs)]
		n++
		if _, err := l.connect(ctx, id, addr); err != nil && ctx.Err() == nil {
			if cause = causeOf(err); !said[cause] {
				l.log.Warn("no link", "node", id, "addr", addr, "cause", cause, "reason", err)
				said[cause] = true
			}
		}
	}
}

// addresses are where a node may be dialled, each in its turn: where gossip says that it is, where it said itself
// when it was linked last, and where that link led. The caller holds Links.mu.
func (r *remote) addresses() []string {
	var addrs []string
	for _, a := range []string{r.addr, r.info.Addr, r.led} {
		if a != "" && !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// rest waits before dial n of a node with so many addresses; false means that something changed, or ctx ended, and
// there is another look to take.
func (l *Links) rest(ctx context.Context, changed <-chan struct{}, id node.ID, addrs, n int, cause string) bool {
	wait := noAddress
	if addrs > 0 {
		wait = backoff(n/addrs, cause)
		if n%addrs != 0 {
			wait = jitter(nextAddress)
		}
	}
	if n == 0 && l.self > id {
		wait += jitter(headStart)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-changed:
		return false
	case <-timer.C:
		return addrs > 0
	}
}
