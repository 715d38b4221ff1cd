package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/akidb/akidbd/internal/config"
	"github.com/akidb/akidbd/internal/gossip"
	"github.com/akidb/akidbd/internal/node"
	"github.com/akidb/akidbd/internal/peer"
	"github.com/akidb/akidbd/internal/pki"
	"github.com/akidb/akidbd/internal/router"
)

// mesh is what a node with peers has besides: who it is, its links, who is there.
type mesh struct {
	identity  *pki.Identity
	links     *peer.Links
	cluster   *gossip.Cluster
	directory *directory
	address   *address
	log       *slog.Logger
	ran       bool // the links were run, and closed by that
}

// openIdentity reads the certificate of a node that has peers. The certificate says the node's name and region,
// and the configuration must not say others.
func (d *Daemon) openIdentity(cfg *config.Config) (err error) {
	if !cfg.Meshed() {
		return nil
	}
	d.mesh = &mesh{directory: newDirectory(), log: d.log}
	d.mesh.identity, err = pki.Open(pki.Config{
		Dir: cfg.PKI.Dir, Poll: d.opt.PollFiles, RenewURL: cfg.PKI.RenewURL, Logger: d.log, Registerer: d.opt.Telemetry.Registry,
	})
	if err != nil {
		return err
	}
	id, region := d.mesh.identity.Self()
	if cfg.Node.Name != "" && cfg.Node.Name != string(id) {
		return fmt.Errorf("node.name is %q, but the certificate in %s is of %q: remove the key or bring the right certificate", cfg.Node.Name, cfg.PKI.Dir, id)
	}
	if cfg.Node.Region != config.Default().Node.Region && cfg.Node.Region != region {
		return fmt.Errorf("node.region is %q, but the certificate in %s is of %q: remove the key or bring the right certificate", cfg.Node.Region, cfg.PKI.Dir, region)
	}
	d.self.ID, d.self.Region = id, region
	return nil
}

// wireMesh makes the links and gossip over them.
func (d *Daemon) wireMesh(cfg *config.Config) (err error) {
	if d.mesh == nil {
		return nil
	}
	if d.epoch, err = nextEpoch(cfg.StateDir, time.Now()); err != nil {
		return fmt.Errorf("state_dir: %w", err)
	}
	m, reg := d.mesh, d.opt.Telemetry.Registry
	m.links, err = peer.New(peer.Config{
		Address: cfg.Peer.Address, PacketConn: d.opt.PacketConn, StateDir: cfg.StateDir, MaxForeign: cfg.Peer.MaxForeign,
		Self: d.Self, Admit: d.admit, MaxBlobs: blobsAtOnce, Logger: d.log, Registerer: reg,
	}, m.identity, tracedEngine{engine: d.engine, tracer: d.tracer(), served: true, region: d.self.Region})
	if err != nil {
		return fmt.Errorf("peer.address %s: %w", cfg.Peer.Address, err)
	}
	m.address = newAddress(cfg.Peer.Advertise, m.links.Addr(), func() []string { return d.cfg.Load().Gossip.Seeds }, thisMachine{})
	self := d.self
	self.Addr = m.address.String()
	m.cluster, err = gossip.New(gossip.Config{
		Self: self, Seeds: cfg.Gossip.Seeds, StateDir: cfg.StateDir, Word: d.word, Logger: d.log, Registerer: reg,
	}, m.links)
	if err != nil {
		return err
	}
	m.links.OnGossip(m.cluster.Packet, m.cluster.Stream)
	m.links.OnBlob(d.giveBlob)
	m.links.OnChange(func() {
		m.directory.changed()
		if d.sync != nil {
			d.sync.Changed()
		}
	})
	m.cluster.OnChange(func() {
		m.links.SetMembers(m.cluster.Nodes())
		m.directory.changed()
	})
	return nil
}

// newRouter makes the router: over the fleet, or over this node's engine alone.
func (d *Daemon) newRouter(cfg *config.Config) *router.Router {
	c := router.Config{
		Self: d.self, Word: d.word, Attempts: cfg.Router.Attempts, TryTimeout: time.Duration(cfg.Router.TryTimeout),
		Deadline: time.Duration(cfg.API.Deadline), SpillAfter: time.Duration(cfg.Router.SpillAfter), ShardTokens: cfg.Router.ShardTokens,
		CrossRegion: d.crossRegion,
		Registerer:  d.opt.Telemetry.Registry,
	}
	here := tracedEngine{engine: d.engine, tracer: d.tracer()}
	if d.mesh == nil {
		return router.New(c, here, nil, nil)
	}
	there := tracedForwarder{there: d.mesh.links, tracer: d.tracer(), region: d.self.Region}
	return router.New(c, here, there, d.mesh.directory)
}

// crossRegion says whether nodes of other regions may be asked.
func (d *Daemon) crossRegion() bool { return d.cfg.Load().Router.CrossRegion == "on" }

// Self is this node as the others see it.
func (d *Daemon) Self() node.Info {
	self := d.self
	self.Word = d.word()
	if d.mesh != nil && d.mesh.address != nil {
		self.Addr = d.mesh.address.String()
	}
	return self
}

// runMesh runs what part of a mesh there is; a lone node has none and waits.
func (d *Daemon) runMesh(run func(*mesh, context.Context) error) func(context.Context, func()) error {
	return func(ctx context.Context, ready func()) error {
		ready()
		if d.mesh == nil {
			<-ctx.Done()
			return nil
		}
		return run(d.mesh, ctx)
	}
}

func (m *mesh) runIdentity(ctx context.Context) error { return m.identity.Run(ctx) }
func (m *mesh) runGossip(ctx context.Context) error   { return m.cluster.Run(ctx) }

func (m *mesh) runLinks(ctx context.Context) error {
	m.ran = true
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() {
		m.address.run(ctx, m.log, m.links.Observed, func() {
			m.links.Moved()
			m.cluster.SetAddr(m.address.String())
		})
	})
	return m.links.Run(ctx)
}

func (m *mesh) runDirectory(ctx context.Context) error {
	m.directory.run(ctx, m.cluster.Nodes, m.links.Peers)
	return nil
}

func (d *Daemon) runRouter(ctx context.Context, ready func()) error {
	ready()
	return d.router.Run(ctx)
}

// tell sends this node's word to the fleet now: its state or its models changed.
func (d *Daemon) tell() {
	if d.mesh != nil {
		d.mesh.links.Tell()
		d.mesh.cluster.Tell()
	}
}

// close undoes what was made; a stage that ran has done so itself.
func (m *mesh) close() error {
	if m == nil || m.links == nil || m.ran {
		return nil
	}
	return m.links.Close()
}
