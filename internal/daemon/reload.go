package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/akidb/akidbd/internal/api/admin"
	"github.com/akidb/akidbd/internal/config"
)

// Reload reads the configuration again and puts in force what may change while the node runs. A configuration
// that cannot be read or is invalid changes nothing. A model that cannot be loaded is told in the error; its
// version before serves on.
func (d *Daemon) Reload(ctx context.Context) (admin.Reloaded, error) {
	if d.opt.Load == nil {
		return admin.Reloaded{}, errors.New("this node was started without a way to read its configuration again")
	}
	d.reloading.Lock()
	defer d.reloading.Unlock()
	if err := ctx.Err(); err != nil {
		return admin.Reloaded{}, err
	}
	if d.draining.Err() != nil {
		return admin.Reloaded{}, errors.New("this node is draining")
	}
	ctx = context.WithoutCancel(ctx) // a client that leaves must not leave half a reload behind
	old := d.cfg.Load()
	cfg, err := d.opt.Load()
	if err == nil {
		err = d.api.Reload(d.apiConfig(cfg))
	}
	if err != nil {
		d.metrics.reloadFailures.Inc()
		return admin.Reloaded{}, err
	}
	d.opt.Telemetry.Level.Set(cfg.Log.SlogLevel())
	d.server.SetDrain(time.Duration(cfg.DrainDelay), time.Duration(cfg.DrainTimeout))
	d.cfg.Store(cfg)
	err = d.changeModels(ctx, old, cfg)
	if err != nil {
		d.metrics.reloadFailures.Inc()
	}
	var done admin.Reloaded
	done.Applied, _ = config.Changes(old, cfg)
	_, done.NeedsRestart = config.Changes(d.opt.Config, cfg)
	d.log.Info("configuration reloaded", "applied", done.Applied, "needs_restart", done.NeedsRestart)
	return done, err
}

// changeModels removes what is gone and installs what does not serve as it should: a new model, other content
// under the same path, other settings, or one that failed before.
func (d *Daemon) changeModels(ctx context.Context, old, cfg *config.Config) error {
	wanted := allSettings(cfg)
	for _, m := range old.Models {
		if _, ok := wanted[m.Name]; !ok {
			d.engine.Remove(m.Name)
		}
	}
	errs := []error{d.engine.Configure(wanted)}
	for _, m := range cfg.Models {
		if err := d.install(ctx, cfg, m); err != nil {
			errs = append(errs, fmt.Errorf("model %s is not changed: %w", m.Name, err))
		}
	}
	return errors.Join(errs...)
}
