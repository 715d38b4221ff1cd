package peer

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

// fabric is a simnet.Router with one latency for all paths, in order, and a rule of what is lost. Its endpoints
// may come and go, as a restart needs.
type fabric struct {
	t       testing.TB
	latency time.Duration

	mu    sync.Mutex
	ports map[netip.AddrPort]*port
	lose  func(from, to netip.AddrPort) bool

	carriers sync.WaitGroup
	firewall func(simnet.Packet) bool // packets it says true of are lost
}

type port struct {
	to     simnet.PacketReceiver
	queue  chan timed
	closed chan struct{}
}

type timed struct {
	simnet.Packet
	at time.Time
}

func newFabric(t testing.TB, latency time.Duration) *fabric {
	f := &fabric{t: t, latency: latency, ports: map[netip.AddrPort]*port{}}
	t.Cleanup(func() {
		f.mu.Lock()
		for _, p := range f.ports {
			close(p.closed)
		}
		f.mu.Unlock()
		f.carriers.Wait()
	})
	return f
}

func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func (f *fabric) AddNode(addr net.Addr, r simnet.PacketReceiver) {
	p := &port{to: r, queue: make(chan timed, 4096), closed: make(chan struct{})}
	f.mu.Lock()
	if old := f.ports[addrPort(addr)]; old != nil {
		close(old.closed)
	}
	f.ports[addrPort(addr)] = p
	f.mu.Unlock()
	f.carriers.Go(func() {
		for {
			select {
			case q := <-p.queue:
				time.Sleep(time.Until(q.at)) // not a select with a timer: the race detector's runtime crashes on many of those
				select {
				case <-p.closed:
					return
				default:
					p.to.RecvPacket(q.Packet)
				}
			case <-p.closed:
				return
			}
		}
	})
}

func (f *fabric) SendPacket(q simnet.Packet) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.ports[addrPort(q.To)]
	if p == nil || (f.firewall != nil && f.firewall(q)) || (f.lose != nil && f.lose(addrPort(q.From), addrPort(q.To))) {
		return nil
	}
	select {
	case p.queue <- timed{q, time.Now().Add(f.latency)}:
	default:
	}
	return nil
}

// hide puts a node behind a firewall that lets nobody begin a connection to it.
func (f *fabric) hide(n *testNode) {
	at := addrPort(n.Addr())
	begun := map[netip.AddrPort]time.Time{} // when the node last began one to another
	initial := func(b []byte) bool { return len(b) > 0 && b[0]&0xf0 == 0xc0 }
	f.mu.Lock()
	defer f.mu.Unlock()
	f.firewall = func(q simnet.Packet) bool {
		from, to := addrPort(q.From), addrPort(q.To)
		if from == at && initial(q.Data) {
			begun[to] = time.Now()
		}
		return to == at && initial(q.Data) && time.Since(begun[from]) > time.Second
	}
}

func (f *fabric) setLose(lose func(from, to netip.AddrPort) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lose = lose
}

// socket is an endpoint 10.0.0.n:7946.
func (f *fabric) socket(n byte) net.PacketConn {
	return simnet.NewBlockingSimConn(&net.UDPAddr{IP: net.IPv4(10, 0, 0, n), Port: 7946}, f)
}

func (f *fabric) node(ident *testIdentity, n byte, change func(*Config)) *testNode {
	f.t.Helper()
	node := f.newNode(ident, n, change)
	node.start()
	return node
}

func (f *fabric) newNode(ident *testIdentity, n byte, change func(*Config)) *testNode {
	f.t.Helper()
	return newNode(f.t, ident, func(c *Config) {
		c.PacketConn, c.ProbeInterval, c.IdleTimeout = f.socket(n), 0, 0
		if change != nil {
			change(c)
		}
	})
}

func simPair(t *testing.T, latency time.Duration, change func(*Config)) (*fabric, *testNode, *testNode) {
	t.Helper()
	ca, f := newTestCA(t), newFabric(t, latency)
	a, b := f.node(ca.identity(t, "a", "eu"), 1, change), f.node(ca.identity(t, "b", "eu"), 2, change)
	meet(a, b)
	awaitUp(t, a, b)
	return f, a, b
}

func (l *Links) connections(id node.ID) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.remotes[id]; r != nil {
		return len(r.links)
	}
	return 0
}

func (l *Links) dialledBy(id node.ID) node.ID {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k := l.best(id); k != nil && k.dialled {
		return l.self
	}
	return id
}

// blackhole loses all packets, both ways, and says nothing.
func blackhole(netip.AddrPort, netip.AddrPort) bool { return true }

func TestBlackholeIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a, b := simPair(t, 5*time.Millisecond, nil)
		for _, phase := range []time.Duration{0, 60 * time.Millisecond, 125 * time.Millisecond, 240 * time.Millisecond} {
			time.Sleep(20*time.Second + phase)
			f.setLose(blackhole)
			took := await(t, "the link to be down", func() bool { return !a.see("b").Link.Up })
			if took > 1200*time.Millisecond || took < 500*time.Millisecond {
				t.Errorf("phase %v: noticed after %v, 0.5 to 1.2 s expected", phase, took)
			}
			if c := a.see("b").Link.Cause; c != causeTimeout {
				t.Errorf("cause %q", c)
			}
			if _, err := a.Embed(t.Context(), b.info(), embedding.Request{Inputs: []embedding.Input{{Text: "x"}}}); embedding.AsError(err).Code != embedding.CodeUnavailable {
				t.Errorf("an embed over a dead link: %v", err)
			}
			time.Sleep(30 * time.Second)
			f.setLose(nil)
			took = await(t, "the link to be up again", func() bool { return a.see("b").Link.Up && b.see("a").Link.Up })
			if took > 6*time.Second {
				t.Errorf("phase %v: up again after %v", phase, took)
			}
			t.Logf("phase %v: up again after %v", phase, took)
		}
	})
}

// TestShortLossKeepsTheLink: probes that are answered again bring the link up without a new connection.
func TestShortLossKeepsTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a, b := simPair(t, 5*time.Millisecond, func(c *Config) { c.IdleTimeout = 10 * time.Second })
		time.Sleep(5 * time.Second)
		f.setLose(blackhole)
		await(t, "the link to be down", func() bool { return !a.see("b").Link.Up })
		if a.connections("b") != 1 {
			t.Fatalf("%d connections", a.connections("b"))
		}
		f.setLose(nil)
		if took := await(t, "the link to be up", func() bool { return a.see("b").Link.Up }); took > 300*time.Millisecond {
			t.Errorf("up after %v", took)
		}
		if b.connections("a") != 1 {
			t.Errorf("%d connections", b.connections("a"))
		}
	})
}

// TestOneWayLoss: a node that is heard but does not hear is not up.
func TestOneWayLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a, b := simPair(t, 5*time.Millisecond, nil)
		from := addrPort(a.Addr())
		f.setLose(func(f, _ netip.AddrPort) bool { return f == from })
		for _, n := range []*testNode{a, b} {
			other := node.ID("b")
			if n == b {
				other = "a"
			}
			if took := await(t, "both to be down", func() bool { return !n.see(other).Link.Up }); took > 1300*time.Millisecond {
				t.Errorf("%s noticed after %v", n.id, took)
			}
		}
	})
}

func TestSimultaneousDialKeepsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, f := newTestCA(t), newFabric(t, 100*time.Millisecond) // longer than the head start of the smaller name
		a, b := f.node(ca.identity(t, "a", "eu"), 1, nil), f.node(ca.identity(t, "b", "eu"), 2, nil)
		meet(a, b)
		awaitUp(t, a, b)
		await(t, "one connection to be left", func() bool {
			return a.connections("b") == 1 && b.connections("a") == 1 && a.dialledBy("b") == "a" && b.dialledBy("a") == "a"
		})
		time.Sleep(time.Minute)
		if a.connections("b") != 1 || b.connections("a") != 1 {
			t.Errorf("%d and %d connections", a.connections("b"), b.connections("a"))
		}
		if a.see("b").Link.RTT < 190*time.Millisecond {
			t.Errorf("a sees %+v", a.see("b").Link)
		}
	})
}

// TestRestart: a process that is gone without a word and comes back at the same address. With the reset key of its
// first life its peers notice at once, also when it does not know them yet.
func TestRestart(t *testing.T) {
	for _, restarted := range []byte{1, 2} { // the one that dialled, and the other
		for _, key := range []bool{true, false} {
			t.Run(fmt.Sprintf("node %d, key %v", restarted, key), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testRestart(t, restarted, key) })
			})
		}
	}
}

func testRestart(t *testing.T, restarted byte, key bool) {
	ca, f := newTestCA(t), newFabric(t, 5*time.Millisecond)
	ids := map[byte]*testIdentity{1: ca.identity(t, "a", "eu"), 2: ca.identity(t, "b", "eu")}
	nodes := map[byte]*testNode{}
	for n, ident := range ids {
		nodes[n] = f.node(ident, n, nil)
	}
	meet(nodes[1], nodes[2])
	awaitUp(t, nodes[1], nodes[2])
	time.Sleep(20 * time.Second)
	victim, other := nodes[restarted], nodes[3-restarted]

	// SIGKILL: nothing is said any more. Its goroutines live on behind a dead port.
	dead := addrPort(victim.Addr())
	f.mu.Lock()
	close(f.ports[dead].closed)
	delete(f.ports, dead)
	f.mu.Unlock()
	victim.sock.(*simnet.SimConn).Close()
	time.Sleep(400 * time.Millisecond)
	if !other.see(victim.id).Link.Up {
		t.Fatal("down before the restart: nothing to see here")
	}
	again := f.node(ids[restarted], restarted, func(c *Config) {
		if key {
			c.StateDir = victim.cfg.StateDir
		}
	})
	took := await(t, "the restart to be noticed", func() bool {
		return !other.see(victim.id).Link.Up || other.see(victim.id).Word.Epoch != victim.word.Load().Epoch
	})
	t.Logf("noticed after %v: %+v", took, other.see(victim.id).Link)
	if key && (took > 100*time.Millisecond || other.see(victim.id).Link.Cause != causeRestarted) {
		t.Errorf("noticed after %v as %+v", took, other.see(victim.id).Link)
	}
	if took > 1200*time.Millisecond {
		t.Errorf("noticed after %v", took)
	}
	again.SetMembers(members(other))
	took = await(t, "a new link", func() bool { return other.see(victim.id).Link.Up && again.see(other.id).Link.Up })
	t.Logf("linked again after %v", took)
	if _, err := other.Embed(t.Context(), again.info(), embedding.Request{Inputs: []embedding.Input{{Text: "x"}}}); err != nil {
		t.Error(err)
	}
	if again.engine.calls.Load() != 1 {
		t.Error("the new process was not asked")
	}
}

// TestRestartedNodeDialsFirst: the old connection is replaced the moment the new process says hello.
func TestRestartedNodeDialsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a, b := simPair(t, 5*time.Millisecond, nil)
		time.Sleep(20*time.Second + 30*time.Millisecond)
		b.sock.(*simnet.SimConn).Close()
		again := f.node(b.ident, 2, nil)
		again.SetMembers(members(a))
		took := await(t, "the new process", func() bool {
			return a.see("b").Link.Up && a.see("b").Word.Epoch == again.word.Load().Epoch && again.see("a").Link.Up
		})
		if took > 100*time.Millisecond {
			t.Errorf("after %v", took)
		}
		time.Sleep(3 * time.Second)
		if a.connections("b") != 1 || !a.see("b").Link.Up {
			t.Errorf("%d connections, %+v", a.connections("b"), a.see("b").Link)
		}
	})
}
