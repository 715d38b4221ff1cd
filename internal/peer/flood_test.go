package peer

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/testutils/simnet"

	"github.com/akidb/akidbd/internal/embedding"
)

// handshakes is how many are under way at a node.
func (n *testNode) handshakes() (unproven, proven int) {
	n.gate.mu.Lock()
	defer n.gate.mu.Unlock()
	return n.gate.unproven, n.gate.proven
}

// flood begins handshakes with a node, one from each of n addresses, and never answers: as with forged ones, what
// the node sends to them is lost.
func (f *fabric) flood(t *testing.T, to net.Addr, n int, done <-chan struct{}) *sync.WaitGroup {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range n {
		sock := simnet.NewBlockingSimConn(&net.UDPAddr{IP: net.IPv4(10, 9, byte(i>>8), byte(i)), Port: 1000}, f)
		tr := &quic.Transport{Conn: sock}
		wg.Go(func() {
			defer sock.Close()
			defer tr.Close()
			for ctx.Err() == nil {
				_, _ = tr.Dial(ctx, to, &tls.Config{InsecureSkipVerify: true, NextProtos: defaultVersions()}, &quic.Config{HandshakeIdleTimeout: 2 * time.Second})
			}
		})
	}
	go func() { <-done; cancel() }()
	return &wg
}

// TestHandshakeFlood: forged handshakes take no more than their share, and an honest node comes through.
func TestHandshakeFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, f := newTestCA(t), newFabric(t, 5*time.Millisecond)
		a, b := f.node(ca.identity(t, "a", "eu"), 1, nil), f.node(ca.identity(t, "b", "eu"), 2, nil)
		forged := netip.MustParsePrefix("10.9.0.0/16")
		f.setLose(func(_, to netip.AddrPort) bool { return forged.Contains(to.Addr()) })
		done := make(chan struct{})
		flood := f.flood(t, b.Addr(), 300, done)
		time.Sleep(time.Second)
		if unproven, proven := b.handshakes(); unproven != maxUnproven || proven != 0 {
			t.Errorf("%d handshakes of unproven addresses, %d of proven", unproven, proven)
		}
		a.SetMembers(members(b))
		if took := await(t, "a link in the flood", func() bool { return a.see("b").Link.Up && b.see("a").Link.Up }); took > time.Second {
			t.Errorf("linked after %v", took)
		}
		for range 20 {
			time.Sleep(500 * time.Millisecond)
			if unproven, _ := b.handshakes(); unproven > maxUnproven {
				t.Errorf("%d handshakes of unproven addresses", unproven)
			}
			if !a.see("b").Link.Up {
				t.Error("the link went down in the flood")
			}
		}
		close(done)
		flood.Wait()
		await(t, "the places to be free", func() bool { unproven, proven := b.handshakes(); return unproven == 0 && proven == 0 })
	})
}

// TestHandshakesOfOneAddress: a proven address has no more than its share either.
func TestHandshakesOfOneAddress(t *testing.T) {
	g := gate{from: map[netip.Addr]int{}}
	one, two := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	for range maxHandshakesFrom {
		if !g.enter(one, true) {
			t.Fatal("refused below the limit")
		}
	}
	if g.enter(one, true) {
		t.Error("over the limit of one address")
	}
	if g.wary() {
		t.Error("proven addresses make it wary")
	}
	if !g.enter(two, true) {
		t.Error("another address is refused")
	}
	g.leave(one, true)
	if !g.enter(one, true) {
		t.Error("a free place is not given")
	}
	for i := range maxHandshakes {
		_ = g.enter(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), true)
	}
	if g.proven != maxHandshakes {
		t.Errorf("%d handshakes, %d are possible", g.proven, maxHandshakes)
	}
	for range maxUnproven {
		if !g.enter(one, false) {
			t.Fatal("refused below the limit")
		}
	}
	if !g.wary() || g.enter(one, false) {
		t.Error("too many unproven")
	}
}

// TestConnectionsOfOneNode: whoever holds a certificate may open connections without end; few of them stay.
func TestConnectionsOfOneNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, f := newTestCA(t), newFabric(t, time.Millisecond)
		a, b := f.node(ca.identity(t, "a", "eu"), 1, nil), f.node(ca.identity(t, "b", "eu"), 2, nil)
		b.SetMembers(members(a))
		awaitUp(t, a, b)
		for range 30 { // a has the smaller name and should close what is too much, but does not
			if _, err := a.dial(t.Context(), "b", b.Addr().String()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
			if n := b.connections("a"); n > maxConnections+1 {
				t.Fatalf("%d connections of one node", n)
			}
		}
		if !a.see("b").Link.Up || !b.see("a").Link.Up {
			t.Error("the link is down")
		}
		if _, err := b.Embed(t.Context(), a.info(), one("x")); err != nil {
			t.Error(err)
		}
		await(t, "one connection to stay", func() bool { return a.connections("b") == 1 && b.connections("a") == 1 })
		if _, err := b.Embed(t.Context(), a.info(), one("x")); err != nil {
			t.Error(err)
		}
	})
}

// TestUnreadAnswers: an answer that nobody reads takes a place until it is given up.
func TestUnreadAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := simPair(t, time.Millisecond, func(c *Config) { c.MaxRequests = 2 }) // one of them for one node
		b.engine.set(func(_ context.Context, req embedding.Request) (embedding.Result, error) {
			res := lengths(req)
			if req.Inputs[0].Text == "big" {
				for i := range res.Vectors { // 32 MiB, more than a connection takes unread
					res.Vectors[i] = make([]float32, 1<<13)
				}
			}
			return res, nil
		})
		big := one("big")
		for range 1023 {
			big.Inputs = append(big.Inputs, embedding.Input{Text: "x"})
		}
		frame, err := requestFrameOf(t.Context(), big, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		st, err := (*a.table.Load())["b"].conn.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Write(frame.append(nil)); err != nil {
			t.Fatal(err)
		}
		_ = st.Close()
		time.Sleep(time.Second) // it is computed, and its answer waits to be read
		if len(b.slots) != 1 || b.bodies.Load() == 0 {
			t.Errorf("%d places and %d bytes are taken while the answer is unread", len(b.slots), b.bodies.Load())
		}
		if _, err := a.Embed(t.Context(), b.info(), one("x")); code(err) != embedding.CodeOverloaded {
			t.Errorf("a second request of the node: %v", err)
		}
		took := await(t, "the place to be given up", func() bool { return len(b.slots) == 0 })
		if took > readStall || took < readStall-2*time.Second {
			t.Errorf("given up after %v more", took)
		}
		if b.bodies.Load() != 0 {
			t.Errorf("%d bytes are taken still", b.bodies.Load())
		}
		st.CancelRead(streamCanceled)
		if _, err := a.Embed(t.Context(), b.info(), one("x")); err != nil {
			t.Error(err)
		}
	})
}

// TestRequestsTakeBoundedMemory: large requests at once are refused before they are read.
func TestRequestsTakeBoundedMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := simPair(t, time.Millisecond, func(c *Config) { c.MaxRequestBytes = 1 << 16 })
		release := make(chan struct{})
		b.engine.set(func(_ context.Context, req embedding.Request) (embedding.Result, error) {
			<-release
			return lengths(req), nil
		})
		results := make(chan error, 10)
		for range 10 {
			go func() {
				_, err := a.Embed(context.Background(), b.info(), one(string(make([]byte, 60_000))))
				results <- err
			}()
		}
		time.Sleep(5 * time.Second)
		if len(results) != 6 {
			t.Errorf("%d are refused, want 6", len(results))
		}
		close(release)
		got := map[embedding.Code]int{}
		for range 10 {
			got[code(<-results)]++
		}
		if fmt.Sprint(got) != fmt.Sprint(map[embedding.Code]int{"ok": 4, embedding.CodeOverloaded: 6}) {
			t.Errorf("got %v", got)
		}
		if b.bodies.Load() != 0 || len(b.slots) != 0 {
			t.Errorf("%d bytes and %d places are taken still", b.bodies.Load(), len(b.slots))
		}
	})
}
