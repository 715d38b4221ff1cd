package gossip

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/akidb/akidbd/internal/node"
)

// Limits of what is remembered.
const (
	maxMembers   = 4096
	maxHeard     = 2 * maxMembers
	maxLost      = 1024
	forgetLost   = 72 * time.Hour
	forgetLeft   = time.Hour
	forgetHeard  = time.Minute // the words of who is no member; a machine may come back with a lower epoch
	quickReturn  = 30 * time.Second
	warnInterval = time.Minute
)

// table is what is known of the others.
type table struct {
	self    node.ID
	metrics *metrics

	mu       sync.Mutex
	members  map[node.ID]facts
	order    []node.ID // of members, sorted
	words    map[node.ID]*heard
	lost     map[node.ID]*lost
	lastLoss time.Time
	met      bool // somebody, since the start
	cloneAt  time.Time
	altered  bool // since the last snapshot
}

// heard is the newest of what a node said. Its state and its list come in any order.
type heard struct {
	word    spoken // Models and labels are of listSeq, all else of Seq
	touched time.Time
}

// lost is a node that was a member, here or before the last start, and is looked for.
type lost struct {
	facts
	since  time.Time
	tried  time.Time
	left   bool
	missed int // starts of this node since it was last met
}

// news is what of a word was new.
type news int

const (
	newsNone   news = iota
	newsLoad        // its load
	newsUrgent      // its state or its models
)

func newTable(self node.ID, m *metrics) *table {
	return &table{self: self, metrics: m, members: map[node.ID]facts{}, words: map[node.ID]*heard{}, lost: map[node.ID]*lost{}}
}

// addrOf is where a node is to be dialled; "" when only its link can tell.
func (t *table) addrOf(id node.ID) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f, ok := t.members[id]; ok {
		return f.addr
	}
	if l := t.lost[id]; l != nil {
		return l.addr
	}
	return ""
}

func (t *table) member(id node.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.members[id]
	return ok
}

func (t *table) admit(id node.ID) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.members[id]; !ok && len(t.members) >= maxMembers {
		return fmt.Errorf("node %s is one too many, %d are possible", id, maxMembers)
	}
	return nil
}

func (t *table) join(id node.ID, f facts) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.lost[id]; l != nil {
		if !l.left && l.missed == 0 && l.epoch == f.epoch && time.Since(l.since) < quickReturn {
			t.metrics.returns.Inc()
		}
		delete(t.lost, id)
	}
	if i, found := slices.BinarySearch(t.order, id); !found {
		t.order = slices.Insert(t.order, i, id)
	}
	t.members[id] = f
	t.met, t.altered = true, true
}

func (t *table) leave(id node.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f, ok := t.members[id]
	if !ok {
		return
	}
	delete(t.members, id)
	if i, found := slices.BinarySearch(t.order, id); found {
		t.order = slices.Delete(t.order, i, i+1)
	}
	now := time.Now()
	h := t.words[id]
	left := h != nil && h.word.State == node.Draining
	kind := departureDead
	if left {
		kind = departureLeft
	} else {
		t.lastLoss = now
	}
	t.metrics.departures[kind].Inc()
	if h != nil {
		h.touched = now
	}
	t.altered = true
	t.lose(id, &lost{facts: f, since: now, left: left})
}

// lose remembers a node to look for. The caller holds mu.
func (t *table) lose(id node.ID, l *lost) {
	if l.addr == "" || id == t.self {
		return // it has to dial us
	}
	if len(t.lost) >= maxLost {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(t.lost)), func(a, b node.ID) int { return t.lost[a].since.Compare(t.lost[b].since) })
		delete(t.lost, oldest)
	}
	t.lost[id] = l
}

// hear keeps what is new of a word.
func (t *table) hear(w spoken) news {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.id == t.self {
		return newsNone
	}
	h := t.words[w.id]
	if h == nil {
		if len(t.words) >= maxHeard {
			return newsNone
		}
		h = &heard{word: spoken{id: w.id}}
		t.words[w.id] = h
	}
	old := h.word
	switch {
	case w.Epoch < old.Epoch:
		return newsNone
	case w.Epoch > old.Epoch || old.State == "":
		h.word, h.touched = w, time.Now()
		return newsUrgent
	}
	result := newsNone
	if w.Seq > old.Seq {
		h.word.State, h.word.Load, h.word.QueueDelay, h.word.Seq = w.State, w.Load, w.QueueDelay, w.Seq
		result = newsLoad
		if w.State != old.State {
			result = newsUrgent
		}
	}
	if w.list != listNone && (w.listSeq > old.listSeq || w.listSeq == old.listSeq && w.list > old.list) {
		h.word.Models, h.word.labels, h.word.listSeq, h.word.list = w.Models, w.labels, w.listSeq, w.list
		result = newsUrgent
	}
	if result != newsNone {
		h.touched = time.Now()
	}
	return result
}

// told is every word heard of a member.
func (t *table) told() []spoken {
	t.mu.Lock()
	defer t.mu.Unlock()
	words := make([]spoken, 0, len(t.members)+1)
	for id := range t.members {
		if h := t.words[id]; h != nil {
			words = append(words, h.word)
		}
	}
	return words
}

func (t *table) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.members)
}

func (t *table) warnClone() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.cloneAt) < warnInterval {
		return false
	}
	t.cloneAt = time.Now()
	return true
}

// tidy forgets.
func (t *table) tidy() {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.words, func(id node.ID, h *heard) bool {
		_, member := t.members[id]
		return !member && time.Since(h.touched) > forgetHeard
	})
	maps.DeleteFunc(t.lost, func(_ node.ID, l *lost) bool {
		age := time.Since(l.since)
		return age > forgetLost || l.left && age > forgetLeft
	})
}

// snapshot is the members as others may see them, sorted.
func (t *table) snapshot() []node.Info {
	t.mu.Lock()
	defer t.mu.Unlock()
	nodes := make([]node.Info, 0, len(t.members))
	count := map[string]int{memberLost: len(t.lost)}
	for _, id := range t.order {
		f := t.members[id]
		n := node.Info{ID: id, Region: f.region, Zone: f.zone, Version: f.version, Addr: f.addr, Labels: f.labels}
		state := memberUnheard
		if h := t.words[id]; h != nil {
			n.Word, state = h.word.Word, string(h.word.State)
			if len(h.word.labels) > 0 {
				n.Labels = maps.Clone(f.labels)
				if n.Labels == nil {
					n.Labels = map[string]string{}
				}
				maps.Copy(n.Labels, h.word.labels)
			}
		}
		count[state]++
		nodes = append(nodes, n)
	}
	for state, gauge := range t.metrics.members {
		gauge.Set(float64(count[state]))
	}
	return nodes
}

// publish makes Nodes follow the table. Changes that come close together are published together: the larger the
// fleet, the longer it waits.
func (c *Cluster) publish(ctx context.Context, list *memberlist.Memberlist) {
	tidy := time.NewTicker(forgetHeard / 2)
	defer tidy.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tidy.C:
			c.table.tidy()
			c.metrics.health.Set(float64(list.GetHealthScore()))
			continue
		case <-c.dirty:
		}
		nodes := c.table.snapshot()
		c.nodes.Store(&nodes)
		c.changed()
		pause(ctx, max(10*time.Millisecond, time.Duration(len(nodes))*time.Millisecond))
	}
}

// pause waits, or returns false when ctx ends.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
