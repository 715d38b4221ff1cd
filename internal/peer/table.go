package peer

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/akidb/akidbd/internal/node"
)

// remote is all that is known of one other node. It is guarded by Links.mu.
type remote struct {
	info    node.Info // as published
	models  uint64    // hash of info.Word.Models as the node tells it; 0: none held
	links   []*link
	best    *link  // the one in use, up or not; nil without links
	addr    string // that SetMembers gives
	led     string // where a connection was dialled last, or came from when it can be dialled
	serving atomic.Int64
	wanted  bool // a keeper keeps a link
	renews  bool // a connection is made to replace the one in use
	release context.CancelFunc
	changed chan struct{} // closed and made anew at each change that a keeper may wait for
}

const (
	slowPath  = 150 * time.Millisecond
	maxSlow   = 4096
	duplicate = time.Second      // both connections live at least that long: no new request comes on the one given up
	overdue   = 10 * time.Second // that long when the other node decides: it may not
	silence   = time.Second      // of a connection whose process was replaced
	forget    = 10 * time.Minute // after a node left the fleet
	coalesce  = 10 * time.Millisecond

	// maxConnections to one node: one in use, one that replaces it, and those of a process before that are not
	// known to be dead yet.
	maxConnections = 4
)

// remoteOf finds or makes the record of a node. The caller holds mu.
func (l *Links) remoteOf(id node.ID, region string) *remote {
	r := l.remotes[id]
	if r == nil {
		r = &remote{info: node.Info{ID: id, Region: region}, changed: make(chan struct{})}
		l.remotes[id] = r
	}
	return r
}

func (r *remote) wake() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// adopt puts a new connection into the table and decides between it and those that are there.
func (l *Links) adopt(k *link) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx == nil || l.ctx.Err() != nil || l.draining {
		return errors.New("this node stops")
	}
	r := l.remoteOf(k.id, k.region)
	if k.state == node.Draining && slices.ContainsFunc(r.links, func(o *link) bool {
		return o.instance != k.instance && o.state != node.Draining && o.suspect == 0 && o.up()
	}) {
		return errors.New("this process of the node drains, and another one of it is linked")
	}
	restarted := false
	for _, old := range r.links {
		if old.instance == k.instance {
			continue
		}
		// Either the node was restarted, and the old connection is dead, or two nodes share the name, and it is
		// not: a reply to the next probe tells.
		restarted = true
		old.suspect, old.doomed, old.verdict = old.seq+1, time.Now().Add(silence), causeRestarted
		push(old.nudge, struct{}{})
	}
	r.links = append(r.links, k)
	k.serving = &r.serving
	for _, a := range k.at {
		l.at[a] = k
	}
	if k.dialled || k.hello.Addr != "" {
		r.led = k.at[0]
	}
	if restarted || len(r.links) == 1 {
		r.info.Word, r.models = node.Word{}, 0 // an epoch may go back with a clock: a new process always counts
	}
	l.introduce(r, k)
	l.settle(r, k)
	k.start()
	if restarted && r.info.Link.Up {
		l.metrics.changes[causeRestarted].Inc()
		r.info.Link.Since = time.Now()
	}
	l.refresh(k.id)
	l.evict()
	return nil
}

// introduce takes over what the node said first on a link. The caller holds mu.
func (l *Links) introduce(r *remote, k *link) {
	word, link := r.info.Word, r.info.Link
	r.info = k.hello
	r.info.Word, r.info.Link = word, link
	if r.info.Addr == "" {
		r.info.Addr = r.addr
	}
	r.info.Link.Known = true
	if w := k.hello.Word; w.Newer(r.info.Word) || r.models == 0 {
		r.info.Word, r.models = w, modelsHash(wordMessage(w))
	}
}

// settle decides which of the connections to a node end because k is there now. The caller holds mu.
func (l *Links) settle(r *remote, k *link) {
	patience := overdue
	if l.self < k.id { // of two nodes the one with the smaller name decides
		patience = duplicate
	}
	best := l.best(k.id)
	for _, o := range r.links {
		if o != best && o.suspect == 0 && o.instance == best.instance {
			o.doomed, o.verdict = time.Now().Add(patience), causeClosed
		}
	}
	best.doomed = time.Time{}
	var open []*link
	for _, o := range r.links {
		if o != k && o.cause == "" {
			open = append(open, o)
		}
	}
	if len(open) < maxConnections {
		return
	}
	worst := slices.MinFunc(open, byBetter)
	worst.cause = causeClosed // it is closed once
	l.spawnLocked(func() { worst.close(codeDuplicate, causeClosed, "too many connections of one node") })
}

func byBetter(a, b *link) int {
	switch {
	case a.better(b):
		return 1
	case b.better(a):
		return -1
	}
	return 0
}

// twins settles that k, whose process seemed replaced, still answers: the younger ones are copies.
// A process that drains is no copy, it is just being replaced. The caller holds mu.
func (l *Links) twins(k *link) (oldest *link, copies []*link) {
	r := l.remotes[k.id]
	if r == nil || k.state == node.Draining {
		return nil, nil
	}
	oldest = k
	for _, o := range r.links {
		if o.state != node.Draining && o.started.Before(oldest.started) {
			oldest = o
		}
	}
	for _, o := range r.links {
		if o.state == node.Draining && o.instance != oldest.instance {
			continue
		}
		if o.instance != oldest.instance {
			copies = append(copies, o)
			o.suspect = max(o.suspect, 1)
		} else {
			o.suspect, o.doomed = 0, time.Time{}
		}
	}
	r.info.Word, r.models = node.Word{}, 0
	l.introduce(r, oldest)
	l.refresh(k.id)
	return oldest, copies
}

// drop takes a connection that ended from the table.
func (l *Links) drop(k *link) {
	err := context.Cause(k.conn.Context())
	l.mu.Lock()
	defer l.mu.Unlock()
	k.gone = true
	cause := cmp.Or(k.cause, causeOf(err))
	k.cause = cause
	r := l.remotes[k.id]
	r.links = slices.DeleteFunc(r.links, func(o *link) bool { return o == k })
	maps.DeleteFunc(l.at, func(_ string, o *link) bool { return o == k })
	for _, o := range r.links {
		for _, a := range o.at {
			l.at[a] = o
		}
	}
	l.refreshFor(k.id, cause)
	if len(r.links) == 0 {
		l.log.Info("link down", "node", k.id, "addr", k.conn.RemoteAddr().String(), "cause", cause, "reason", err)
	}
	l.takeHint(k.conn, err)
}

// best is the connection to use for a node, nil without one. The caller holds mu.
func (l *Links) best(id node.ID) *link {
	r := l.remotes[id]
	if r == nil || len(r.links) == 0 {
		return nil
	}
	return slices.MaxFunc(r.links, byBetter)
}

// refresh settles again which connection is used for a node and whether it is up. The caller holds mu.
func (l *Links) refresh(id node.ID) { l.refreshFor(id, causeTimeout) }

// refreshFor is refresh when a connection was lost for a cause.
func (l *Links) refreshFor(id node.ID, cause string) {
	r := l.remotes[id]
	was, wasBest := r.info.Link.Up, r.best
	r.best = l.best(id)
	up := r.best != nil && r.best.up()
	if r.best != nil {
		r.info.Link.RTT = r.best.rtt
	}
	switch {
	case up && !was:
		r.info.Link.Up, r.info.Link.Since, r.info.Link.Cause = true, time.Now(), ""
		l.metrics.changes[changeUp].Inc()
		l.log.Info("link up", "node", id, "region", r.info.Region, "addr", r.best.conn.RemoteAddr().String(), "dialled", r.best.dialled)
	case !up && was:
		r.info.Link.Up, r.info.Link.Since, r.info.Link.Cause = false, time.Now(), cause
		l.metrics.changes[cause].Inc()
	case !up && r.best == nil && r.info.Link.Cause != causeUnauthorized:
		r.info.Link.Cause = cause // a timeout turns out to be a restart
	}
	if up == was && r.best == wasBest {
		l.mark()
		return
	}
	table := maps.Clone(*l.table.Load())
	if up {
		table[id] = r.best
	} else {
		delete(table, id)
	}
	l.table.Store(&table)
	r.wake()
	l.mark()
}

// hear takes a node's word of itself. It says whether the models have to be fetched. The caller holds mu.
func (l *Links) hear(k *link, w node.Word, hash uint64, included bool) (fetch bool) {
	r := l.remotes[k.id]
	if r == nil || (r.best != nil && r.best.instance != k.instance) {
		return false
	}
	old := r.info.Word
	newer, same := w.Newer(old), w.Epoch == old.Epoch && w.Seq == old.Seq
	switch {
	case !newer && !(same && included):
		return same && hash != r.models
	case included:
		r.models = hash
	case hash == r.models:
		w.Models = old.Models
	default:
		w.Models, fetch = old.Models, true
	}
	r.info.Word = w
	l.mark()
	return fetch
}

// held is the hash of the models held of a node. The caller holds mu.
func (l *Links) held(id node.ID) uint64 {
	if r := l.remotes[id]; r != nil {
		return r.models
	}
	return 0
}

func (l *Links) isSlow(addr string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.slow[addr]
}

// setSlow notes the paths whose connections need a longer idle time. The caller holds mu.
func (l *Links) setSlow(addr string, slow bool) {
	switch {
	case !slow:
		delete(l.slow, addr)
	case len(l.slow) < maxSlow:
		l.slow[addr] = true
	}
}

func (l *Links) mark() { push(l.dirty, struct{}{}) }

// Peers are the nodes that have or had a link, sorted by ID, each with its own word. The slice must not be
// changed; it is at most 10 ms old.
func (l *Links) Peers() []node.Info { return *l.peers.Load() }

// publish makes the snapshot of Peers after changes, not more than once in coalesce.
func (l *Links) publish() {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-pause.C:
		}
		select {
		case <-l.ctx.Done():
			return
		case <-l.dirty:
		}
		l.snapshot()
		if l.onChange != nil {
			l.onChange()
		}
		pause.Reset(coalesce)
	}
}

func (l *Links) snapshot() {
	l.mu.Lock()
	infos := make([]node.Info, 0, len(l.remotes))
	counts := map[[2]string]int{}
	for id, r := range l.remotes {
		if !r.info.Link.Known {
			continue
		}
		if len(r.links) == 0 && r.addr == "" && time.Since(r.info.Link.Since) > forget {
			delete(l.remotes, id)
			continue
		}
		infos = append(infos, r.info)
		counts[[2]string{l.scope(r.info.Region), upDown(r.info.Link.Up)}]++
	}
	l.mu.Unlock()
	slices.SortFunc(infos, func(a, b node.Info) int { return strings.Compare(string(a.ID), string(b.ID)) })
	l.peers.Store(&infos)
	for labels, gauge := range l.metrics.links {
		gauge.Set(float64(counts[labels]))
	}
}

func (l *Links) scope(region string) string {
	if region == l.region {
		return scopeOwn
	}
	return scopeOther
}

func upDown(up bool) string {
	if up {
		return stateUp
	}
	return stateDown
}
