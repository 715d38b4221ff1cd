// Package node holds the words of the fleet: who a node is and whether it can answer. It does not know how
// nodes are found.
package node

import (
	"slices"
	"strings"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
)

// ID is a node's name, unique in the fleet, [a-zA-Z0-9][a-zA-Z0-9.-]{0,63}.
type ID string

// Valid says whether the name has the form of an ID.
func (id ID) Valid() bool {
	if len(id) == 0 || len(id) > 64 || id[0] == '.' || id[0] == '-' {
		return false
	}
	return !strings.ContainsFunc(string(id), func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-')
	})
}

// State is what a node says of itself; death is absence.
type State string

// States of a node.
const (
	Starting State = "starting" // up, but no model has answered its warm-up yet
	Ready    State = "ready"    // answers
	Draining State = "draining" // answers what it has, takes nothing new
)

// States lists all states, for tables and limits on what comes from a wire.
func States() []State { return []State{Starting, Ready, Draining} }

// Info is one node as this node sees it. It is immutable once published.
type Info struct {
	ID      ID
	Region  string
	Zone    string
	Labels  map[string]string
	Version string // of akidbd
	Addr    string // host:port (UDP) that its links are dialled at; "" when it can only dial
	Word    Word   // what the node said of itself last
	Link    Link   // what this node knows of it by itself; zero without a link, and for this node
}

// Word is what a node says of itself: on its own links at most 250 ms old, by gossip a few seconds.
type Word struct {
	State      State
	Models     []Served      // ready to serve
	Load       float64       // work queued and running over what the node takes, 0 to 1
	QueueDelay time.Duration // how long a small request would wait now
	Catalog    string        // hex SHA-256 of what it knows of models, a document that it gives out; "" when it tells nothing
	Epoch      uint64        // of the process: grows with each start of the node
	Seq        uint64        // grows with each word of an epoch
}

// Newer says whether w was said after o by the same node.
func (w Word) Newer(o Word) bool {
	if w.Epoch != o.Epoch {
		return w.Epoch > o.Epoch
	}
	return w.Seq > o.Seq
}

// Served is a model that a node answers for.
type Served struct {
	embedding.Model
	Aliases []string // other names that lead to it on that node, "default" among them on one model
	Active  bool     // what the bare name leads to; false for an older digest that is still servable
	Since   int64    // when it became active, Unix milliseconds: the newest of the fleet wins where a node has none
}

// Answers says whether what a client asked for, "name", an alias or "name@digest" with at least 12 hex digits,
// is this model. An unpinned name is answered by an active model only.
func (s Served) Answers(asked string) bool {
	name, digest := embedding.SplitModel(asked)
	if name == "" {
		name = embedding.DefaultModel
	}
	if name != s.Name && !slices.Contains(s.Aliases, name) {
		return false
	}
	if digest == "" {
		return s.Active
	}
	return s.HasDigest(digest)
}

// Link is the evidence that this node has of another one.
type Link struct {
	Up    bool          // connected, and the last probes were answered
	Known bool          // there is, or was, a link; without one only gossip speaks for the node
	RTT   time.Duration // smoothed; 0 when never measured
	Since time.Time     // when Up last changed
	Cause string        // why it is not up, for people and from a closed set: restarted, timeout, draining, unauthorized, version, certificate, closed
}
