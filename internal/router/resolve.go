package router

import (
	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

// resolved is the model that a request's name leads to, one for all attempts, hedges and parts.
type resolved struct {
	embedding.Model
	ok    bool
	asked string // what every node is asked: name@digest, the digest in full
	by    string // who says so: byThisNode or byFleet
}

// Who resolved a model.
const (
	byThisNode = "this_node"
	byFleet    = "fleet"
	byNobody   = "nobody"
)

// resolve finds what the name leads to: what this node serves under it, else what became active last among the
// nodes that can be reached and stay, else among all. A digest that is gone is passed over.
func (r *Router) resolve(asked, gone string) resolved {
	own := r.cfg.Word()
	if s := newest(nil, own.Models, asked, gone); s != nil {
		return pin(s, byThisNode)
	}
	var best, any *node.Served
	cross := r.cfg.CrossRegion()
	f := r.nodes()
	for i := range f.nodes {
		n := &f.nodes[i]
		if n.Word.State == node.Starting || n.Region != r.cfg.Self.Region && !cross {
			continue
		}
		any = newest(any, n.Word.Models, asked, gone)
		if n.Link.Up && n.Word.State == node.Ready {
			best = newest(best, n.Word.Models, asked, gone)
		}
	}
	if best == nil {
		best = any
	}
	if best == nil {
		return resolved{by: byNobody, asked: asked}
	}
	return pin(best, byFleet)
}

// newest is the model among best and models that answers and became active last; the digest decides between equals,
// so that all nodes decide alike.
func newest(best *node.Served, models []node.Served, asked, gone string) *node.Served {
	for i := range models {
		s := &models[i]
		if !s.Answers(asked) || gone != "" && s.Digest == gone {
			continue
		}
		if best == nil || s.Since > best.Since || s.Since == best.Since && s.Digest > best.Digest {
			best = s
		}
	}
	return best
}

func pin(s *node.Served, by string) resolved {
	return resolved{Model: s.Model, ok: true, by: by, asked: s.Pinned()}
}
