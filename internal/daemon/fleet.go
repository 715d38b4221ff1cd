package daemon

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/akidb/akidbd/internal/api"
	"github.com/akidb/akidbd/internal/api/admin"
	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
	"github.com/akidb/akidbd/internal/router"
)

// Members is the fleet as this node sees it, itself first, then its own region, then the others; nothing for a lone
// node.
func (d *Daemon) Members() []node.Info {
	if d.mesh == nil {
		return nil
	}
	others := slices.Clone(d.mesh.directory.Nodes())
	slices.SortStableFunc(others, func(a, b node.Info) int {
		if own := d.self.Region; (a.Region == own) != (b.Region == own) {
			if a.Region == own {
				return -1
			}
			return 1
		}
		return cmp.Or(strings.Compare(a.Region, b.Region), strings.Compare(string(a.ID), string(b.ID)))
	})
	return append([]node.Info{d.Self()}, others...)
}

// Explain says who would be asked for a model now.
func (d *Daemon) Explain(model string) admin.Explanation {
	e := d.router.Explain(model)
	name, digest := embedding.SplitModel(e.Model)
	out := admin.Explanation{Model: embedding.Model{Name: name, Digest: digest}.String()}
	for _, c := range e.Candidates {
		out.Candidates = append(out.Candidates, admin.Candidate{
			Node: c.Node, Region: c.Region, Self: c.Local, Health: string(c.State),
			Reason: words(c.Reason, c.Detail), Latency: time.Duration(c.Score * float64(time.Second)),
		})
	}
	for _, c := range e.Excluded {
		out.Excluded = append(out.Excluded, admin.Candidate{Node: c.Node, Region: c.Region, Self: c.Node == string(d.self.ID), Reason: words(c.Reason, "")})
	}
	return out
}

// words is a reason as people read it.
func words(r router.Reason, detail string) string {
	text := strings.ReplaceAll(string(r), "_", " ")
	if detail != "" {
		text += ": " + detail
	}
	return text
}

// checkFleet is the health of the way to other regions.
func (d *Daemon) checkFleet() api.Check {
	if d.mesh == nil || !d.crossRegion() {
		return api.Check{State: api.CheckDisabled}
	}
	foreign, up := 0, 0
	for _, n := range d.mesh.directory.Nodes() {
		if n.Region != d.self.Region {
			foreign++
			if n.Link.Up {
				up++
			}
		}
	}
	switch {
	case foreign == 0:
		return api.Check{State: api.CheckDisabled}
	case up == 0:
		return api.Check{State: api.CheckFailing, Reason: "no link to another region is up"}
	}
	return api.Check{State: api.CheckOK}
}

// helped says whether a peer can answer in place of this node.
func (d *Daemon) helped() bool {
	if d.mesh == nil {
		return false
	}
	far := d.crossRegion()
	return slices.ContainsFunc(d.mesh.directory.Nodes(), func(n node.Info) bool {
		return (far || n.Region == d.self.Region) && answers(n)
	})
}

// Embed is the router's, but for a node that has just started. Before it met the others it does not know what the
// fleet serves, so a model that it does not have is asked for again when it did. A lone node has nobody else to ask:
// requests wait until its models were loaded, so that a restart behind a socket of systemd fails none.
func (d *Daemon) Embed(ctx context.Context, req embedding.Request) (embedding.Result, error) {
	res, err := d.router.Embed(ctx, req)
	if err == nil {
		return res, nil
	}
	var settled <-chan struct{}
	switch code := embedding.AsError(err).Code; {
	case d.mesh != nil && code == embedding.CodeModelNotFound:
		settled = d.mesh.directory.met
	case d.mesh == nil && code == embedding.CodeUnavailable:
		settled = d.loaded
	default:
		return res, err
	}
	select {
	case <-settled:
		return res, err
	default:
	}
	select {
	case <-settled:
	case <-d.draining.Done():
	case <-ctx.Done():
	}
	return d.router.Embed(ctx, req)
}
