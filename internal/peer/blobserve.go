package peer

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/time/rate"

	"github.com/akidb/akidbd/internal/node"
)

// blobs are the connections that carry blobs, both ways.
type blobs struct {
	places chan struct{} // one for each blob that is given out
	pace   *rate.Limiter // bytes given out

	mu      sync.Mutex
	conns   map[*quic.Conn]node.ID // all of them, to judge their certificates again
	given   map[node.ID][]*quic.Conn
	fetched map[node.ID]*blobConn
}

func newBlobs(places, perSecond int) *blobs {
	return &blobs{
		places: make(chan struct{}, places), pace: rate.NewLimiter(rate.Limit(perSecond), max(blobChunk, perSecond/20)),
		conns: map[*quic.Conn]node.ID{}, given: map[node.ID][]*quic.Conn{}, fetched: map[node.ID]*blobConn{},
	}
}

// serveBlobs gives out blobs on a connection until it ends.
func (l *Links) serveBlobs(conn *quic.Conn) {
	id, _, err := l.verify(conn)
	if err != nil {
		l.refuse(refusedIdentity, conn.RemoteAddr(), "reason", err)
		return
	}
	if old := l.blobs.welcome(id, conn); old != nil {
		l.spawn(func() { _ = old.CloseWithError(codeDuplicate, "too many connections of one node") })
	}
	defer l.blobs.forget(id, conn)
	for {
		st, err := conn.AcceptStream(l.ctx)
		if err != nil {
			return
		}
		l.wg.Go(func() { l.serveBlob(id, conn, st) })
	}
}

// open gives the connections that are there, and whose they are.
func (b *blobs) open() map[*quic.Conn]node.ID {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.conns)
}

// welcome takes a connection in. Of one node the newest stay: the one to close is returned, nil for none.
func (b *blobs) welcome(id node.ID, conn *quic.Conn) (old *quic.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conns[conn] = id
	b.given[id] = append(b.given[id], conn)
	if of := b.given[id]; len(of) > blobsOfOne {
		old, b.given[id] = of[0], slices.Clone(of[1:])
	}
	return old
}

func (b *blobs) forget(id node.ID, conn *quic.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, conn)
	if b.given[id] = slices.DeleteFunc(b.given[id], func(c *quic.Conn) bool { return c == conn }); len(b.given[id]) == 0 {
		delete(b.given, id)
	}
}

// serveBlob answers one request for a part of a blob.
func (l *Links) serveBlob(id node.ID, conn *quic.Conn, st *quic.Stream) {
	_ = st.SetReadDeadline(time.Now().Add(headTimeout))
	q, err := readBlobRequest(st)
	if err != nil {
		reset(st, streamProtocol)
		if conn.Context().Err() == nil && !is[*quic.StreamError](err) {
			l.refuse(refusedProtocol, conn.RemoteAddr(), "node", id, "reason", err)
		}
		return
	}
	result := l.giveBlob(id, st, q)
	l.metrics.blobs[[2]string{dirOut, result}].Inc()
}

// giveBlob answers a request and says how it ended.
func (l *Links) giveBlob(id node.ID, st *quic.Stream, q blobRequest) (result string) {
	refuse := func(code byte, reason string) {
		_ = st.SetWriteDeadline(time.Now().Add(headTimeout))
		if _, err := st.Write(blobAnswer(code, 0, reason)); err != nil {
			reset(st, streamCanceled)
			return
		}
		_ = st.Close()
	}
	if l.stopped.Load() {
		refuse(blobStopped, "")
		return blobsRefused
	}
	select {
	case l.blobs.places <- struct{}{}:
		defer func() { <-l.blobs.places }()
	default:
		refuse(blobBusy, "")
		return blobsBusy
	}
	ctx := st.Context()
	if l.onBlob == nil {
		refuse(blobNone, "")
		return blobsRefused
	}
	r, err := l.onBlob(ctx, hex.EncodeToString(q.sha[:]), q.offset, q.length)
	if err != nil {
		code, reason := blobCode(err)
		if code == blobFailed && ctx.Err() == nil {
			l.log.Warn("a blob is not given out", "node", id, "sha256", hex.EncodeToString(q.sha[:]), "reason", err)
		}
		refuse(code, reason)
		return blobsRefused
	}
	shut := sync.OnceValue(r.Close)
	stop := context.AfterFunc(ctx, func() { _ = shut() }) // a Read that waits ends too
	defer stop()
	err = l.sendBlob(ctx, st, r, q)
	if err = errors.Join(err, shut()); err != nil {
		reset(st, streamCanceled)
		if ctx.Err() == nil && !is[*quic.StreamError](err) {
			l.log.Warn("a blob was cut off", "node", id, "sha256", hex.EncodeToString(q.sha[:]), "reason", err)
		}
		return blobsCut
	}
	if st.Close() != nil {
		return blobsCut
	}
	return codeOK
}

// sendBlob sends what was asked for at the pace of all blobs together.
func (l *Links) sendBlob(ctx context.Context, st *quic.Stream, r io.Reader, q blobRequest) error {
	_ = st.SetWriteDeadline(time.Now().Add(headTimeout))
	if _, err := st.Write(blobAnswer(blobOK, q.length, "")); err != nil {
		return err
	}
	buf := make([]byte, blobChunk)
	for left := q.length; left != 0; {
		part := buf
		if left > 0 {
			part = buf[:min(int64(len(buf)), left)]
		}
		n, err := r.Read(part)
		if n > 0 {
			if err := l.blobs.pace.WaitN(ctx, n); err != nil {
				return err
			}
			_ = st.SetWriteDeadline(time.Now().Add(blobStall))
			if _, err := st.Write(part[:n]); err != nil {
				return err
			}
			l.metrics.blobBytes[dirOut].Add(float64(n))
			if left > 0 {
				left -= int64(n)
			}
		}
		switch {
		case errors.Is(err, io.EOF) && left > 0:
			return io.ErrUnexpectedEOF // the blob is shorter than what was asked for and promised
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
	return nil
}
