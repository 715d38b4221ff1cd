package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/quic-go/quic-go"

	peerv1 "github.com/akidb/akidbd/internal/gen/akidb/peer/v1"
	"github.com/akidb/akidbd/internal/node"
)

const helloTimeout = 2 * time.Second

// hello is what the other side said first.
type hello struct {
	info     node.Info
	instance uint64
	uptime   time.Duration
	observed netip.AddrPort // this node as the other side sees it; not valid when it does not say
}

// errSelf: this node reached itself.
var errSelf = errors.New("the address is this node's own")

func (l *Links) writeHello(w io.Writer, me node.Info, to net.Addr) error {
	b, err := appendMessage([]byte{frameVersion, streamHello}, &peerv1.Hello{
		Node: nodeMessage(me), Instance: l.instance, UptimeMs: uint64(time.Since(l.started).Milliseconds()), Observed: to.String(),
	})
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

func readHello(r io.Reader) (hello, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return hello{}, noEOF(err)
	}
	if head != [2]byte{frameVersion, streamHello} {
		return hello{}, fmt.Errorf("a stream of version %d and type %d instead of a hello", head[0], head[1])
	}
	var m peerv1.Hello
	if err := readMessage(r, &m, maxMessage); err != nil {
		return hello{}, err
	}
	info, err := nodeOf(m.GetNode())
	const maxUptime = uint64(100 * 365 * 24 * time.Hour / time.Millisecond)
	h := hello{info: info, instance: m.GetInstance(), uptime: time.Duration(min(m.GetUptimeMs(), maxUptime)) * time.Millisecond}
	if at, err := netip.ParseAddrPort(m.GetObserved()); err == nil && at.Addr().Zone() == "" {
		h.observed = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	}
	return h, err
}

// me is this node now, under the name that its certificate gives it.
func (l *Links) me() node.Info {
	me := l.cfg.Self()
	me.ID, me.Region = l.self, l.region
	return me
}

// verify says whose certificate is at the other end of a connection, and closes one where it does not verify now.
func (l *Links) verify(conn *quic.Conn) (id node.ID, region string, err error) {
	id, region, err = l.identity.Verify(conn.ConnectionState().TLS.PeerCertificates)
	if err != nil {
		code, _ := verdict(err)
		_ = conn.CloseWithError(code, "certificate refused: "+err.Error())
		return "", "", &unauthorizedError{err}
	}
	return id, region, nil
}

// expect closes a connection that was to lead to another node than it does. want is "" for anybody.
func expect(conn *quic.Conn, want, got node.ID) error {
	if want == "" || want == got {
		return nil
	}
	_ = conn.CloseWithError(codeUnauthorized, fmt.Sprintf("expected node %s, found %s", want, got))
	return &nameError{string(want), string(got), conn.RemoteAddr().String()}
}

// greet verifies who is at the other end of a new connection and exchanges the hellos. The connection is closed
// when it fails. want is "" when anybody of the fleet will do.
func (l *Links) greet(ctx context.Context, conn *quic.Conn, dialled bool, want node.ID) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	if spoken := conn.ConnectionState().TLS.NegotiatedProtocol; !slices.Contains(l.cfg.versions, spoken) {
		_ = conn.CloseWithError(codeVersion, "no common version")
		return nil, &versionError{spoken}
	}
	id, region, err := l.verify(conn)
	if err != nil {
		return nil, err
	}
	me := l.me()
	h, err := l.exchange(ctx, conn, dialled, me)
	if err != nil {
		_ = conn.CloseWithError(codeProtocol, "no hello")
		if cause := context.Cause(conn.Context()); cause != nil && conn.Context().Err() != nil {
			err = errors.Join(err, cause) // what the other side said
		}
		l.sentAway(conn, err)
		return nil, fmt.Errorf("hello: %w", err)
	}
	if id == l.self {
		return nil, l.meetSelf(conn, h)
	}
	if err := expect(conn, want, id); err != nil {
		return nil, err
	}
	k := l.newLink(conn, id, region, dialled, h)
	k.said = me.Addr
	return k, nil
}

// exchange: the dialler speaks first.
func (l *Links) exchange(ctx context.Context, conn *quic.Conn, dialled bool, me node.Info) (hello, error) {
	var st *quic.Stream
	var err error
	if dialled {
		st, err = conn.OpenStreamSync(ctx)
	} else {
		st, err = conn.AcceptStream(ctx)
	}
	if err != nil {
		return hello{}, err
	}
	if at, ok := ctx.Deadline(); ok {
		_ = st.SetDeadline(at)
	}
	if dialled {
		if err := l.writeHello(st, me, conn.RemoteAddr()); err != nil {
			return hello{}, err
		}
	}
	h, err := readHello(st)
	if err != nil {
		return h, err
	}
	if !dialled {
		if err := l.writeHello(st, me, conn.RemoteAddr()); err != nil {
			return h, err
		}
	}
	if err := st.Close(); err != nil {
		return h, err
	}
	return h, readEnd(st)
}

// fail ends Run with err.
func (l *Links) fail(err error) { push(l.fatal, err) }
