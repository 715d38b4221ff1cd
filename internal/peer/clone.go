package peer

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/akidb/akidbd/internal/node"
)

// Two processes of one name: a machine was copied with its certificate, or a process starts while the one before
// it still stops. A node believes only what it met itself, a process that holds its own certificate's key; the
// word of another node (codeClone) is a hint where to look. The younger of two waits for the older one to go and
// ends Run when that does not happen.
const (
	rivalEvery      = time.Second // between looks at the other process
	rivalMisses     = 3           // looks in a row that do not find it: it is gone
	cloneGrace      = 10 * time.Second
	successionGrace = 5 * time.Minute  // while the other one says that it drains
	lookEvery       = 10 * time.Second // between looks that other nodes' words cause
)

// rival is an older process of this node's name. It is guarded by Links.mu.
type rival struct {
	addr     string
	since    time.Time // when it was met first
	met      time.Time // and last
	draining bool
}

// meetSelf judges another process that holds this node's name: the younger of the two is the copy, and a process
// that drains makes room for its successor.
func (l *Links) meetSelf(conn *quic.Conn, h hello) error {
	addr := conn.RemoteAddr().String()
	if h.instance == l.instance {
		_ = conn.CloseWithError(codeClosed, "own address")
		return errSelf
	}
	if l.yields() {
		_ = conn.CloseWithError(codeDraining, "this process of the node drains")
		return &cloneError{fmt.Sprintf("another process of node %s runs at %s while this one drains", l.self, addr)}
	}
	up := time.Since(l.started)
	// Uptimes travel in milliseconds; nearly equal ones are settled by the instance.
	younger := up < h.uptime-time.Second || (up < h.uptime+time.Second && l.instance > h.instance)
	if !younger {
		_ = conn.CloseWithError(codeClone, cloneNotice(l.self, conn.LocalAddr().String()))
		return &cloneError{fmt.Sprintf("a second node named %s is at %s: its certificate is a copy of this node's; it has to stop and get its own", l.self, addr)}
	}
	_ = conn.CloseWithError(codeClosed, "this node is the younger of two")
	l.meet(addr, h.info.Word.State == node.Draining)
	return &cloneError{fmt.Sprintf("an older process of node %s runs at %s", l.self, addr)}
}

// yields says whether this process makes room for another of its name.
func (l *Links) yields() bool {
	l.mu.Lock()
	draining := l.draining
	l.mu.Unlock()
	return draining || l.me().Word.State == node.Draining
}

// meet notes that an older process of this node's name lives, and waits for it to go.
func (l *Links) meet(addr string, draining bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if l.rival == nil {
		l.rival = &rival{addr: addr, since: now}
		if !l.spawnLocked(l.outlast) {
			l.rival = nil
			return
		}
		l.log.Warn("an older process of this node's name runs: waiting for it to stop", "addr", addr, "draining", draining)
	}
	if draining && !l.rival.draining { // those that refused the younger of two take it now
		l.wakeAll()
	}
	l.rival.met, l.rival.draining = now, draining
}

// wakeAll has all keepers dial now. The caller holds mu.
func (l *Links) wakeAll() {
	for _, r := range l.remotes {
		if len(r.links) == 0 {
			r.wake()
		}
	}
}

// outlast looks at the older process until it is gone, or has not gone for so long that it is no predecessor.
func (l *Links) outlast() {
	tick := time.NewTicker(rivalEvery)
	defer tick.Stop()
	for misses := 0; ; {
		select {
		case <-l.dialCtx.Done():
			return
		case <-tick.C:
		}
		l.mu.Lock()
		addr, met := l.rival.addr, l.rival.met
		l.mu.Unlock()
		_, _ = l.dial(l.dialCtx, "", addr) // when it is there, meetSelf notes it
		l.mu.Lock()
		r := *l.rival
		if misses++; r.met.After(met) {
			misses = 0
		}
		if misses >= rivalMisses {
			l.rival = nil
			l.wakeAll()
		}
		l.mu.Unlock()
		grace := l.cfg.cloneGrace
		if r.draining {
			grace = max(grace, successionGrace)
		}
		switch {
		case misses >= rivalMisses:
			l.log.Info("the older process of this node's name is gone", "addr", addr, "after", time.Since(r.since).Round(time.Millisecond))
			return
		case misses == 0 && time.Since(r.since) >= grace:
			l.fail(&cloneError{fmt.Sprintf("another node named %s runs already (met at %s, for %v): two machines hold the same certificate, as after copying an SD card; issue a certificate with another name for this one",
				l.self, addr, time.Since(r.since).Round(time.Second))})
			return
		}
	}
}

// cloneNotice is what a connection to the younger of two is closed with: where the older one is.
func cloneNotice(id node.ID, addr string) string {
	return fmt.Sprintf("another node named %s runs at %s", id, addr)
}

// sentAway takes the hint of a node that closed a connection because it knows an older process of this node's
// name: this node goes and sees for itself.
func (l *Links) sentAway(conn *quic.Conn, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.takeHint(conn, err)
}

// takeHint is sentAway for a caller that holds mu.
func (l *Links) takeHint(conn *quic.Conn, err error) {
	if addr, ok := hinted(err); ok {
		says := conn.RemoteAddr().String()
		l.lookAt(cmp.Or(addr, says), says)
	}
}

// hinted says whether an error is a codeClone of the other side, and where that says that the older process is.
func hinted(err error) (addr string, ok bool) {
	e, ok := errors.AsType[*quic.ApplicationError](err)
	if !ok || !e.Remote || e.ErrorCode != codeClone {
		return "", false
	}
	last := e.ErrorMessage[strings.LastIndexByte(e.ErrorMessage, ' ')+1:]
	at, perr := netip.ParseAddrPort(last)
	if perr != nil || !at.IsValid() || at.Addr().IsUnspecified() || at.Addr().IsMulticast() {
		return "", true
	}
	return at.String(), true
}

// lookAt dials where another node says that an older process is, not more often than lookEvery: a node that lies
// must not be able to make this one dial the world. The caller holds mu.
func (l *Links) lookAt(addr, says string) {
	now := time.Now()
	if l.rival != nil || now.Before(l.nextLook) {
		return
	}
	l.nextLook = now.Add(lookEvery)
	l.log.Warn("a node says that another node of this name runs: having a look", "addr", addr, "says", says)
	l.spawnLocked(func() { _, _ = l.dial(l.dialCtx, "", addr) })
}
