// Package node holds the words of the fleet: who a node is and whether it can answer. It does not know how
// nodes are found.
package node

import "github.com/akidb/akidbd/internal/embedding"

// ID is a node's name, unique in the fleet, [a-zA-Z0-9][a-zA-Z0-9.-]{0,63}.
type ID string

// State is what a node says of itself; death is absence.
type State string

// States of a node.
const (
	Starting State = "starting" // up, but no model has answered its warm-up yet
	Ready    State = "ready"    // answers
	Draining State = "draining" // answers what it has, takes nothing new
)

// Info is one node as the others see it. It is immutable once published.
type Info struct {
	ID     ID
	Region string
	Zone   string
	Labels map[string]string
	State  State
	Models []embedding.Model // ready to serve
}
