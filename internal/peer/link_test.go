package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

func TestWordsTravel(t *testing.T) {
	a, b := pair(t, nil)
	changes := a.changes.Load()
	w := *b.word.Load()
	say := func() {
		said := w // the node reads it from now on
		said.Models = slices.Clone(w.Models)
		b.word.Store(&said)
	}
	w.Seq++
	w.Load, w.QueueDelay = 0.5, time.Second
	for i := range 3 {
		w.Models = append(w.Models, node.Served{Model: embedding.Model{Name: fmt.Sprint("m", i), Digest: "sha256-" + strings.Repeat("ab", 32), Precision: "int8"}, Aliases: []string{"x"}, Active: i == 0, Since: 7})
	}
	say()
	await(t, "the word", func() bool { return fmt.Sprint(a.see("b").Word) == fmt.Sprint(w) })
	await(t, "a call", func() bool { return a.changes.Load() > changes })

	w.Seq++
	w.Load = 0.75 // the models are the same: they are not sent again, and not lost
	say()
	await(t, "the word", func() bool { return fmt.Sprint(a.see("b").Word) == fmt.Sprint(w) })

	w.Seq++
	for i := range 50 { // more than a datagram takes
		w.Models = append(w.Models, node.Served{Model: embedding.Model{Name: fmt.Sprint("n", i), Digest: "sha256-" + strings.Repeat("cd", 32)}})
	}
	say()
	await(t, "all models", func() bool { return len(a.see("b").Word.Models) == 53 })
	w.Seq++
	w.State = node.Draining
	say()
	b.Tell()
	await(t, "the last word", func() bool { return fmt.Sprint(a.see("b").Word) == fmt.Sprint(w) })
}

// TestBehindNAT: a node that nobody can dial is linked by its own dialling.
func TestBehindNAT(t *testing.T) {
	ca := newTestCA(t)
	a, b := startNode(t, ca.identity(t, "a", "eu"), nil), startNode(t, ca.identity(t, "b", "us"), nil)
	hidden := a.info()
	hidden.Addr = ""
	b.SetMembers([]node.Info{hidden})
	a.SetMembers(members(b))
	awaitUp(t, a, b)
	if _, err := b.Embed(t.Context(), hidden, one("x")); err != nil {
		t.Error(err)
	}
	if a.value("akidb_peer_links", scopeOther, stateUp) != 1 || a.value("akidb_peer_links", scopeOwn, stateUp) != 0 {
		t.Error("the link is not counted for its region")
	}
}

func TestTriple(t *testing.T) {
	ca := newTestCA(t)
	a, b, c := startNode(t, ca.identity(t, "a", "eu"), nil), startNode(t, ca.identity(t, "b", "eu"), nil), startNode(t, ca.identity(t, "c", "us"), nil)
	meet(a, b, c)
	awaitUp(t, a, b, c)
	if p := a.Peers(); len(p) != 2 || p[0].ID != "b" || p[1].ID != "c" || p[1].Region != "us" {
		t.Errorf("a sees %+v", p)
	}
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	await(t, "c to be down", func() bool { return !a.see("c").Link.Up && !b.see("c").Link.Up })
	if !a.see("b").Link.Up || a.see("c").Link.Cause != causeDraining {
		t.Errorf("a sees %+v", a.Peers())
	}
}

func TestWrongCA(t *testing.T) {
	a, b := startNode(t, newTestCA(t).identity(t, "a", "eu"), nil), startNode(t, newTestCA(t).identity(t, "b", "eu"), nil)
	a.SetMembers(members(b))
	await(t, "the dialler's log", func() bool { return strings.Contains(a.logs.String(), "no link") })
	if !strings.Contains(a.logs.String(), "cause=certificate") {
		t.Errorf("log: %s", a.logs)
	}
	await(t, "the other's log", func() bool { return strings.Contains(b.logs.String(), "refused on the port") })
	if len(a.Peers()) != 0 || len(b.Peers()) != 0 || b.value("akidb_peer_refused_total", refusedHandshake) != 1 {
		t.Errorf("a sees %v, b %v", a.Peers(), b.Peers())
	}
}

func TestWrongName(t *testing.T) {
	ca := newTestCA(t)
	a, b := startNode(t, ca.identity(t, "a", "eu"), nil), startNode(t, ca.identity(t, "b", "eu"), nil)
	info := b.info()
	info.ID = "carol"
	a.SetMembers([]node.Info{info})
	await(t, "the log", func() bool { return strings.Contains(a.logs.String(), "no link") })
	if s := a.logs.String(); !strings.Contains(s, "expected node carol") || !strings.Contains(s, "certificate says b") || !strings.Contains(s, "cause=unauthorized") {
		t.Errorf("log: %s", s)
	}
	await(t, "b to forget", func() bool { return !b.see("a").Link.Up })
	if len(a.Peers()) != 0 {
		t.Errorf("a sees %v", a.Peers())
	}
}

func TestDeniedLinkIsClosed(t *testing.T) {
	a, b := pair(t, nil)
	a.ident.deny("b")
	await(t, "the link to be down", func() bool { return !a.see("b").Link.Up && !b.see("a").Link.Up })
	if a.see("b").Link.Cause != causeUnauthorized || b.see("a").Link.Cause != causeUnauthorized {
		t.Errorf("a sees %+v, b %+v", a.see("b").Link, b.see("a").Link)
	}
	if !strings.Contains(a.logs.String(), "node b is on the deny list") {
		t.Errorf("log: %s", a.logs)
	}
	if _, err := b.Embed(t.Context(), a.info(), one("x")); code(err) != embedding.CodeUnavailable {
		t.Errorf("got %v", err)
	}
}

func TestVersions(t *testing.T) {
	for _, c := range []struct {
		a, b []string
		want string
	}{
		{[]string{"akidb/2", "akidb/1"}, []string{"akidb/1"}, "akidb/1"},
		{[]string{"akidb/1"}, []string{"akidb/2", "akidb/1"}, "akidb/1"},
		{[]string{"akidb/2", "akidb/1"}, []string{"akidb/3", "akidb/2"}, "akidb/2"},
		{[]string{"akidb/1"}, []string{"akidb/3", "akidb/2"}, ""},
	} {
		ca := newTestCA(t)
		a := startNode(t, ca.identity(t, "a", "eu"), func(cfg *Config) { cfg.versions = c.a })
		b := startNode(t, ca.identity(t, "b", "eu"), func(cfg *Config) { cfg.versions = c.b })
		a.SetMembers(members(b))
		if c.want == "" {
			await(t, "the log", func() bool { return strings.Contains(a.logs.String(), "cause=version") })
			continue
		}
		awaitUp(t, a, b)
		if got := (*a.table.Load())["b"].conn.ConnectionState().TLS.NegotiatedProtocol; got != c.want {
			t.Errorf("%v and %v speak %q", c.a, c.b, got)
		}
	}
}

func TestOwnAddressIsNoClone(t *testing.T) {
	a := startNode(t, newTestCA(t).identity(t, "a", "eu"), nil)
	if _, err := a.DialGossip(t.Context(), "", a.Addr().String()); !errors.Is(err, errSelf) {
		t.Errorf("got %v", err)
	}
	select {
	case err := <-a.ended:
		t.Errorf("ended: %v", err)
	default:
	}
}

func TestGarbage(t *testing.T) {
	a, b := pair(t, nil)
	c, err := net.Dial("udp", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 300 { // all first bytes
		if _, err := c.Write(append([]byte{byte(i)}, make([]byte, i)...)); err != nil {
			t.Fatal(err)
		}
	}
	conn := (*a.table.Load())["b"].conn
	for _, junk := range [][]byte{{}, {0}, {1, 99}, {9, 2, 3}, {1, 2, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}, []byte(strings.Repeat("GET / HTTP/1.1\r\n", 100))} {
		st, err := conn.OpenStreamSync(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = st.Write(junk)
		_ = st.Close()
		_ = st.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := st.Read(make([]byte, 1)); !is[*quic.StreamError](err) {
			t.Errorf("%q was answered: %v", junk, err)
		}
		if err := conn.SendDatagram(junk); err != nil && len(junk) < 1000 {
			t.Fatal(err)
		}
	}
	await(t, "the garbage to be counted", func() bool {
		return b.value("akidb_peer_refused_total", refusedGarbage) > 50 && b.value("akidb_peer_refused_total", refusedProtocol) > 6
	})
	if n := strings.Count(b.logs.String(), "what=garbage"); n != 1 {
		t.Errorf("%d lines of garbage in the log", n)
	}
	if _, err := a.Embed(t.Context(), b.info(), one("x")); err != nil {
		t.Error(err)
	}
	if a.connections("b") != 1 {
		t.Error("the link was lost")
	}
}

func TestGossip(t *testing.T) {
	ca := newTestCA(t)
	type packet struct{ from, addr, data string }
	got := make(chan packet, 64)
	a, b := newNode(t, ca.identity(t, "a", "eu"), nil), newNode(t, ca.identity(t, "b", "eu"), nil)
	b.OnGossip(func(from node.ID, addr string, data []byte, at time.Time) {
		got <- packet{string(from), addr, string(data)}
	}, func(from node.ID, addr string, c net.Conn) {
		go func() {
			defer c.Close()
			buf := make([]byte, 5)
			if _, err := c.Read(buf); err != nil {
				t.Error(err)
			}
			_, _ = fmt.Fprintf(c, "%s from %s", buf, from)
		}()
	})
	a.SendGossip("b", b.Addr().String(), []byte("lost: not running"))
	a.start()
	b.start()
	big := strings.Repeat("x", maxDatagram)
	a.SendGossip("", b.Addr().String(), []byte("one")) // waits for the dial
	a.SendGossip("b", b.Addr().String(), []byte(big))  // named, perhaps a second dial
	a.SendGossip("b", b.Addr().String(), []byte(big+"x"))
	seen := map[string]bool{(<-got).data: true, (<-got).data: true}
	if !seen["one"] || !seen[big] {
		t.Errorf("got %d packets", len(seen))
	}
	await(t, "the drops to be counted", func() bool { return a.value("akidb_peer_dropped_datagrams_total") == 2 })
	awaitUp(t, a, b)
	a.SendGossip("b", "", []byte("two"))
	if p := <-got; p.from != "a" || p.data != "two" || p.addr != a.Addr().String() {
		t.Errorf("got %+v", p)
	}
	c, err := a.DialGossip(t.Context(), "b", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := c.Read(buf)
	if string(buf[:n]) != "hello from a" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
	if c.RemoteAddr().String() != b.Addr().String() {
		t.Errorf("remote %v", c.RemoteAddr())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := a.DialGossip(ctx, "ghost", "127.0.0.1:1"); err == nil {
		t.Error("dialled a ghost")
	}
}
