package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/akidb/akidbd/internal/api"
	"github.com/akidb/akidbd/internal/api/admin"
	"github.com/akidb/akidbd/internal/config"
)

func (d *Daemon) apiConfig(cfg *config.Config) api.Config {
	tel := d.opt.Telemetry
	return api.Config{
		NodeName: string(d.self.ID), Region: d.self.Region, Version: d.opt.Version,
		MaxBodyBytes: int64(cfg.API.MaxBody), MaxInputs: cfg.API.MaxInputs, MaxInputBytes: int(cfg.API.MaxInputBytes),
		Deadline: time.Duration(cfg.API.Deadline), RetryAfter: time.Duration(cfg.API.RetryAfter), TokenIDs: cfg.API.TokenIDs,
		KeysFile: cfg.API.KeysFile, RequireKeyForMetrics: cfg.Metrics.RequireKey,
		Logger: tel.Logger, Registerer: tel.Registry, Gatherer: tel.Registry, Tracer: d.tracer(),
	}
}

func (d *Daemon) newServer(cfg *config.Config) *api.Server {
	return api.NewServer(api.ServerConfig{
		DrainDelay: time.Duration(cfg.DrainDelay), Grace: time.Duration(cfg.DrainTimeout), Logger: d.log,
	}, d.api.Handler())
}

func (d *Daemon) runAPI(ctx context.Context, ready func()) error {
	for _, ln := range d.listeners {
		d.log.Info("listening", "address", ln.Addr().String())
	}
	ready()
	return d.server.Run(ctx, d.listeners...)
}

func (d *Daemon) newAdmin(cfg *config.Config) (*admin.Server, error) {
	if err := os.MkdirAll(filepath.Dir(cfg.Admin.Socket), 0o755); err != nil {
		return nil, fmt.Errorf("admin.socket: %w", err)
	}
	s, err := admin.New(admin.Config{Path: cfg.Admin.Socket, Started: d.started, Sync: d.adminSync(), Logger: d.log}, d)
	if err != nil {
		return nil, err
	}
	return s, s.Listen()
}

func (d *Daemon) runAdmin(ctx context.Context, ready func()) error {
	ready()
	if d.admin == nil {
		<-ctx.Done()
		return nil
	}
	return d.admin.Run(ctx)
}

// Status is what `akidbd status` shows.
func (d *Daemon) Status() admin.Status {
	h := d.Health()
	s := admin.Status{
		Node: h.Node, Region: h.Region, Cluster: h.Cluster, Version: h.Version,
		State: string(d.nodeState()), Reason: h.Reason, Health: string(h.Status),
		LogLevel: d.opt.Telemetry.Level.Level(), ConfigFile: d.opt.ConfigFile,
	}
	for i, ln := range d.listeners {
		for _, role := range d.opt.Config.Listen[i].Roles {
			s.Listeners = append(s.Listeners, admin.Listener{Role: role, Address: ln.Addr().String()})
		}
	}
	if d.mesh != nil {
		s.Listeners = append(s.Listeners, admin.Listener{Role: "links", Address: d.mesh.links.Addr().String() + "/udp", TLS: true})
	}
	if d.admin != nil {
		s.Listeners = append(s.Listeners, admin.Listener{Role: "admin", Address: d.opt.Config.Admin.Socket})
	}
	loads, workers := d.engine.Loads(), d.engine.Workers()
	for _, info := range d.engine.Models() {
		l := loads[info.Model.Name]
		w := workers[info.Model.Name]
		s.Models = append(s.Models, admin.Model{
			ModelInfo: info, QueueRequests: l.Inputs, QueueTokens: l.Tokens, QueueDelay: l.Delay,
			WorkerPID: w.PID, WorkerRSS: w.RSS, WorkerRestarts: w.Restarts,
		})
	}
	for name, c := range h.Checks {
		s.Checks = append(s.Checks, admin.Check{Name: name, State: string(c.State), Reason: c.Reason})
	}
	c := d.configCheck()
	s.Checks = append(s.Checks, admin.Check{Name: "configuration", State: string(c.State), Reason: c.Reason})
	slices.SortFunc(s.Checks, func(a, b admin.Check) int { return strings.Compare(a.Name, b.Name) })
	return s
}

// SetLogLevel changes the level until the next reload.
func (d *Daemon) SetLogLevel(level slog.Level) (previous slog.Level) {
	previous = d.opt.Telemetry.Level.Level()
	d.opt.Telemetry.Level.Set(level)
	return previous
}
