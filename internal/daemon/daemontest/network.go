package daemontest

import (
	"container/heap"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Path is the way of packets from one address to another.
type Path struct {
	Delay  time.Duration
	Jitter time.Duration // up to that much more, for each packet anew: they may pass one another
	Loss   float64       // share of packets lost
	Cut    bool          // nothing gets through
}

// Network carries packets between sockets of one process, in the time of a bubble.
type Network struct {
	mu      sync.RWMutex
	sockets map[netip.AddrPort]*Socket
	path    func(from, to netip.AddrPort) Path
}

// NewNetwork makes a network without delays.
func NewNetwork() *Network {
	return &Network{sockets: map[netip.AddrPort]*Socket{}, path: func(_, _ netip.AddrPort) Path { return Path{} }}
}

// SetPath says what happens to packets from now on; it is called for each.
func (n *Network) SetPath(path func(from, to netip.AddrPort) Path) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.path = path
}

// Listen makes the socket of an address. One that was there gets nothing any more.
func (n *Network) Listen(at netip.AddrPort) *Socket {
	s := &Socket{net: n, at: at, addr: net.UDPAddrFromAddrPort(at), wake: make(chan struct{}, 1), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sockets[at] = s
	return s
}

const (
	maxWaiting = 4096 // packets in front of a socket
	overhead   = 28   // bytes of the headers of IPv4 and UDP
)

// Socket is a [net.PacketConn] of a Network.
type Socket struct {
	net    *Network
	at     netip.AddrPort
	addr   *net.UDPAddr
	wake   chan struct{} // 1: a packet that is the next to come, or a deadline
	closed chan struct{}
	once   sync.Once
	dead   atomic.Bool // unplugged

	mu       sync.Mutex
	waiting  packets
	count    uint64
	deadline time.Time

	sent, sentBytes atomic.Int64
}

var _ net.PacketConn = (*Socket)(nil)

type packet struct {
	due   time.Time
	order uint64
	from  *net.UDPAddr
	data  []byte
}

// WriteTo implements [net.PacketConn].
func (s *Socket) WriteTo(b []byte, addr net.Addr) (int, error) {
	select {
	case <-s.closed:
		return 0, net.ErrClosed
	default:
	}
	if s.dead.Load() {
		return len(b), nil
	}
	s.sent.Add(1)
	s.sentBytes.Add(int64(len(b) + overhead))
	u := addr.(*net.UDPAddr).AddrPort()
	to := netip.AddrPortFrom(u.Addr().Unmap(), u.Port())
	s.net.mu.RLock()
	path, other := s.net.path(s.at, to), s.net.sockets[to]
	s.net.mu.RUnlock()
	if other == nil || path.Cut || path.Loss > 0 && rand.Float64() < path.Loss {
		return len(b), nil
	}
	delay := path.Delay
	if path.Jitter > 0 {
		delay += rand.N(path.Jitter)
	}
	other.take(&packet{due: time.Now().Add(delay), from: s.addr, data: slices.Clone(b)})
	return len(b), nil
}

// take puts a packet on its way to the reader.
func (s *Socket) take(p *packet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) >= maxWaiting || s.dead.Load() {
		return
	}
	s.count++
	p.order = s.count
	heap.Push(&s.waiting, p)
	if s.waiting[0] == p {
		s.poke()
	}
}

func (s *Socket) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// ReadFrom implements [net.PacketConn].
func (s *Socket) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		select {
		case <-s.closed:
			return 0, nil, net.ErrClosed
		default:
		}
		p, until, err := s.next(time.Now())
		if err != nil {
			return 0, nil, err
		}
		if p != nil {
			return copy(b, p.data), p.from, nil
		}
		var due <-chan time.Time
		if !until.IsZero() {
			due = time.After(time.Until(until))
		}
		select {
		case <-due:
		case <-s.wake:
		case <-s.closed:
		}
	}
}

// next gives the packet that is due, or until when there is none; zero means that nobody knows.
func (s *Socket) next(now time.Time) (p *packet, until time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.deadline.IsZero() && !now.Before(s.deadline) {
		return nil, until, os.ErrDeadlineExceeded
	}
	until = s.deadline
	if len(s.waiting) == 0 {
		return nil, until, nil
	}
	first := s.waiting[0].due
	if !first.After(now) {
		return heap.Pop(&s.waiting).(*packet), until, nil
	}
	if until.IsZero() || first.Before(until) {
		until = first
	}
	return nil, until, nil
}

// unplug loses all that comes and all that is sent from now on.
func (s *Socket) unplug() {
	s.dead.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = nil
}

// Sent is how many packets, and bytes with their headers of IPv4 and UDP, were given to the network.
func (s *Socket) Sent() (packets, bytes int64) { return s.sent.Load(), s.sentBytes.Load() }

// Close implements [net.PacketConn].
func (s *Socket) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// LocalAddr implements [net.PacketConn].
func (s *Socket) LocalAddr() net.Addr { return s.addr }

// SetDeadline implements [net.PacketConn]. Writing never waits.
func (s *Socket) SetDeadline(t time.Time) error { return s.SetReadDeadline(t) }

// SetReadDeadline implements [net.PacketConn].
func (s *Socket) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	s.poke()
	return nil
}

// SetWriteDeadline implements [net.PacketConn].
func (s *Socket) SetWriteDeadline(time.Time) error { return nil }

// SetReadBuffer keeps quic-go from complaining that it cannot have one.
func (s *Socket) SetReadBuffer(int) error { return nil }

// SetWriteBuffer keeps quic-go from complaining that it cannot have one.
func (s *Socket) SetWriteBuffer(int) error { return nil }

// packets is a heap, the next one to arrive first.
type packets []*packet

func (p packets) Len() int { return len(p) }
func (p packets) Less(i, j int) bool {
	if !p[i].due.Equal(p[j].due) {
		return p[i].due.Before(p[j].due)
	}
	return p[i].order < p[j].order
}
func (p packets) Swap(i, j int) { p[i], p[j] = p[j], p[i] }
func (p *packets) Push(x any)   { *p = append(*p, x.(*packet)) }
func (p *packets) Pop() any {
	old := *p
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*p = old[:len(old)-1]
	return last
}
