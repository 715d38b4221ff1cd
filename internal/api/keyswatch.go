package api

import (
	"context"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Times of the watch over the keys file.
const (
	keysPoll   = 30 * time.Second       // a look in any case: network file systems notify of nothing
	keysSettle = 200 * time.Millisecond // editors write in several steps
)

// Run watches the keys file until ctx ends and reloads it when it changed. It watches the directory, for
// editors and Kubernetes replace the file. Without a keys file it waits for a Reload that brings one.
func (a *API) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		path := a.current.Load().cfg.KeysFile
		if path == "" {
			select {
			case <-ctx.Done():
			case <-a.rewatch:
			}
			continue
		}
		if err := a.watch(ctx, path); err != nil {
			a.log.Warn("changes of the api keys file are not notified, it is looked at every 30 s", "path", path, "err", err)
			a.watchKeys(ctx, path, nil, nil)
		}
	}
	return nil
}

// watch watches path until ctx ends or KeysFile becomes another one.
func (a *API) watch(ctx context.Context, path string) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer watcher.Close()
	if err := watcher.Add(filepath.Dir(path)); err != nil {
		return err
	}
	a.watchKeys(ctx, path, watcher.Events, watcher.Errors)
	return nil
}

func (a *API) watchKeys(ctx context.Context, path string, events <-chan fsnotify.Event, errs <-chan error) {
	poll := time.NewTicker(keysPoll)
	defer poll.Stop()
	settled := time.NewTimer(keysSettle) // the file may have changed between its reading and the watch
	defer settled.Stop()
	last := a.keys.Load().fingerprint()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.rewatch:
			return
		case <-events:
			settled.Reset(keysSettle)
			continue
		case err := <-errs:
			a.log.Warn("watch the api keys file: changes are found by polling", "error", err, "poll_seconds", keysPoll.Seconds())
			continue
		case <-settled.C:
		case <-poll.C:
		}
		last = a.reloadIfChanged(path, last)
	}
}

// reloadIfChanged reloads the keys file if its content differs from what was seen last, so that a bad file is
// counted and logged once.
func (a *API) reloadIfChanged(path, last string) string {
	now := fileFingerprint(path)
	if now == last || now == a.keys.Load().fingerprint() {
		return now
	}
	if err := a.ReloadKeys(); err != nil {
		a.log.Error("the api keys file cannot be used: the old keys stay in force", "error", err)
		return now
	}
	a.log.Info("api keys reloaded", "path", path, "keys", a.keys.Load().Len())
	return now
}
