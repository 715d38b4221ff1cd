package peer

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

// ended gives the error of a Run that ended within a time.
func (n *testNode) endedWithin(limit time.Duration) (error, bool) {
	select {
	case err, ok := <-n.ended:
		if ok {
			close(n.ended)
		}
		return err, ok
	case <-time.After(limit):
		return nil, false
	}
}

func (n *testNode) say(s node.State) {
	w := *n.word.Load()
	w.State, w.Seq = s, w.Seq+1
	n.word.Store(&w)
}

// TestACopyStops: the younger of two processes of one name ends, once it has seen for itself and for a while that
// the other one lives; the older one does not.
func TestACopyStops(t *testing.T) {
	for _, how := range []string{"the copy dials", "the copy is dialled", "a peer tells", "a peer with a large name tells"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca, f := newTestCA(t), newFabric(t, 5*time.Millisecond)
				ident := ca.identity(t, "a", "eu")
				witness := node.ID("0") // the name decides which side judges two connections
				if strings.Contains(how, "large") {
					witness = "z"
				}
				old, w := f.node(ident, 1, nil), f.node(ca.identity(t, witness, "eu"), 3, nil)
				old.SetMembers(members(w))
				awaitUp(t, old, w)
				time.Sleep(time.Minute)
				young := f.node(ident, 2, nil)
				switch how {
				case "the copy dials":
					_, _ = young.DialGossip(t.Context(), "", old.Addr().String())
				case "the copy is dialled":
					_, _ = old.DialGossip(t.Context(), "", young.Addr().String())
				default:
					young.SetMembers(members(w))
				}
				if err, ok := young.endedWithin(cloneGrace / 2); ok {
					t.Fatalf("the copy gave up at once: %v", err)
				}
				err, ok := young.endedWithin(2 * cloneGrace)
				if !ok || !is[*cloneError](err) || !strings.Contains(err.Error(), "another node named a") || !strings.Contains(err.Error(), old.Addr().String()) {
					t.Fatalf("the copy: %v, %v", ok, err)
				}
				if err, ok := old.endedWithin(time.Minute); ok {
					t.Fatalf("the original ended: %v", err)
				}
				await(t, "the original to be linked", func() bool {
					p := w.see("a")
					return p.Link.Up && p.Word.Epoch == old.word.Load().Epoch && w.connections("a") == 1
				})
				if _, err := w.Embed(t.Context(), old.info(), one("x")); err != nil || old.engine.calls.Load() != 1 {
					t.Errorf("the original was not asked: %v", err)
				}
				if strings.Contains(how, "tells") && !strings.Contains(w.logs.String(), "two nodes have the same name") {
					t.Errorf("log: %s", w.logs)
				}
			})
		})
	}
}

// TestAWordDoesNotStop: a node that says that another one of this name runs, and where, is not believed.
func TestAWordDoesNotStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, f := newTestCA(t), newFabric(t, 5*time.Millisecond)
		a, b, liar := f.node(ca.identity(t, "a", "eu"), 1, nil), f.node(ca.identity(t, "b", "eu"), 2, nil), f.node(ca.identity(t, "liar", "eu"), 3, nil)
		meet(a, b, liar)
		awaitUp(t, a, b, liar)
		dead := "10.0.0.99:7946"
		for _, where := range []string{b.Addr().String(), a.Addr().String(), liar.Addr().String(), dead, "nowhere", "", "0.0.0.0:1"} {
			_ = (*liar.table.Load())["a"].conn.CloseWithError(codeClone, cloneNotice("a", where))
			if err, ok := a.endedWithin(2 * cloneGrace); ok {
				t.Fatalf("%q ended the node: %v", where, err)
			}
			if !a.see("b").Link.Up || !b.see("a").Link.Up {
				t.Fatalf("%q cost a link", where)
			}
			await(t, "the liar's link", func() bool { return (*liar.table.Load())["a"] != nil })
		}
		if n := strings.Count(a.logs.String(), "having a look"); n == 0 {
			t.Error("the hint was not followed")
		}
		// A node that says it instead of a hello.
		rude := &quic.Transport{Conn: f.socket(4)}
		defer rude.Close()
		ln, err := rude.Listen(ca.identity(t, "rude", "eu").TLS(defaultVersions()), &quic.Config{})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				conn, err := ln.Accept(context.Background())
				if err != nil {
					return
				}
				_ = conn.CloseWithError(codeClone, cloneNotice("a", dead))
			}
		}()
		if _, err := a.dial(t.Context(), "rude", "10.0.0.4:7946"); !is[*quic.ApplicationError](err) {
			t.Errorf("the rude node: %v", err)
		}
		if err, ok := a.endedWithin(2 * cloneGrace); ok {
			t.Fatalf("ended by a connection without a hello: %v", err)
		}
	})
}

// TestALiarCannotSendLooks: hints make a node dial once in lookEvery.
func TestALiarCannotSendLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b := simPair(t, 5*time.Millisecond, nil)
		begin := time.Now()
		for range 50 {
			if k := (*b.table.Load())["a"]; k != nil {
				_ = k.conn.CloseWithError(codeClone, cloneNotice("a", "10.0.0.99:7946"))
			}
			time.Sleep(time.Second)
		}
		if n, most := strings.Count(a.logs.String(), "having a look"), int(time.Since(begin)/lookEvery)+1; n == 0 || n > most {
			t.Errorf("%d looks, want 1 to %d", n, most)
		}
	})
}

// TestSuccessor: a process starts while the one before it still runs, and drains then. It never stops, gets links
// when the other drains, and what the other one computes meanwhile is answered.
func TestSuccessor(t *testing.T) {
	for _, late := range []time.Duration{0, 5 * time.Second} {
		for _, witness := range []node.ID{"0", "z"} {
			synctest.Test(t, func(t *testing.T) {
				ca, f := newTestCA(t), newFabric(t, 5*time.Millisecond)
				ident := ca.identity(t, "a", "eu")
				w := f.node(ca.identity(t, witness, "eu"), 3, nil)
				old := f.node(ident, 1, nil)
				old.SetMembers(members(w))
				awaitUp(t, old, w)
				time.Sleep(time.Minute)
				release := make(chan struct{})
				old.engine.set(func(ctx context.Context, req embedding.Request) (embedding.Result, error) {
					select {
					case <-release:
						return lengths(req), nil
					case <-ctx.Done():
						return embedding.Result{}, ctx.Err()
					}
				})
				answered := make(chan error, 1)
				go func() {
					_, err := w.Embed(context.Background(), old.info(), one("x"))
					answered <- err
				}()
				synctest.Wait()

				if late == 0 {
					old.say(node.Draining)
					time.Sleep(time.Second)
				}
				young := f.node(ident, 2, nil)
				young.SetMembers(members(w))
				if late > 0 {
					time.Sleep(late)
					old.say(node.Draining)
				}
				took := await(t, "the successor to be linked", func() bool {
					return w.see("a").Link.Up && w.see("a").Word.Epoch == young.word.Load().Epoch && young.see(witness).Link.Up
				})
				if took > 5*time.Second {
					t.Errorf("linked after %v", took)
				}
				// The old one still drains for a while, and has its keepers dial.
				served := func(d time.Duration) {
					t.Helper()
					for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
						if p := w.see("a"); !p.Link.Up || p.Word.Epoch != young.word.Load().Epoch {
							t.Fatalf("the witness sees %+v", p)
						}
					}
				}
				served(10 * time.Second)
				close(release)
				if err := <-answered; err != nil {
					t.Errorf("the request of the old process: %v", err)
				}
				served(10 * time.Second)
				if err := old.stop(); err != nil {
					t.Error(err)
				}
				if err, ok := young.endedWithin(time.Minute); ok {
					t.Fatalf("the successor ended: %v", err)
				}
				if _, err := w.Embed(t.Context(), young.info(), one("x")); err != nil || young.engine.calls.Load() == 0 {
					t.Errorf("the successor was not asked: %v", err)
				}
			})
		}
	}
}
