package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/akidb/akidbd/internal/api"
	"github.com/akidb/akidbd/internal/api/admin"
	"github.com/akidb/akidbd/internal/config"
	"github.com/akidb/akidbd/internal/infer"
)

// reloads is how the last reload went, for status.
type reloads struct {
	mu           sync.Mutex
	failed       error // of the last one
	at           time.Time
	needsRestart []string
}

// Reload reads the configuration again and puts in force what may change while the node runs. What can be wrong is
// read and checked before anything changes: a configuration, a file of keys or a certificate that is of no use
// changes nothing. A model that cannot be loaded is told in the error; its version before serves on.
func (d *Daemon) Reload(ctx context.Context) (admin.Reloaded, error) {
	if d.opt.Load == nil {
		return admin.Reloaded{}, errors.New("this node was started without a way to read its configuration again")
	}
	defer d.manager.wait()()
	d.reloading.Lock()
	defer d.reloading.Unlock()
	if err := ctx.Err(); err != nil {
		return admin.Reloaded{}, err
	}
	if d.draining.Err() != nil {
		return admin.Reloaded{}, errors.New("this node is draining")
	}
	defer d.manager.reload()()
	done, err := d.takeOver(context.WithoutCancel(ctx)) // a client that leaves must not leave half a reload behind
	d.noteReload(done, err)
	return done, err
}

func (d *Daemon) takeOver(ctx context.Context) (done admin.Reloaded, err error) {
	old := d.cfg.Load()
	cfg, err := d.opt.Load()
	if err != nil {
		return done, err
	}
	if err := d.checkIdentity(); err != nil {
		return done, err
	}
	if err := d.api.Reload(d.apiConfig(cfg)); err != nil { // the last that can fail, and all or nothing itself
		return done, err
	}
	d.opt.Telemetry.Level.Set(cfg.Log.SlogLevel())
	d.server.SetDrain(time.Duration(cfg.DrainDelay), time.Duration(cfg.DrainTimeout))
	d.cfg.Store(cfg)
	done.Applied, _ = config.Changes(old, cfg)
	_, done.NeedsRestart = config.Changes(d.opt.Config, cfg)
	err = errors.Join(d.changePeers(cfg), d.changeModels(ctx, cfg))
	d.log.Info("configuration reloaded", "applied", done.Applied, "needs_restart", done.NeedsRestart)
	return done, err
}

// noteReload keeps for status and metrics how a reload went.
func (d *Daemon) noteReload(done admin.Reloaded, err error) {
	r := &d.reloads
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed, r.at = err, time.Now()
	if err != nil {
		d.metrics.reloadFailures.Inc()
		d.metrics.reloadSuccessful.Set(0)
		return
	}
	r.needsRestart = done.NeedsRestart
	d.metrics.reloadSuccessful.Set(1)
	d.metrics.reloadSuccess.Set(float64(r.at.Unix()))
	d.metrics.restartNeeded.Set(float64(len(done.NeedsRestart)))
}

// configCheck says whether the file is in force. It is for operators: a file that is wrong does not degrade what
// serves.
func (d *Daemon) configCheck() api.Check {
	r := &d.reloads
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.failed != nil:
		return api.Check{State: api.CheckFailing, Reason: fmt.Sprintf("the reload at %s failed: %v", r.at.Format(time.TimeOnly), r.failed)}
	case len(r.needsRestart) > 0:
		return api.Check{State: api.CheckOK, Reason: "changed in the file, but needs a restart: " + strings.Join(r.needsRestart, ", ")}
	}
	return api.Check{State: api.CheckOK}
}

// checkIdentity says what is wrong with the certificate files, if anything is.
func (d *Daemon) checkIdentity() error {
	if d.mesh == nil {
		return nil
	}
	return d.mesh.identity.Check()
}

// changePeers takes over the certificate files, which are watched besides, and the seeds.
func (d *Daemon) changePeers(cfg *config.Config) error {
	if d.mesh == nil {
		return nil
	}
	d.mesh.identity.Reload()
	return d.mesh.cluster.SetSeeds(cfg.Gossip.Seeds)
}

// changeModels installs what does not serve as it should: a new model, other content under the same path, other
// settings, or one that failed before. Then the aliases move, and what is gone is removed, unless something failed:
// the model that was to take its place may be the one that did.
func (d *Daemon) changeModels(ctx context.Context, cfg *config.Config) error {
	if d.sync != nil {
		d.sync.SetModels(cfg.SyncedModels())
	}
	wanted, aliases := allSettings(cfg), map[string][]string{}
	for _, info := range d.engine.Models() {
		aliases[info.Model.Name] = info.Aliases
	}
	var errs []error
	var serving, failed []string
	for _, m := range cfg.Models {
		s := wanted[m.Name]
		s.Aliases = aliases[m.Name]
		if err := d.install(ctx, m, s); err != nil {
			errs = append(errs, fmt.Errorf("model %s is not changed: %w", m.Name, err))
			if _, _, ok := d.engine.Serving(m.Name); !ok {
				failed = append(failed, m.Name)
				continue
			}
		}
		serving = append(serving, m.Name)
	}
	var kept []string
	for name := range aliases {
		if _, ok := wanted[name]; ok {
			continue
		}
		_, s, ok := d.engine.Serving(name)
		switch {
		case len(errs) == 0:
			d.engine.Remove(name)
		case ok:
			s.Aliases, kept = aliases[name], append(kept, name)
			wanted[name] = s
		}
	}
	if len(errs) > 0 {
		share(wanted, kept, slices.Concat(serving, kept, failed))
	}
	return errors.Join(append(errs, d.engine.Configure(wanted))...)
}

// share leaves each alias with the first of the models that claims it, and the reserved names with theirs.
func share(wanted map[string]infer.Settings, reserved, order []string) {
	taken := map[string]bool{}
	for _, name := range reserved {
		taken[name] = true
	}
	for _, name := range order {
		s := wanted[name]
		s.Aliases = slices.DeleteFunc(slices.Clone(s.Aliases), func(a string) bool { return taken[a] })
		for _, a := range s.Aliases {
			taken[a] = true
		}
		wanted[name] = s
	}
}
