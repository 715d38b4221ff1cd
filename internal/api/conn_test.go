package api

import (
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// TestGateConnEnds: a connection that is told to end gives what has come in meanwhile, and ends only if nothing
// has.
func TestGateConnEnds(t *testing.T) {
	ln, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	g := newGate(ln)
	pair := func() (client net.Conn, c *gateConn) {
		t.Helper()
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		conn, err := g.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		c = conn.(*gateConn)
		c.since = time.Now().Add(-linger)
		return client, c
	}
	buf := make([]byte, 16)

	t.Run("a reader that waits gets the end", func(t *testing.T) {
		_, c := pair()
		read := make(chan error)
		go func() { _, err := c.Read(make([]byte, 16)); read <- err }()
		if !c.end() {
			t.Error("an HTTP/1 connection was not taken for one")
		}
		if err := <-read; !errors.Is(err, io.EOF) {
			t.Errorf("read gave %v, want the end", err)
		}
	})
	t.Run("bytes that came first are given", func(t *testing.T) {
		client, c := pair()
		if _, err := io.WriteString(client, "POST"); err != nil {
			t.Fatal(err)
		}
		// Set before the read, the deadline has passed when it begins: what is in the kernel counts.
		c.end()
		if n, err := c.Read(buf); string(buf[:n]) != "POST" || err != nil {
			t.Errorf("read gave %q, %v", buf[:n], err)
		}
		// The request goes on: nothing of the end is left, and no other end may come.
		c.end()
		if _, err := io.WriteString(client, " / H"); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(buf); string(buf[:n]) != " / H" || err != nil {
			t.Errorf("the next read gave %q, %v", buf[:n], err)
		}
	})
	t.Run("one that waits for less than linger stays", func(t *testing.T) {
		client, c := pair()
		c.state(c, http.StateIdle)
		c.end()
		if _, err := io.WriteString(client, "GET "); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(buf); string(buf[:n]) != "GET " || err != nil {
			t.Errorf("read gave %q, %v", buf[:n], err)
		}
	})
	t.Run("a deadline of net/http's own stays one", func(t *testing.T) {
		_, c := pair()
		_ = c.SetReadDeadline(time.Unix(1, 0))
		if _, err := c.Read(buf); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("read gave %v, want a timeout", err)
		}
	})
	t.Run("h2c is spared one close", func(t *testing.T) {
		client, c := pair()
		if _, err := io.WriteString(client, "PRI * HTTP/2.0\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(buf); err != nil {
			t.Fatal(err)
		}
		c.state(c, http.StateIdle)
		if c.end() {
			t.Error("HTTP/2 was taken for HTTP/1")
		}
		c.endH2()
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("x")); err != nil {
			t.Errorf("the first close closed: %v", err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the second close did not close: %v", err)
		}
	})
}
