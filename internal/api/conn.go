package api

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// gateConn is a connection of a gate. It knows whether it waits for a request, and can be asked to end then
// without losing one that has just come in.
type gateConn struct {
	net.Conn
	gate *gate

	mu      sync.Mutex
	seen    bool      // a byte was read
	h2      bool      // HTTP/2: ends by GOAWAY, not here
	waiting bool      // no byte of the next request was read
	since   time.Time // when waiting began
	poked   bool      // the reader is to look once more and end
	spare   bool      // the next Close is Shutdown's, see endH2
}

// linger is how long a connection must have waited before a drain ends it: a client that sends more often than
// that is told to leave by the answer to its next request.
const linger = 250 * time.Millisecond

// Read notes that a request begins. A reader that was poked looks whether bytes have come, and gives them or
// the end: nobody but the reader can tell without a race.
func (c *gateConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if n == 0 && c.poked && errors.Is(err, os.ErrDeadlineExceeded) {
		c.poked = false
		if err = c.Conn.SetReadDeadline(time.Time{}); err == nil {
			if n = tryRead(c.Conn, p); n == 0 {
				err = io.EOF
			}
		}
	}
	if n > 0 {
		if !c.seen {
			c.seen = true
			c.h2 = bytes.HasPrefix(p[:n], []byte("PRI ")) // the preface of h2c
		}
		c.waiting = false
		if c.poked {
			c.poked = false
			err = errors.Join(err, c.Conn.SetReadDeadline(time.Time{}))
		}
	}
	return n, err
}

// state follows what net/http thinks of the connection.
func (c *gateConn) state(conn net.Conn, s http.ConnState) {
	h2 := false
	if t, ok := conn.(*tls.Conn); ok && s == http.StateActive {
		h2 = t.ConnectionState().NegotiatedProtocol == "h2"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.h2 = c.h2 || h2
	if s == http.StateIdle {
		c.waiting, c.since = true, time.Now()
	}
}

// end ends the connection if it has waited for linger, and says whether it is one that ends so or after its
// answer, not by GOAWAY.
func (c *gateConn) end() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.h2 {
		return false
	}
	if c.waiting && time.Since(c.since) >= linger {
		c.poked = true
		_ = c.Conn.SetReadDeadline(time.Unix(1, 0)) // closed meanwhile: so much the better
	}
	return true
}

// endH2 prepares an h2c connection for Shutdown, which sends GOAWAY and, if it is idle, closes it at the same
// time, losing a request under way. That close is not carried out: net/http's HTTP/2 closes a second later.
func (c *gateConn) endH2() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spare = c.h2 && c.waiting
}

// Close closes, but for the one time that endH2 speaks of.
func (c *gateConn) Close() error {
	c.mu.Lock()
	spare := c.spare
	c.spare = false
	c.mu.Unlock()
	if spare {
		return nil
	}
	c.gate.forget(c)
	return c.Conn.Close()
}

// connState tells a gateConn, under TLS or not, its state.
func connState(conn net.Conn, s http.ConnState) {
	inner := conn
	if t, ok := conn.(*tls.Conn); ok {
		inner = t.NetConn()
	}
	if c, ok := inner.(*gateConn); ok {
		c.state(conn, s)
	}
}
