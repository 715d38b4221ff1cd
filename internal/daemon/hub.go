package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"github.com/akidb/akidbd/internal/atomicfile"
	"github.com/akidb/akidbd/internal/config"
	"github.com/akidb/akidbd/internal/store"
	"github.com/akidb/akidbd/internal/sync/hub"
)

// hubRecord is what a reference to the Hub led to last. It spares a start the download, and with a commit for
// revision even the question.
type hubRecord struct {
	Ref    string `json:"ref"`
	Commit string `json:"commit"`
	Digest string `json:"digest"`
}

// fromHub puts a model of the Hub into the store. When the Hub cannot be asked, what it led to last serves on.
func (d *Daemon) fromHub(ctx context.Context, m config.Model) (store.Entry, error) {
	ref, err := hub.ParseRef(m.Path)
	if err != nil {
		return store.Entry{}, err
	}
	dir := filepath.Join(d.opt.Config.StateDir, "hub", m.Name)
	record := filepath.Join(dir, "fetched.json")
	last, lastEntry, have := d.lastFromHub(record, m.Name, ref)
	if have && ref.Pinned() {
		return lastEntry, nil
	}
	client := hub.FromEnv(os.Getenv)
	listing, err := client.List(ctx, ref)
	switch {
	case err != nil && have && ctx.Err() == nil:
		d.log.Warn("the Hub cannot be asked, the model that it gave last is used", "model", m.Name, "from", ref.String(), "commit", last.Commit, "err", err)
		return lastEntry, nil
	case err != nil:
		return store.Entry{}, err
	case have && listing.Commit == last.Commit:
		return lastEntry, nil
	}
	d.log.Info("model is fetched from the Hub", "model", m.Name, "from", ref.String(), "commit", listing.Commit, "files", len(listing.Files), "bytes", listing.Bytes())
	files := filepath.Join(dir, "files")
	if err := client.Fetch(ctx, listing, files, nil); err != nil {
		return store.Entry{}, err
	}
	entry, err := d.store.Import(ctx, m.Name, files, nil)
	if err != nil {
		return store.Entry{}, err
	}
	data, err := json.Marshal(hubRecord{Ref: ref.String(), Commit: listing.Commit, Digest: entry.Model.Digest})
	if err == nil {
		err = errors.Join(atomicfile.Write(record, data, 0o640), os.RemoveAll(files)) // the store has them
	}
	if err != nil {
		d.log.Warn("what was fetched from the Hub cannot be remembered", "model", m.Name, "err", err)
	}
	return entry, nil
}

func (d *Daemon) lastFromHub(path, name string, ref hub.Ref) (hubRecord, store.Entry, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return hubRecord{}, store.Entry{}, false
	}
	var r hubRecord
	if err := json.Unmarshal(data, &r); err != nil || r.Ref != ref.String() {
		return hubRecord{}, store.Entry{}, false
	}
	entry, err := d.store.Lookup(name, r.Digest)
	return r, entry, err == nil
}
