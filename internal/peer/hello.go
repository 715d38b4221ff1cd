package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
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
}

// errSelf: this node reached itself.
var errSelf = errors.New("the address is this node's own")

func (l *Links) writeHello(w io.Writer) error {
	b, err := appendMessage([]byte{frameVersion, streamHello}, &peerv1.Hello{
		Node: nodeMessage(l.me()), Instance: l.instance, UptimeMs: uint64(time.Since(l.started).Milliseconds()),
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
	return hello{info: info, instance: m.GetInstance(), uptime: time.Duration(min(m.GetUptimeMs(), maxUptime)) * time.Millisecond}, err
}

// me is this node now, under the name that its certificate gives it.
func (l *Links) me() node.Info {
	me := l.cfg.Self()
	me.ID, me.Region = l.self, l.region
	return me
}

// greet verifies who is at the other end of a new connection and exchanges the hellos. The connection is closed
// when it fails. want is "" when anybody of the fleet will do.
func (l *Links) greet(ctx context.Context, conn *quic.Conn, dialled bool, want node.ID) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	state := conn.ConnectionState().TLS
	if !slices.Contains(l.cfg.versions, state.NegotiatedProtocol) {
		_ = conn.CloseWithError(codeVersion, "no common version")
		return nil, &versionError{state.NegotiatedProtocol}
	}
	id, region, err := l.identity.Verify(state.PeerCertificates)
	if err != nil {
		code, _ := verdict(err)
		_ = conn.CloseWithError(code, "certificate refused: "+err.Error())
		return nil, &unauthorizedError{err}
	}
	h, err := l.exchange(ctx, conn, dialled)
	if err != nil {
		_ = conn.CloseWithError(codeProtocol, "no hello")
		if cause := context.Cause(conn.Context()); cause != nil && conn.Context().Err() != nil {
			err = errors.Join(err, cause) // what the other side said
		}
		if clone := l.sentAway(conn, err); clone != nil {
			return nil, clone
		}
		return nil, fmt.Errorf("hello: %w", err)
	}
	if id == l.self {
		return nil, l.meetSelf(conn, h)
	}
	if want != "" && id != want {
		_ = conn.CloseWithError(codeUnauthorized, fmt.Sprintf("expected node %s, found %s", want, id))
		return nil, &nameError{string(want), string(id), conn.RemoteAddr().String()}
	}
	return l.newLink(conn, id, region, dialled, h), nil
}

// exchange: the dialler speaks first.
func (l *Links) exchange(ctx context.Context, conn *quic.Conn, dialled bool) (hello, error) {
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
		if err := l.writeHello(st); err != nil {
			return hello{}, err
		}
	}
	h, err := readHello(st)
	if err != nil {
		return h, err
	}
	if !dialled {
		if err := l.writeHello(st); err != nil {
			return h, err
		}
	}
	if err := st.Close(); err != nil {
		return h, err
	}
	return h, readEnd(st)
}

// meetSelf judges another process that holds this node's name: the younger of the two is the copy.
func (l *Links) meetSelf(conn *quic.Conn, h hello) error {
	addr := conn.RemoteAddr().String()
	if h.instance == l.instance {
		_ = conn.CloseWithError(codeClosed, "own address")
		return errSelf
	}
	up := time.Since(l.started)
	// Uptimes travel in milliseconds; nearly equal ones are settled by the instance.
	younger := up < h.uptime-time.Second || (up < h.uptime+time.Second && l.instance > h.instance)
	if !younger {
		_ = conn.CloseWithError(codeClone, fmt.Sprintf("node %s runs here since %s", l.self, up.Round(time.Second)))
		return &cloneError{fmt.Sprintf("a second node named %s is at %s: its certificate is a copy of this node's; it has to stop and get its own", l.self, addr)}
	}
	_ = conn.CloseWithError(codeClosed, "this node is the younger of two and stops")
	err := &cloneError{l.cloneText(addr)}
	l.fail(err)
	return err
}

// sentAway says whether a connection ended because the other side knows an older node of this node's name. Run
// then ends.
func (l *Links) sentAway(conn *quic.Conn, err error) *cloneError {
	e, ok := errors.AsType[*quic.ApplicationError](err)
	if !ok || !e.Remote || e.ErrorCode != codeClone {
		return nil
	}
	clone := &cloneError{l.cloneText(fmt.Sprintf("%s, which says: %s", conn.RemoteAddr(), e.ErrorMessage))}
	l.fail(clone)
	return clone
}

func (l *Links) cloneText(addr string) string {
	return fmt.Sprintf("another node named %s runs already (found at %s): two machines hold the same certificate, as after copying an SD card; issue a certificate with another name for this one", l.self, addr)
}

// fail ends Run with err.
func (l *Links) fail(err error) { push(l.fatal, err) }
