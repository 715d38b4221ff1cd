package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/akidb/akidbd/internal/api"
	"github.com/akidb/akidbd/internal/api/admin"
	"github.com/akidb/akidbd/internal/config"
	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/node"
	"github.com/akidb/akidbd/internal/peer"
	"github.com/akidb/akidbd/internal/store"
	modelsync "github.com/akidb/akidbd/internal/sync"
	"github.com/akidb/akidbd/internal/sync/bucket"
)

// syncer is how models arrive by themselves, nil where they cannot.
type syncer struct {
	*modelsync.Syncer
	buckets []*bucket.S3
	signed  bool // only what a trusted key signed is taken
}

// wireSync makes what brings models, when there is a place they can come from.
func (d *Daemon) wireSync(cfg *config.Config) error {
	if !cfg.Synced() {
		return nil
	}
	keys, err := modelsync.ParseKeys(cfg.Sync.TrustedKeys)
	if err != nil {
		return fmt.Errorf("sync.trusted_keys: %w", err)
	}
	tel, c := d.opt.Telemetry, cfg.Sync
	d.sync = &syncer{signed: len(c.TrustedKeys) > 0}
	own, remotes, err := d.sync.open(c, d.self.Region)
	if err != nil {
		return err
	}
	d.sync.Syncer, err = modelsync.New(modelsync.Config{
		Node: d.self.ID, Region: d.self.Region, Models: cfg.SyncedModels(), Own: own, Remotes: remotes,
		StateDir: filepath.Join(cfg.StateDir, "sync"), Interval: time.Duration(c.Interval), Rate: int64(c.Rate),
		Keep: store.Bound{Versions: c.Keep, Bytes: int64(c.MaxBytes)}, Keys: keys, ReadOnly: c.Replicate == "off",
		Logger: d.log, Registerer: tel.Registry, Tracer: tel.TracerProvider.Tracer("akidbd"),
	}, d.store, installer{d}, d.carriers())
	if err != nil {
		return err
	}
	d.sync.OnChange(d.tell)
	return nil
}

// open makes the buckets of the configuration.
func (s *syncer) open(c config.Sync, region string) (own *modelsync.NamedBucket, remotes []modelsync.NamedBucket, err error) {
	if c.Bucket != "" {
		b, err := s.bucket(bucket.S3Config{URL: c.Bucket, Endpoint: c.Endpoint, Region: c.AWSRegion, PathStyle: c.PathStyle}, region)
		if err != nil {
			return nil, nil, fmt.Errorf("sync.bucket: %w", err)
		}
		own = &b
	}
	for i, r := range c.Remotes {
		b, err := s.bucket(bucket.S3Config{URL: r.Bucket, Endpoint: r.Endpoint, Region: r.AWSRegion, PathStyle: r.PathStyle}, r.Region)
		if err != nil {
			return nil, nil, fmt.Errorf("sync.remotes[%d]: %w", i, err)
		}
		remotes = append(remotes, b)
	}
	return own, remotes, nil
}

func (s *syncer) bucket(c bucket.S3Config, region string) (modelsync.NamedBucket, error) {
	b, err := bucket.OpenS3(context.Background(), c)
	if err != nil {
		return modelsync.NamedBucket{}, err
	}
	s.buckets = append(s.buckets, b)
	name := c.URL
	if c.Endpoint != "" { // two services may have buckets of one name
		name += " at " + c.Endpoint
	}
	return modelsync.NamedBucket{Bucket: b, Name: name, Region: region}, nil
}

// runSync brings models until the node drains: no version is swapped in a drain.
func (d *Daemon) runSync(ctx context.Context, ready func()) error {
	ready()
	if d.sync == nil {
		<-ctx.Done()
		return nil
	}
	run, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.draining, cancel)()
	if d.waitForFleet(run) {
		if err := d.sync.Run(run); err != nil {
			return err
		}
	}
	for _, b := range d.sync.buckets {
		if err := b.Close(); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}

// syncSettle is how long a node that starts waits for its links: nodes that start together without knowing each other
// would each read the bucket. Links come up in a fraction of it.
const syncSettle = time.Second

// waitForFleet waits until this node has loaded what it has, and has met others or given up on that.
func (d *Daemon) waitForFleet(ctx context.Context) bool {
	select {
	case <-d.loaded:
	case <-ctx.Done():
		return false
	}
	if d.mesh == nil {
		return true
	}
	settled := time.NewTimer(syncSettle)
	defer settled.Stop()
	select {
	case <-d.mesh.directory.met:
	case <-settled.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// carriers are the other nodes as far as models go, nil for a lone node.
func (d *Daemon) carriers() modelsync.Peers {
	if d.mesh == nil {
		return nil
	}
	return carriers{d.mesh}
}

type carriers struct{ *mesh }

func (c carriers) Nodes() []node.Info { return c.links.Peers() }

func (c carriers) Blob(ctx context.Context, from node.ID, sha string, offset, length int64) (io.ReadCloser, error) {
	r, err := c.links.Blob(ctx, from, sha, offset, length)
	return r, translate(err, peer.ErrNoBlob, modelsync.ErrNoBlob, peer.ErrComing, modelsync.ErrComing, peer.ErrBusy, modelsync.ErrBusy)
}

// translate wraps the second of each pair around an error that is the first.
func translate(err error, pairs ...error) error {
	for i := 0; i+1 < len(pairs); i += 2 {
		if errors.Is(err, pairs[i]) {
			return fmt.Errorf("%w: %w", pairs[i+1], err)
		}
	}
	return err
}

// blobsAtOnce is how many parts of models other nodes may fetch here at once: each of them asks for six.
const blobsAtOnce = 24

// giveBlob gives a part of a model out to another node.
func (d *Daemon) giveBlob(ctx context.Context, sha string, offset, length int64) (io.ReadCloser, error) {
	if d.sync == nil {
		return nil, peer.ErrNoBlob
	}
	r, err := d.sync.Blob(ctx, sha, offset, length)
	return r, translate(err, modelsync.ErrNoBlob, peer.ErrNoBlob, modelsync.ErrComing, peer.ErrComing)
}

// installer puts versions that arrived into the engine.
type installer struct{ *Daemon }

var _ modelsync.Installer = installer{}

// Install serves a version under the settings of the configuration.
func (i installer) Install(ctx context.Context, m embedding.Model, dir string) error {
	i.installs.Lock()
	defer i.installs.Unlock()
	cfg := i.cfg.Load() // with the lock: a reload that comes now installs again
	for _, c := range cfg.Models {
		if c.Name == m.Name {
			m.Precision = c.Precision
			return i.engine.Install(ctx, m, dir, settings(cfg, c))
		}
	}
	return fmt.Errorf("model %s is not in the configuration any more", m.Name)
}

func (i installer) Remove(name string) {
	i.engine.Remove(name)
	cfg := i.cfg.Load() // it is still wanted, and may come back
	if err := i.engine.Configure(allSettings(cfg)); err != nil {
		i.log.Error("models cannot be announced", "err", err)
	}
	i.engine.Fail(name, fmt.Errorf("it was deleted from the fleet"))
}

func (i installer) Serving(name string) string {
	m, _, ok := i.engine.Serving(name)
	if !ok {
		return ""
	}
	return m.Digest
}

func (i installer) Fail(name string, err error) { i.engine.Fail(name, err) }

// installSynced serves what there is of a model that arrives by itself, under the settings of now.
func (d *Daemon) installSynced(ctx context.Context, m config.Model, s infer.Settings) error {
	d.installs.Lock()
	defer d.installs.Unlock()
	e, ok := d.sync.Local(m.Name) // under the lock: a version that was swapped in meanwhile is the one of now
	if !ok {
		return nil // it comes
	}
	if now, with, ok := d.engine.Serving(m.Name); !ok || now.Digest == e.Model.Digest && alike(with, s) {
		return nil
	}
	e.Model.Precision = m.Precision
	return d.engine.Install(ctx, e.Model, e.Dir, s)
}

// checkBucket is the health of the way to the buckets.
func (d *Daemon) checkBucket() api.Check {
	if d.sync == nil || !d.sync.HasBuckets() {
		return api.Check{State: api.CheckDisabled}
	}
	if err := d.sync.Healthy(); err != nil {
		return api.Check{State: api.CheckFailing, Reason: err.Error()}
	}
	return api.Check{State: api.CheckOK}
}

// catalog is what this node says of its models to the others.
func (d *Daemon) catalog() string {
	if d.sync == nil {
		return ""
	}
	return d.sync.Catalog()
}

// adminSync is the syncer as the control service has it, nil where models cannot arrive.
func (d *Daemon) adminSync() admin.Sync {
	if d.sync == nil {
		return nil
	}
	return syncAdmin{d.sync}
}
