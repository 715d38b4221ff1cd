package gossip

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	maxPast      = 16              // addresses of this process that may still come back from others
	readvertised = 2 * time.Second // for the news of an address to be passed on
)

// advert is what this node says of itself that does not change with its work: memberlist's metadata.
type advert struct {
	meta []byte
	past [][]byte // what this process said before
}

// own says whether this process said so, now or before.
func (a *advert) own(meta []byte) bool {
	return bytes.Equal(meta, a.meta) || slices.ContainsFunc(a.past, func(p []byte) bool { return bytes.Equal(p, meta) })
}

func (c *Cluster) newMeta(addr string) (meta []byte, rest map[string]string) {
	self := c.cfg.Self
	return encodeMeta(facts{
		region: self.Region, zone: self.Zone, addr: addr, version: self.Version, epoch: c.epoch, labels: self.Labels,
	}, memberlist.MetaMaxSize)
}

// SetAddr tells the fleet another address of this node, host:port, "" when it can only dial. It never blocks, and its
// calls must not be concurrent.
func (c *Cluster) SetAddr(addr string) {
	old := c.advert.Load()
	meta, _ := c.newMeta(addr)
	if bytes.Equal(meta, old.meta) {
		return
	}
	past := append(slices.Clone(old.past), old.meta)
	c.advert.Store(&advert{meta: meta, past: past[max(0, len(past)-maxPast):]})
	notify(c.moved)
}

// readvertise passes on another address.
func (c *Cluster) readvertise(ctx context.Context, list *memberlist.Memberlist) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.moved:
		}
		if err := list.UpdateNode(readvertised); err != nil {
			c.log.Debug("nobody may have heard of this node's new address", "reason", err)
		}
	}
}
