package pki

import (
	"context"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	poll   = 30 * time.Second       // a look in any case: network file systems tell of nothing
	settle = 200 * time.Millisecond // files that belong together come one after the other
	ageing = 12 * time.Hour         // between warnings of a certificate that nobody renews
)

// watch reloads when something changed in the directory, or in the one above where the directory itself may be
// swapped, until ctx ends.
func (i *Identity) watch(ctx context.Context) {
	var events chan fsnotify.Event
	var errs chan error
	above := filepath.Dir(filepath.Clean(i.cfg.Dir))
	base := filepath.Base(filepath.Clean(i.cfg.Dir))
	var w *fsnotify.Watcher
	if !i.cfg.Poll {
		var err error
		if w, err = fsnotify.NewWatcher(); err == nil {
			defer w.Close()
			if err = w.Add(i.cfg.Dir); err == nil {
				events, errs = w.Events, w.Errors
				_ = w.Add(above) // without it the poll finds a swap
			}
		}
		if err != nil {
			i.log.Warn("changes of the certificate directory are found by polling", "dir", i.cfg.Dir, "err", err, "poll_seconds", poll.Seconds())
		}
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	settled := time.NewTimer(settle) // files may have changed between Open and the watch
	defer settled.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			inside := filepath.Dir(e.Name) == filepath.Clean(i.cfg.Dir)
			if !inside && filepath.Base(e.Name) != base {
				continue
			}
			if !inside { // the name now leads to another directory
				_ = w.Remove(i.cfg.Dir)
				_ = w.Add(i.cfg.Dir)
			}
			settled.Reset(settle)
			continue
		case err := <-errs:
			i.log.Warn("watch of the certificate directory: changes are found by polling", "dir", i.cfg.Dir, "err", err)
			continue
		case <-settled.C:
		case <-tick.C:
		}
		i.reload()
		i.warnOfAge()
	}
}

// warnOfAge tells when less than a third of the certificate's life is left, which no renewal that works lets
// happen, and again every 12 hours.
func (i *Identity) warnOfAge() {
	leaf, now := i.now.Load().chain[0], time.Now()
	left := leaf.NotAfter.Sub(now)
	ended := left <= 0
	if left > leaf.NotAfter.Sub(leaf.NotBefore)/3 || now.Sub(i.warned) < ageing && ended == i.ended {
		return
	}
	i.warned, i.ended = now, ended
	if ended {
		i.log.Error("this node's certificate has ended: other nodes refuse it; set the clock if it is wrong, or bring a new certificate",
			"dir", i.cfg.Dir, "not_after", leaf.NotAfter, "clock", now)
		return
	}
	i.log.Warn("this node's certificate ends soon and was not renewed", "dir", i.cfg.Dir, "not_after", leaf.NotAfter, "left", left.Round(time.Minute))
}
