// Package daemon wires one node: it alone sees the whole. Everything is made in New, in one straight line, and
// lives in Run as stages that start in order and stop in reverse. It owns no flags and no signals; everything
// in it can run twice in one process.
package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/akidb/akidbd/internal/api"
	"github.com/akidb/akidbd/internal/api/admin"
	"github.com/akidb/akidbd/internal/config"
	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/node"
	"github.com/akidb/akidbd/internal/router"
	"github.com/akidb/akidbd/internal/store"
	"github.com/akidb/akidbd/internal/telemetry"
)

// Options is what the machine gives the node.
type Options struct {
	Config     *config.Config
	ConfigFile string // where Config came from, for status; "" when there is none
	// Load reads the configuration again, for a reload. nil: a reload is refused.
	Load      func() (*config.Config, error)
	Open      infer.Open // the real backend
	Telemetry *telemetry.Telemetry
	Version   string
	Board     string // of a machine that is made for computing on its GPU; "" for others

	Listeners []net.Listener           // bound by the service manager, for entries of listen with their addresses
	Notify    func(state string) error // tells the service manager, in the words of sd_notify(3); nil: there is none
	Watchdog  time.Duration            // how long the service manager waits for a sign of life; 0: it does not watch

	PacketConn net.PacketConn // carries the links instead of a socket at peer.address, for simulated networks; the node closes it
	NoAdmin    bool           // no control socket
	PollFiles  bool           // the certificate's files are not watched, but looked at every 30 s
}

// Daemon is one node.
type Daemon struct {
	opt     Options
	cfg     atomic.Pointer[config.Config] // changes with a reload
	log     *slog.Logger
	self    node.Info
	started time.Time

	store     *store.Store
	engine    *infer.Engine
	mesh      *mesh   // nil for a lone node
	sync      *syncer // nil where models cannot arrive by themselves
	router    *router.Router
	api       *api.API
	server    *api.Server
	admin     *admin.Server // nil without a control socket
	listeners []net.Listener

	state       atomic.Value    // node.State
	drained     atomic.Bool     // an operator took the node out of service
	draining    context.Context // ends when the drain begins
	stopLoading context.CancelFunc

	loaded chan struct{} // closed when every configured model was tried once

	epoch   uint64 // of this process among the starts of the node
	speaker speaker

	reloading sync.Mutex // held while models are brought in
	installs  sync.Mutex // held while one is put into the engine
	reloads   reloads
	manager   *manager
	metrics   metrics
}

// New makes the node and binds its listeners, so that what cannot be had is said at once. Run must follow.
func New(opt Options) (*Daemon, error) {
	cfg := opt.Config
	name, err := cfg.NodeName(os.Hostname)
	if err != nil {
		return nil, err
	}
	d := &Daemon{
		opt: opt, log: opt.Telemetry.Logger, started: time.Now(), loaded: make(chan struct{}),
		metrics: newMetrics(opt.Telemetry.Registry),
		self:    node.Info{ID: node.ID(name), Region: cfg.Node.Region, Zone: cfg.Node.Zone, Labels: cfg.Node.Labels, Version: opt.Version},
	}
	d.cfg.Store(cfg)
	d.manager = newManager(d)
	if err := d.openIdentity(cfg); err != nil {
		return nil, err
	}
	if err := d.startTracing(cfg); err != nil {
		return nil, err
	}
	d.draining, d.stopLoading = context.WithCancel(context.Background())
	d.setState(node.Starting)
	if err := d.wire(cfg); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// wire makes the parts, each from those before it.
func (d *Daemon) wire(cfg *config.Config) (err error) {
	if d.store, err = store.Open(filepath.Join(cfg.StateDir, "models")); err != nil {
		return err
	}
	if d.engine, err = infer.New(engineConfig(d.opt)); err != nil {
		return err
	}
	if err := d.wireMesh(cfg); err != nil {
		return err
	}
	if err := d.wireSync(cfg); err != nil {
		return err
	}
	d.router = d.newRouter(cfg)
	if d.api, err = api.New(d.apiConfig(cfg), d, d); err != nil {
		return err
	}
	d.server = d.newServer(cfg)
	if err := d.listen(); err != nil {
		return err
	}
	if !d.opt.NoAdmin {
		d.admin, err = d.newAdmin(cfg)
	}
	return err
}

// close undoes New.
func (d *Daemon) close() error {
	var errs []error
	for _, ln := range d.listeners {
		if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, d.mesh.close())
	if d.store != nil {
		errs = append(errs, d.store.Close())
	}
	return errors.Join(errs...)
}

// Addrs are the addresses of the listeners, in the order of the configuration.
func (d *Daemon) Addrs() []net.Addr {
	addrs := make([]net.Addr, len(d.listeners))
	for i, ln := range d.listeners {
		addrs[i] = ln.Addr()
	}
	return addrs
}

// Loaded is closed when every configured model was tried once, with or without success.
func (d *Daemon) Loaded() <-chan struct{} { return d.loaded }

// Run serves until ctx ends, then drains: readiness turns to 503, drain_delay passes for load balancers to
// notice, requests in flight are answered, the rest stops.
func (d *Daemon) Run(ctx context.Context) error {
	d.log.Info("node starts", "node", d.self.ID, "region", d.self.Region, "version", d.opt.Version, "pid", os.Getpid())
	err := runStages(ctx, d.log, d.grace,
		stage{"service manager", d.runManager},
		stage{"identity", d.runMesh((*mesh).runIdentity)},
		stage{"engine", d.runEngine},
		stage{"links", d.runMesh((*mesh).runLinks)},
		stage{"directory", d.runMesh((*mesh).runDirectory)},
		stage{"gossip", d.runMesh((*mesh).runGossip)},
		stage{"router", d.runRouter},
		stage{"models", d.runModels}, // stops after the API: a load that cannot be interrupted must not cut off requests
		stage{"sync", d.runSync},     // its work ends when the drain begins
		stage{"admin", d.runAdmin},
		stage{"api", d.runAPI},
		stage{"api keys", d.runKeys},
		stage{"drain", d.runDrain},
		stage{"announcement", d.runAnnounce},
	)
	err = errors.Join(err, d.close())
	d.log.Info("node stopped", "node", d.self.ID)
	return err
}

// stopGrace is for what stops after the last request is answered.
const stopGrace = 5 * time.Second

// grace is how long a stop may take.
func (d *Daemon) grace() time.Duration {
	cfg := d.cfg.Load()
	return time.Duration(cfg.DrainDelay+cfg.DrainTimeout) + stopGrace
}

func (d *Daemon) runEngine(ctx context.Context, ready func()) error {
	ready()
	return d.engine.Run(ctx)
}

func (d *Daemon) runKeys(ctx context.Context, ready func()) error {
	ready()
	return d.api.Run(ctx)
}

// runDrain is there for its stop, which comes before the API's: readiness turns to 503 while the API still
// serves for its drain_delay, and models stop being loaded.
func (d *Daemon) runDrain(ctx context.Context, ready func()) error {
	ready()
	<-ctx.Done()
	d.setState(node.Draining)
	d.tell()
	d.stopLoading()
	d.log.Info("draining", "delay_seconds", time.Duration(d.cfg.Load().DrainDelay).Seconds())
	return nil
}

func (d *Daemon) setState(s node.State) { d.state.Store(s) }

// nodeState is what this node says of itself.
func (d *Daemon) nodeState() node.State {
	if d.drained.Load() {
		return node.Draining
	}
	return d.state.Load().(node.State)
}

// SetDrain takes this node out of service, or back in, while it runs on.
func (d *Daemon) SetDrain(drain bool) (node.State, error) {
	if d.draining.Err() != nil {
		return "", errors.New("this node is shutting down")
	}
	if d.drained.Swap(drain) != drain {
		d.tell()
		d.log.Info("drain was changed by an operator", "drain", drain, "state", d.nodeState())
	}
	return d.nodeState(), nil
}
