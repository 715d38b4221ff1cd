package peer

import (
	"time"
)

const reverifyEvery = time.Minute

// reverify judges the certificates of all live links again every minute and when this node's view of who is
// trusted changed: a link may outlive its certificate by months otherwise.
func (l *Links) reverify() {
	tick := time.NewTicker(reverifyEvery)
	defer tick.Stop()
	for {
		changed := l.identity.Changed() // before the look, so that no change is lost
		l.reverifyAll()
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
		case <-changed:
			l.mu.Lock()
			for _, r := range l.remotes { // what was refused may be welcome now
				if len(r.links) == 0 {
					r.wake()
				}
			}
			l.mu.Unlock()
		}
	}
}

func (l *Links) reverifyAll() {
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
