package gossip

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"log/slog"

	"github.com/hashicorp/memberlist"

	"github.com/akidb/akidbd/internal/node"
)

// delegate is what memberlist calls. Its methods run on memberlist's packet loop or under its lock: they never
// block and never call memberlist.
type delegate struct{ c *Cluster }

// NodeMeta implements [memberlist.Delegate].
func (d *delegate) NodeMeta(int) []byte { return d.c.advert.Load().meta }

// NotifyMsg takes a word that another node sent on.
func (d *delegate) NotifyMsg(b []byte) {
	w, err := decodeWord(b)
	if err != nil {
		d.c.metrics.invalid.Inc()
		return
	}
	news := d.c.table.hear(w)
	if news == newsNone {
		return
	}
	d.c.speaker.relay(w, bytes.Clone(b), news)
	notify(d.c.dirty)
}

// GetBroadcasts implements [memberlist.Delegate].
func (d *delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.c.speaker.next(overhead, limit)
}

// LocalState is all words, for a push/pull.
func (d *delegate) LocalState(bool) []byte {
	return encodeWords(append(d.c.table.told(), d.c.speaker.last()))
}

// MergeRemoteState takes all words of another node.
func (d *delegate) MergeRemoteState(b []byte, _ bool) {
	bad := 0
	for w, err := range decodeWords(b) {
		switch {
		case err != nil:
			bad++
		case d.c.table.hear(w) != newsNone:
			notify(d.c.dirty)
		}
	}
	d.c.metrics.invalid.Add(float64(bad))
}

// NotifyAlive refuses what cannot be a node of this fleet.
func (d *delegate) NotifyAlive(n *memberlist.Node) error {
	if !node.ID(n.Name).Valid() {
		return fmt.Errorf("the name %.80q cannot be a node's", n.Name)
	}
	if n.Port != placeholderPort || n.Addr.String() != placeholderHost {
		return fmt.Errorf("node %s comes with the address %s:%d, all are %s", n.Name, n.Addr, n.Port, placeholder)
	}
	f, err := decodeMeta(n.Meta)
	if err != nil {
		return fmt.Errorf("node %s: %w", n.Name, err)
	}
	if n.Name == string(d.c.cfg.Self.ID) {
		d.c.checkClone(n.Meta, f)
		return nil
	}
	return d.c.table.admit(node.ID(n.Name))
}

// checkClone notices another machine of this node's name. What an earlier process of this node said has a lower
// epoch.
func (c *Cluster) checkClone(meta []byte, f facts) {
	if c.advert.Load().own(meta) || f.epoch < c.epoch {
		return
	}
	c.metrics.clones.Inc()
	if c.table.warnClone() {
		c.log.Warn("another node has this node's name: give each its own certificate", "node", c.cfg.Self.ID, "addr", f.addr, "region", f.region)
	}
}

// NotifyJoin implements [memberlist.EventDelegate].
func (d *delegate) NotifyJoin(n *memberlist.Node) { d.NotifyUpdate(n) }

// NotifyUpdate implements [memberlist.EventDelegate].
func (d *delegate) NotifyUpdate(n *memberlist.Node) {
	f, err := decodeMeta(n.Meta)
	if err != nil || n.Name == string(d.c.cfg.Self.ID) {
		return
	}
	d.c.table.join(node.ID(n.Name), f)
	notify(d.c.dirty)
}

// NotifyLeave implements [memberlist.EventDelegate].
func (d *delegate) NotifyLeave(n *memberlist.Node) {
	if n.Name != string(d.c.cfg.Self.ID) {
		d.c.table.leave(node.ID(n.Name))
		notify(d.c.dirty)
	}
}

// debugLogger gives memberlist a logger; its warnings are daily business here.
func debugLogger(l *slog.Logger) *log.Logger { return log.New(debugWriter{l}, "", 0) }

type debugWriter struct{ log *slog.Logger }

func (w debugWriter) Write(b []byte) (int, error) {
	if ctx := context.Background(); w.log.Enabled(ctx, slog.LevelDebug) {
		w.log.DebugContext(ctx, "memberlist", "said", string(bytes.TrimSpace(b)))
	}
	return len(b), nil
}
