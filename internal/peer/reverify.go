package peer

import (
	"crypto/sha256"
	"crypto/tls"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/akidb/akidbd/internal/node"
)

const (
	reverifyEvery = time.Minute
	renewSpread   = 10 * time.Second // over which the connections to all nodes are replaced
	renewBefore   = 10 * time.Minute // the other node's certificate ends, at most a fifth of its life
)

// fingerprint tells certificates apart.
type fingerprint [sha256.Size]byte

// shown is the fingerprint of the certificate that this node shows now.
func (l *Links) shown() fingerprint {
	if l.tls.GetCertificate == nil {
		return fingerprint{}
	}
	c, err := l.tls.GetCertificate(&tls.ClientHelloInfo{})
	if err != nil || c == nil || len(c.Certificate) == 0 {
		return fingerprint{}
	}
	return sha256.Sum256(c.Certificate[0])
}

// reverify judges the certificates of all live links again every minute and when this node's view of who is
// trusted changed: a link may outlive its certificate by months otherwise. Links on which this node showed a
// certificate, or said an address, that is no longer its own are replaced.
func (l *Links) reverify() {
	tick := time.NewTicker(reverifyEvery)
	defer tick.Stop()
	for {
		changed := l.identity.Changed() // before the look, so that no change is lost
		l.reverifyAll()
		l.renewAll()
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
		case <-l.moved:
		case <-changed:
			l.mu.Lock()
			l.wakeAll() // what was refused may be welcome now
			l.mu.Unlock()
		}
	}
}

func (l *Links) reverifyAll() {
	for conn, want := range l.blobs.open() {
		if id, _, err := l.verify(conn); err == nil {
			_ = expect(conn, want, id) // a connection that is closed says so itself
		}
	}
	l.mu.Lock()
	var links []*link
	for _, r := range l.remotes {
		links = append(links, r.links...)
	}
	l.mu.Unlock()
	for _, k := range links {
		id, _, err := l.identity.Verify(k.conn.ConnectionState().TLS.PeerCertificates)
		if err == nil && id != k.id {
			err = &nameError{string(k.id), string(id), k.conn.RemoteAddr().String()}
		}
		if err == nil {
			continue
		}
		code, cause := verdict(err)
		l.metrics.refused[refusedIdentity].Inc()
		l.log.Warn("link closed: the node's certificate no longer counts", "node", k.id, "addr", k.conn.RemoteAddr().String(), "cause", cause, "reason", err)
		k.close(code, cause, "certificate refused: "+err.Error())
	}
}

// Moved says that the address of this node, as Config.Self gives it, changed: it is said on all links anew.
func (l *Links) Moved() { push(l.moved, struct{}{}) }

// renewAll replaces the connections that are stale, each a little later than the other. The new one is there before
// the old one goes, which it does when its requests have ended (settle).
func (l *Links) renewAll() {
	shown, said := l.shown(), l.me().Addr
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.draining {
		return
	}
	for id, r := range l.remotes {
		if r.best != nil && !r.renews && r.best.stale(shown, said) {
			r.renews = l.spawnLocked(func() { l.renew(id, r) })
		}
	}
}

// stale says whether the other end of a connection knows an older certificate or address of this node, or this end
// one of the other node that ends soon: a node that nobody can dial cannot replace its connections by itself.
func (k *link) stale(shown fingerprint, said string) bool {
	if k.shown != shown || k.said != said {
		return true
	}
	certs := k.conn.ConnectionState().TLS.PeerCertificates
	if len(certs) == 0 {
		return false
	}
	life := certs[0].NotAfter.Sub(certs[0].NotBefore)
	return time.Until(certs[0].NotAfter) < min(renewBefore, life/5)
}

func (l *Links) renew(id node.ID, r *remote) {
	timer := time.NewTimer(rand.N(renewSpread))
	defer timer.Stop()
	select {
	case <-l.dialCtx.Done():
	case <-timer.C:
	}
	shown, said := l.shown(), l.me().Addr
	l.mu.Lock()
	k, addrs := r.best, r.addresses()
	l.mu.Unlock()
	if k != nil && k.stale(shown, said) {
		var err error
		// Where its packets come from first: that way is open, also through a NAT.
		for _, addr := range append([]string{k.conn.RemoteAddr().String()}, addrs...) {
			if _, err = l.dial(l.dialCtx, id, addr); err == nil || l.dialCtx.Err() != nil {
				break
			}
		}
		if err != nil && l.dialCtx.Err() == nil {
			l.log.Debug("link not renewed, the old connection stays", "node", id, "reason", err)
		}
	}
	l.mu.Lock()
	r.renews = false
	l.mu.Unlock()
}

// Observed is how other nodes see this one: the address and port that its packets come from, or that they dialled
// it at; one for each node with a connection that says.
func (l *Links) Observed() map[node.ID]netip.AddrPort {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := map[node.ID]netip.AddrPort{}
	for id, r := range l.remotes {
		if r.best != nil && r.best.observed.IsValid() {
			seen[id] = r.best.observed
		}
	}
	return seen
}
