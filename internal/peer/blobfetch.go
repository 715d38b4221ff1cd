package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/akidb/akidbd/internal/node"
)

// blobIdle is how long a connection for blobs stays without one.
const blobIdle = 30 * time.Second

// blobConn is a connection that this node dialled to fetch blobs. It is guarded by blobs.mu, but for ready.
type blobConn struct {
	ready  chan struct{} // closed when conn or err is there
	conn   *quic.Conn
	err    error
	users  int
	ending *time.Timer // closes it when it stays without users
}

// Blob opens length bytes of a blob of a node from offset on, to its end when length is negative. It goes over a
// connection of its own, dialled when there is none, to where the node's link leads, else to where it is known to
// be. The caller reads it soon, 20 s without a byte end it, checks the content against its name, and closes it.
// Its errors are ErrNoBlob, ErrComing and ErrBusy, and others when the node is not reached or the transfer is cut
// off: then the rest may be asked for again, there or elsewhere. The end of ctx ends the transfer.
func (l *Links) Blob(ctx context.Context, from node.ID, sha string, offset, length int64) (io.ReadCloser, error) {
	q, err := newBlobRequest(sha, offset, length)
	if err != nil {
		return nil, err
	}
	r, err := l.openBlob(ctx, from, q)
	if err != nil {
		l.metrics.blobs[[2]string{dirIn, resultOfBlob(err)}].Inc()
		return nil, fmt.Errorf("blob %.12s of node %s: %w", sha, from, err)
	}
	return r, nil
}

func resultOfBlob(err error) string {
	switch {
	case errors.Is(err, ErrBusy):
		return blobsBusy
	case errors.Is(err, ErrNoBlob), errors.Is(err, ErrComing):
		return blobsRefused
	}
	return blobsCut
}

func (l *Links) openBlob(ctx context.Context, id node.ID, q blobRequest) (io.ReadCloser, error) {
	c, err := l.borrow(ctx, id)
	if err != nil {
		return nil, err
	}
	release := sync.OnceFunc(func() { l.giveBack(id, c) })
	head, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	st, err := c.conn.OpenStreamSync(head)
	if err != nil {
		release()
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { reset(st, streamCanceled) })
	r := &blobReader{l: l, st: st, ctx: ctx, end: func() { stop(); release() }}
	at, _ := head.Deadline()
	_ = st.SetDeadline(at)
	_, err = st.Write(q.frame())
	if err == nil {
		err = st.Close()
	}
	if err == nil {
		_ = st.SetReadDeadline(time.Now().Add(blobStall)) // the other node may have to look for it
		r.left, err = readBlobAnswer(st)
	}
	if err == nil && r.left != q.length {
		err = fmt.Errorf("asked for %d bytes, announced are %d", q.length, r.left)
	}
	if err != nil {
		reset(st, streamCanceled)
		r.end()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	return r, nil
}

// blobReader is a part of a blob on its way.
type blobReader struct {
	l    *Links
	st   *quic.Stream
	ctx  context.Context
	end  func()
	left int64 // bytes that must come; negative when only the end of the stream tells
	err  error // of an earlier Read
	once sync.Once
}

// Read implements io.Reader. It ends with io.EOF only when all that was asked for has come.
func (r *blobReader) Read(b []byte) (int, error) {
	if r.err != nil || len(b) == 0 {
		return 0, r.err
	}
	if r.left == 0 { // the end of the stream has to come, and nothing before it
		_ = r.st.SetReadDeadline(time.Now().Add(blobStall))
		if r.err = readEnd(r.st); r.err == nil {
			r.err = io.EOF
			r.done(codeOK)
		}
		return 0, r.fail()
	}
	if r.left > 0 {
		b = b[:min(int64(len(b)), r.left)]
	}
	_ = r.st.SetReadDeadline(time.Now().Add(blobStall))
	n, err := r.st.Read(b)
	r.l.metrics.blobBytes[dirIn].Add(float64(n))
	if r.left > 0 {
		r.left -= int64(n)
	}
	switch {
	case errors.Is(err, io.EOF) && r.left > 0:
		r.err = io.ErrUnexpectedEOF
	case errors.Is(err, io.EOF):
		r.err = io.EOF
		r.done(codeOK)
	case err != nil:
		r.err = err
	}
	if n > 0 {
		return n, nil // the error comes with the next call
	}
	return 0, r.fail()
}

func (r *blobReader) fail() error {
	if r.err != nil && !errors.Is(r.err, io.EOF) && r.ctx.Err() != nil {
		r.err = r.ctx.Err()
	}
	return r.err
}

// Close ends the transfer. It must be called, at the end too.
func (r *blobReader) Close() error {
	r.done(blobsCut)
	reset(r.st, streamCanceled)
	r.end()
	return nil
}

// done counts the transfer once.
func (r *blobReader) done(result string) {
	r.once.Do(func() { r.l.metrics.blobs[[2]string{dirIn, result}].Inc() })
}

// borrow gives the connection to a node, dialling when there is none. giveBack must follow.
func (l *Links) borrow(ctx context.Context, id node.ID) (*blobConn, error) {
	select {
	case <-l.begun:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	b := l.blobs
	b.mu.Lock()
	c := b.fetched[id]
	if c != nil && c.conn != nil && c.conn.Context().Err() != nil {
		c = nil
	}
	if c == nil {
		c = &blobConn{ready: make(chan struct{})}
		if !l.spawned(func() { l.dialBlobs(c, id) }) {
			b.mu.Unlock()
			return nil, errors.New("this node stops")
		}
		b.fetched[id] = c
	}
	c.users++
	if c.ending != nil {
		c.ending.Stop()
		c.ending = nil
	}
	b.mu.Unlock()
	select {
	case <-c.ready:
	case <-ctx.Done():
		l.giveBack(id, c)
		return nil, ctx.Err()
	}
	if c.err != nil {
		l.giveBack(id, c)
		return nil, c.err
	}
	return c, nil
}

func (l *Links) giveBack(id node.ID, c *blobConn) {
	b := l.blobs
	b.mu.Lock()
	defer b.mu.Unlock()
	c.users--
	b.doze(id, c)
}

// doze closes a connection that stays without users. The caller holds blobs.mu.
func (b *blobs) doze(id node.ID, c *blobConn) {
	if c.users > 0 || c.conn == nil || c.conn.Context().Err() != nil {
		return
	}
	c.ending = time.AfterFunc(blobIdle, func() {
		b.mu.Lock()
		idle := c.users == 0
		if idle && b.fetched[id] == c {
			delete(b.fetched, id)
		}
		b.mu.Unlock()
		if idle {
			_ = c.conn.CloseWithError(codeClosed, "idle")
		}
	})
}

// dialBlobs dials a connection for blobs, and waits for its end.
func (l *Links) dialBlobs(c *blobConn, id node.ID) {
	conn, err := l.reachBlobs(id)
	b := l.blobs
	b.mu.Lock()
	c.conn, c.err = conn, err
	if err == nil {
		b.conns[conn] = id
		b.doze(id, c)
	} else if b.fetched[id] == c {
		delete(b.fetched, id)
	}
	b.mu.Unlock()
	close(c.ready)
	if err != nil {
		return
	}
	<-conn.Context().Done()
	b.mu.Lock()
	delete(b.conns, conn)
	if b.fetched[id] == c {
		delete(b.fetched, id)
	}
	if c.ending != nil {
		c.ending.Stop()
	}
	b.mu.Unlock()
}

func (l *Links) reachBlobs(id node.ID) (*quic.Conn, error) {
	ctx, cancel := context.WithTimeout(l.dialCtx, dialTimeout)
	defer cancel()
	conn, err := l.dialOne(ctx, l.ways(id), l.identity.TLS([]string{blobVersion}))
	if err != nil {
		return nil, err
	}
	got, _, err := l.verify(conn)
	if err == nil {
		err = expect(conn, id, got)
	}
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// ways are the addresses where a node may be. The first is where its link leads: that way is open, and its
// certificate was seen there.
func (l *Links) ways(id node.ID) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var addrs []string
	if k := l.best(id); k != nil {
		addrs = append(addrs, k.conn.RemoteAddr().String())
	}
	if r := l.remotes[id]; r != nil {
		addrs = append(addrs, r.addresses()...)
	}
	for _, m := range l.members {
		if m.ID == id && m.Addr != "" {
			addrs = append(addrs, m.Addr)
		}
	}
	return addrs
}

// dialOne dials for blobs at one address after the other.
func (l *Links) dialOne(ctx context.Context, addrs []string, conf *tls.Config) (conn *quic.Conn, err error) {
	err = errors.New("nothing is known of where it is")
	for i, addr := range addrs {
		if slices.Contains(addrs[:i], addr) || ctx.Err() != nil {
			continue
		}
		var to net.Addr
		if to, err = resolve(ctx, addr); err != nil {
			continue
		}
		if conn, err = l.tr.Dial(ctx, to, conf, l.blobConfig(to.String())); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// blobConfig has windows of its own: 16 MiB on the way are 160 MB/s at 100 ms.
func (l *Links) blobConfig(addr string) *quic.Config {
	c := l.quicConfig(addr)
	c.InitialStreamReceiveWindow, c.InitialConnectionReceiveWindow = 1<<20, 2<<20
	c.MaxStreamReceiveWindow, c.MaxConnectionReceiveWindow = 16<<20, 24<<20
	c.MaxIncomingStreams, c.EnableDatagrams = -1, false
	return c
}
