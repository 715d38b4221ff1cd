package peer

import (
	"context"
	"crypto/sha256"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

// showsTo is the certificate that a node shows on the connection in use to another one.
func (n *testNode) showsTo(other *testNode) fingerprint {
	k := (*other.table.Load())[n.id]
	if k == nil {
		return fingerprint{}
	}
	return sha256.Sum256(k.conn.ConnectionState().TLS.PeerCertificates[0].Raw)
}

// TestRenewedCertificateKeepsTheLink: links outlive the certificates that they began with, when those are renewed,
// without a moment of being down and without losing a request.
func TestRenewedCertificateKeepsTheLink(t *testing.T) {
	const short = 12 * time.Minute
	for _, c := range []struct {
		name   string
		renews node.ID
		hidden bool // nobody can dial the other node
	}{{"the smaller", "a", false}, {"the larger", "b", false}, {"one that cannot dial the other", "b", true}, {"one that nobody can dial", "a", true}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca, f := newTestCA(t), newFabric(t, 5*time.Millisecond)
				life := map[node.ID]time.Duration{"a": 20 * short, "b": 20 * short, c.renews: short}
				a, b := f.node(ca.identityFor(t, "a", "eu", life["a"]), 1, nil), f.node(ca.identityFor(t, "b", "eu", life["b"]), 2, nil)
				if c.hidden {
					a.SetMembers(members(b))
					f.hide(a)
				} else {
					meet(a, b)
				}
				awaitUp(t, a, b)
				who, other := a, b
				if c.renews == "b" {
					who, other = b, a
				}
				time.Sleep(3 * time.Minute)
				ups := a.value("akidb_peer_link_changes_total", changeUp) + b.value("akidb_peer_link_changes_total", changeUp)

				// A request that is under way while the connection is replaced.
				release := make(chan struct{})
				other.engine.set(func(ctx context.Context, req embedding.Request) (embedding.Result, error) {
					select {
					case <-release:
						return lengths(req), nil
					case <-ctx.Done():
						return embedding.Result{}, ctx.Err()
					}
				})
				answered := make(chan error, 1)
				ask := func() {
					_, err := who.Embed(context.Background(), other.info(), one("x"))
					answered <- err
				}
				if !c.hidden {
					go ask()
					synctest.Wait()
				}
				who.ident.renew(ca.issue(t, c.renews, "eu", 20*life[other.id]))
				if !c.hidden {
					await(t, "the new certificate to be shown", func() bool { return who.showsTo(other) == who.shown() && other.showsTo(who) == other.shown() })
					time.Sleep(15 * time.Second)
					if n := who.connections(other.id); n != 2 {
						t.Errorf("%d connections while the old one has a request", n)
					}
					close(release)
					if err := <-answered; err != nil {
						t.Errorf("the request on the old connection: %v", err)
					}
					await(t, "the old connection to go", func() bool { return a.connections("b") == 1 && b.connections("a") == 1 })
				}
				for range 15 { // the old certificate ends
					time.Sleep(time.Minute)
					if !a.see("b").Link.Up || !b.see("a").Link.Up {
						t.Fatalf("down: a sees %+v, b sees %+v", a.see("b").Link, b.see("a").Link)
					}
				}
				if who.showsTo(other) != who.shown() {
					t.Error("the old certificate is still shown")
				}
				if n := a.value("akidb_peer_link_changes_total", changeUp) + b.value("akidb_peer_link_changes_total", changeUp) - ups; n != 0 {
					t.Errorf("links went down and up %v times", n)
				}
				if a.connections("b") != 1 || b.connections("a") != 1 {
					t.Errorf("%d and %d connections", a.connections("b"), b.connections("a"))
				}
			})
		})
	}
}

// TestMoved: a new address of this node is said to those that are linked, by a connection that replaces the old one.
func TestMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := simPair(t, 5*time.Millisecond, nil)
		time.Sleep(time.Minute)
		if got := a.Observed()["b"]; got != addrPort(a.Addr()) {
			t.Errorf("a hears that b sees it at %v", got)
		}
		if got := b.Observed()["a"]; got != addrPort(b.Addr()) {
			t.Errorf("b hears that a sees it at %v", got)
		}
		a.addr.Store(new("203.0.113.5:7946"))
		a.Moved()
		await(t, "the new address", func() bool { return b.see("a").Addr == "203.0.113.5:7946" })
		time.Sleep(time.Minute)
		if a.connections("b") != 1 || b.value("akidb_peer_link_changes_total", changeUp) != 1 {
			t.Errorf("%d connections, up %v times", a.connections("b"), b.value("akidb_peer_link_changes_total", changeUp))
		}
	})
}
