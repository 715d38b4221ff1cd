package gossip

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/akidb/akidbd/internal/node"
)

// speaker says this node's words and sends on those of others.
type speaker struct {
	c      *Cluster
	labels map[string]string // that did not fit into the metadata

	urgent  *memberlist.TransmitLimitedQueue // states and models
	routine *memberlist.TransmitLimitedQueue // loads

	mu   sync.Mutex
	own  spoken
	said time.Time
}

const (
	urgentMult  = 6 // times log10 of the fleet is how often each node sends an urgent word on; with 3, one change in 20 missed a node of 6
	routineMult = 4 // is how often it does a routine one: about 98 of 100 get it
	loadStep    = 0.1
	delayStep   = 50 * time.Millisecond
	// What each node adds to the pauses between words, so that a large fleet says no more than about 33 loads a
	// second, and all it knows twice as seldom.
	pausePerNode = 30 * time.Millisecond
	minTell      = 50 * time.Millisecond
)

func newSpeaker(c *Cluster) *speaker {
	return &speaker{
		c:       c,
		urgent:  &memberlist.TransmitLimitedQueue{RetransmitMult: urgentMult, NumNodes: func() int { return c.table.size() + 1 }},
		routine: &memberlist.TransmitLimitedQueue{RetransmitMult: routineMult, NumNodes: func() int { return 1 }},
	}
}

func (s *speaker) run(ctx context.Context) {
	for {
		every := max(tellInterval, time.Duration(s.c.table.size())*pausePerNode)
		timer := time.NewTimer(every*9/10 + rand.N(every/5+1))
		told := false
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-s.c.tell:
			timer.Stop()
			told = true
		case <-timer.C:
		}
		s.speak(told)
		if told {
			if !pause(ctx, minTell) {
				return
			}
			s.speak(false) // what was told of may not have been in the word yet
		}
	}
}

// speak says the word of now when it is worth saying, or must be, and reports whether it did.
func (s *speaker) speak(must bool) bool {
	w := s.c.cfg.Word()
	n := s.c.table.size()
	s.mu.Lock()
	old, first := s.own, s.said.IsZero()
	now := spoken{id: s.c.cfg.Self.ID, Word: w, list: listAll, listSeq: old.listSeq, labels: s.labels}
	list := first || w.Epoch != old.Epoch || !slices.EqualFunc(w.Models, old.Models, sameServed)
	if list {
		now.listSeq = w.Seq
	}
	urgent := list || w.State != old.State
	refresh := time.Since(s.said) >= max(refreshInterval*9/10, 2*time.Duration(n)*pausePerNode)
	load := abs(w.Load-old.Load) >= loadStep || abs(w.QueueDelay-old.QueueDelay) >= max(delayStep, old.QueueDelay/4)
	if !first && !w.Newer(old.Word) || !must && !urgent && !refresh && !load {
		s.mu.Unlock()
		return false
	}
	s.own, s.said = now, time.Now()
	s.mu.Unlock()

	if !list && !refresh {
		now.list, now.Models, now.labels = listNone, nil, nil
	}
	level := newsLoad
	if urgent {
		level = newsUrgent
	}
	s.relay(now, encodeWord(now, maxNews), level)
	return true
}

func sameServed(a, b node.Served) bool {
	return a.Model == b.Model && a.Active == b.Active && a.Since == b.Since && slices.Equal(a.Aliases, b.Aliases)
}

func abs[T ~int64 | ~float64](v T) T { return max(v, -v) }

// last is what this node said last, whole.
func (s *speaker) last() spoken {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.own
}

// relay queues a word for the next packets.
func (s *speaker) relay(w spoken, b []byte, level news) {
	name := string(w.id)
	if w.list != listNone {
		name += "/list" // a short word must not put it out of the queue
	}
	q := s.routine
	if level == newsUrgent {
		q = s.urgent
	}
	q.QueueBroadcast(&broadcast{name, b})
}

// next is the words for a packet.
func (s *speaker) next(overhead, limit int) [][]byte {
	words := s.urgent.GetBroadcasts(overhead, limit)
	for _, w := range words {
		limit -= overhead + len(w)
	}
	if limit > overhead {
		words = append(words, s.routine.GetBroadcasts(overhead, limit)...)
	}
	return words
}

// broadcast is a word in a queue; a newer one of the same name replaces it.
type broadcast struct {
	name string
	b    []byte
}

var _ memberlist.NamedBroadcast = (*broadcast)(nil)

func (b *broadcast) Name() string    { return b.name }
func (b *broadcast) Message() []byte { return b.b }
func (b *broadcast) Finished()       {}

// Invalidates implements [memberlist.Broadcast].
func (b *broadcast) Invalidates(other memberlist.Broadcast) bool {
	o, ok := other.(*broadcast)
	return ok && o.name == b.name
}
