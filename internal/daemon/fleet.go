package daemon

import (
	"github.com/akidb/akidbd/internal/api/admin"
	"github.com/akidb/akidbd/internal/node"
)

// Members is the fleet as this node sees it, itself first; nothing for a lone node.
func (d *Daemon) Members() []node.Info { return nil }

// Explain says who would be asked for a model now.
func (d *Daemon) Explain(string) admin.Explanation {
	return admin.Explanation{}
}
