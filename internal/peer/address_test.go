package peer

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/node"
)

// TestWhatANodeSaysOfItsAddressLeadsNobody: a node that says it is where another one is does not get the dials that
// are meant for that one.
func TestWhatANodeSaysOfItsAddressLeadsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, f := newTestCA(t), newFabric(t, 5*time.Millisecond)
		a, liar, seed := f.node(ca.identity(t, "a", "eu"), 1, nil), f.node(ca.identity(t, "liar", "eu"), 2, nil), f.node(ca.identity(t, "seed", "eu"), 3, nil)
		got := make(chan node.ID, 8)
		for _, n := range []*testNode{liar, seed} {
			n.Links.onPacket = func(node.ID, string, []byte, time.Time) { got <- n.id }
		}
		liar.addr.Store(new(seed.Addr().String()))
		liar.SetMembers(members(a))
		awaitUp(t, a, liar)
		if p := a.see("liar"); p.Addr != seed.Addr().String() {
			t.Fatalf("the liar is not heard: %+v", p)
		}
		a.SendGossip("", seed.Addr().String(), []byte("x"))
		if id := <-got; id != "seed" {
			t.Errorf("gossip for the seed's address went to %s", id)
		}
		c, err := a.DialGossip(t.Context(), "", seed.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if to := c.RemoteAddr().String(); to != seed.Addr().String() {
			t.Errorf("a stream for the seed's address went to %s", to)
		}
		_ = c.Close()
	})
}

// TestAnAddressGetsAnotherNode: an address that led to one node leads to the one that answers there now.
func TestAnAddressGetsAnotherNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, f := newTestCA(t), newFabric(t, 5*time.Millisecond)
		a, b := f.node(ca.identity(t, "a", "eu"), 1, nil), f.node(ca.identity(t, "b", "eu"), 2, nil)
		addr := b.Addr().String()
		dial := func() string {
			t.Helper()
			c, err := a.DialGossip(t.Context(), "", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			return c.RemoteAddr().String()
		}
		dial()
		awaitUp(t, a, b)
		// b gets another address, and c its old one.
		if err := b.stop(); err != nil {
			t.Fatal(err)
		}
		moved := f.node(b.ident, 3, nil)
		moved.SetMembers(members(a))
		await(t, "b at its new address", func() bool { return a.see("b").Link.Up && moved.see("a").Link.Up })
		c := f.node(ca.identity(t, "c", "eu"), 2, nil)
		if to := dial(); to != addr {
			t.Errorf("a dial of %s led to %s", addr, to)
		}
		awaitUp(t, a, c)
	})
}

// TestAWrongAddressIsPassedOver: gossip is wrong about where a node is, and the node itself was right.
func TestAWrongAddressIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, f := newTestCA(t), newFabric(t, 5*time.Millisecond)
		a, b, c := f.node(ca.identity(t, "a", "eu"), 1, nil), f.node(ca.identity(t, "b", "eu"), 2, nil), f.node(ca.identity(t, "c", "eu"), 3, nil)
		a.SetMembers(members(b))
		awaitUp(t, a, b)
		time.Sleep(time.Minute)
		wrong := b.info()
		wrong.Addr = c.Addr().String()
		a.SetMembers([]node.Info{wrong})
		_ = (*b.table.Load())["a"].conn.CloseWithError(codeClosed, "")
		await(t, "the link to be down", func() bool { return !a.see("b").Link.Up })
		if took := await(t, "the link to be up", func() bool { return a.see("b").Link.Up }); took > time.Second {
			t.Errorf("up after %v", took)
		}
	})
}
