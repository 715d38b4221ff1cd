package daemon

import (
	"context"
	"reflect"
	"slices"
	"time"

	"github.com/akidb/akidbd/internal/config"
	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/node"
	"github.com/akidb/akidbd/internal/store"
	"github.com/akidb/akidbd/internal/sync/hub"
)

func engineConfig(opt Options) infer.Config {
	c := opt.Config.Engine
	return infer.Config{
		Open:        opt.Open,
		Options:     infer.Options{Providers: c.Providers, Threads: c.Threads, CacheDir: opt.Config.CacheDir},
		BatchTokens: c.BatchTokens, QueueTokens: c.QueueTokens, Wide: infer.WideMode(c.Wide),
		RunTimeout: time.Duration(c.RunTimeout), LoadTimeout: time.Duration(c.LoadTimeout),
		Linger: time.Duration(opt.Config.API.Deadline), Hold: hold(opt.Config), Unload: c.Swap == "unload",
		Logger: opt.Telemetry.Logger, Registerer: opt.Telemetry.Registry,
	}
}

// hold is how long requests wait for a model whose process died: a node without peers has nobody else to ask.
func hold(c *config.Config) time.Duration {
	switch {
	case c.Engine.Hold > 0:
		return time.Duration(c.Engine.Hold)
	case c.Meshed():
		return 0 // the engine's default
	}
	return time.Duration(c.API.Deadline)
}

func (d *Daemon) runModels(ctx context.Context, ready func()) error {
	d.reloading.Lock() // a reload waits for the first load
	cfg := d.cfg.Load()
	if err := d.engine.Configure(allSettings(cfg)); err != nil { // before a request comes: a model that loads is not one that is unknown
		d.reloading.Unlock()
		return err
	}
	ready()
	d.loadModels(ctx, cfg)
	d.reloading.Unlock()
	<-ctx.Done()
	return nil
}

// loadModels brings the configured models into the engine, one after the other. The node is Ready when each was
// tried and one answers; a model that fails leaves the others serving.
func (d *Daemon) loadModels(ctx context.Context, cfg *config.Config) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.draining, cancel)()
	for _, m := range cfg.Models {
		if m.Path == "" {
			continue
		}
		if err := d.install(ctx, m, settings(cfg, m)); err != nil && ctx.Err() == nil {
			d.log.Error("model is not served", "model", m.Name, "path", m.Path, "err", err)
		}
	}
	if d.sync != nil {
		_ = d.sync.Load(ctx) // it has told of those that do not load
	}
	if ctx.Err() == nil {
		d.state.CompareAndSwap(node.Starting, node.Ready) // not when it drains already
		d.tell()
		close(d.loaded)
	}
}

// install copies a model into the store, where nobody else writes, and serves it from there. One that serves
// already, same content and same settings, is left alone.
func (d *Daemon) install(ctx context.Context, m config.Model, s infer.Settings) error {
	if m.Path == "" {
		return d.installSynced(ctx, m, s)
	}
	started := time.Now()
	entry, err := d.bringIn(ctx, m)
	if err != nil {
		d.engine.Fail(m.Name, err)
		return err
	}
	d.log.Debug("model is in the store", "model", entry.Model, "dir", entry.Dir, "bytes", entry.Bytes, "seconds", time.Since(started).Seconds())
	if now, with, ok := d.engine.Serving(m.Name); ok && now.Digest == entry.Model.Digest && alike(with, s) {
		return nil
	}
	entry.Model.Precision = m.Precision
	d.installs.Lock()
	defer d.installs.Unlock()
	return d.engine.Install(ctx, entry.Model, entry.Dir, s)
}

// bringIn puts a configured model into the store.
func (d *Daemon) bringIn(ctx context.Context, m config.Model) (store.Entry, error) {
	if hub.Is(m.Path) {
		return d.fromHub(ctx, m)
	}
	return d.store.Import(ctx, m.Name, m.Path, nil)
}

// alike says whether two settings need no other load: aliases are moved without one.
func alike(a, b infer.Settings) bool {
	a.Aliases, b.Aliases = nil, nil
	return reflect.DeepEqual(a, b)
}

func allSettings(cfg *config.Config) map[string]infer.Settings {
	all := make(map[string]infer.Settings, len(cfg.Models))
	for _, m := range cfg.Models {
		all[m.Name] = settings(cfg, m)
	}
	return all
}

func settings(cfg *config.Config, m config.Model) infer.Settings {
	aliases := slices.Clone(m.Aliases)
	if cfg.DefaultModel() == m.Name && m.Name != embedding.DefaultModel && !slices.Contains(aliases, embedding.DefaultModel) {
		aliases = append(aliases, embedding.DefaultModel)
	}
	return infer.Settings{
		Aliases: aliases, Pooling: m.Pooling, MaxTokens: m.MaxTokens, Normalize: m.Normalize, Truncate: m.Truncate,
		Precision: m.Precision, Prompts: m.Prompts, DefaultPrompt: m.DefaultPrompt,
	}
}
