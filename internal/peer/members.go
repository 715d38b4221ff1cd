package peer

import (
	"cmp"
	"context"
	"hash/fnv"
	"slices"
	"time"

	"github.com/akidb/akidbd/internal/node"
)

// Links that are kept.
const (
	ownLinks = 64 // to nodes of the own region
	maxExtra = 64 // to nodes that only gossip dialled
)

// SetMembers says who is in the fleet: ID, Region and Addr count. Links are then kept to the nodes that targets
// chooses. It is cheap when nothing changed.
func (l *Links) SetMembers(members []node.Info) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.EqualFunc(members, l.members, func(a, b node.Info) bool {
		return a.ID == b.ID && a.Region == b.Region && a.Addr == b.Addr
	}) {
		return
	}
	l.members = slices.Clone(members)
	l.reconcile()
}

// reconcile starts and stops keepers. The caller holds mu.
func (l *Links) reconcile() {
	if l.ctx == nil || l.draining {
		return
	}
	want := map[node.ID]bool{}
	for _, id := range targets(l.self, l.region, l.members, l.cfg.MaxForeign) {
		want[id] = true
	}
	addrs := map[node.ID]string{}
	for _, m := range l.members {
		if m.ID != l.self {
			addrs[m.ID] = m.Addr
			if want[m.ID] {
				l.remoteOf(m.ID, m.Region)
			}
		}
	}
	for id, r := range l.remotes {
		if addr := addrs[id]; r.addr != addr {
			r.addr = addr
			r.wake()
		}
		switch {
		case want[id] && !r.wanted:
			ctx, cancel := context.WithCancel(l.dialCtx)
			r.wanted, r.release = true, cancel
			l.wg.Go(func() { l.keep(ctx, id) })
		case !want[id] && r.wanted:
			r.release()
			r.wanted = false
		}
		if !r.wanted && !r.info.Link.Known {
			delete(l.remotes, id)
		}
	}
}

// targets chooses whom to keep a link to: all of the own region, up to ownLinks, and maxForeign of each other
// region. Where there are more, rendezvous hashing chooses; the hash is of the pair, so that both sides tend to
// choose each other and the load is even.
func targets(self node.ID, region string, members []node.Info, maxForeign int) []node.ID {
	type ranked struct {
		id   node.ID
		hash uint64
	}
	regions := map[string][]ranked{}
	for _, m := range members {
		if m.ID != self && m.ID != "" {
			regions[m.Region] = append(regions[m.Region], ranked{m.ID, pairHash(self, m.ID)})
		}
	}
	var ids []node.ID
	for name, nodes := range regions {
		limit := maxForeign
		if name == region {
			limit = ownLinks
		}
		slices.SortFunc(nodes, func(a, b ranked) int { return cmp.Or(cmp.Compare(b.hash, a.hash), cmp.Compare(a.id, b.id)) })
		for _, n := range nodes[:min(limit, len(nodes))] {
			ids = append(ids, n.id)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func pairHash(a, b node.ID) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(min(a, b)))
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(max(a, b)))
	x := h.Sum64() // FNV's high bits move little between like names: mix as splitmix64 does
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// evict closes the longest unused of the links that only gossip dialled when there are too many. The caller
// holds mu.
func (l *Links) evict() {
	var extra []*link
	for _, r := range l.remotes {
		for _, k := range r.links {
			if k.dialled && !r.wanted {
				extra = append(extra, k)
			}
		}
	}
	if len(extra) <= maxExtra {
		return
	}
	oldest := slices.MinFunc(extra, func(a, b *link) int { return cmp.Compare(a.used.Load(), b.used.Load()) })
	if oldest.idle() > time.Second {
		l.spawnLocked(func() { oldest.close(codeClosed, causeClosed, "not used") })
	}
}
