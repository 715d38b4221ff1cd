package daemon

import (
	"context"
	"errors"
	"fmt"
	"reflect"
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
	done.Applied, done.NeedsRestart = config.Changes(old, cfg)
	d.log.Info("configuration reloaded", "applied", done.Applied, "needs_restart", done.NeedsRestart)
	return done, err
}

// changeModels installs what is new or different and removes what is gone.
func (d *Daemon) changeModels(ctx context.Context, old, cfg *config.Config) error {
	before := map[string]config.Model{}
	for _, m := range old.Models {
		before[m.Name] = m
	}
	kept := map[string]bool{}
	for _, m := range cfg.Models {
		kept[m.Name] = true
	}
	for name := range before {
		if !kept[name] {
			d.engine.Remove(name)
		}
	}
	var errs []error
	for _, m := range cfg.Models {
		was, known := before[m.Name]
		if known && reflect.DeepEqual(settings(old, was), settings(cfg, m)) && was.Path == m.Path {
			continue
		}
		if err := d.install(ctx, cfg, m); err != nil {
			errs = append(errs, fmt.Errorf("model %s is not changed: %w", m.Name, err))
		}
	}
	return errors.Join(errs...)
}
