// Package sync brings models to this node: from the bucket of its region, from other nodes, from the bucket of another
// region, whoever has them, and never a byte that is not what a manifest says.
//
// What is published lies in buckets as immutable objects: blobs named by their hash, and manifests, each one statement
// about a model with a moment of a hybrid logical clock (layout.go, manifest.go). The set of manifests only grows, so
// it can be merged from any number of buckets and nodes in any order, and all come to the same conclusion: the last
// publish that covers a node wins (catalog.go).
//
// A Syncer learns manifests from its bucket, from the nodes around it and from its disk; fetches the blobs of what
// it should serve (fetch.go) into a directory beside the store; and when every one is there and verified, adds the
// version to the store and has it installed. One node of each region, which all agree on without a word, also copies
// what is missing into the bucket of the region (replicate.go).
//
// The package's name is that of a standard package; its one importer in the daemon calls it modelsync.
package sync

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	gosync "sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
	"github.com/akidb/akidbd/internal/store"
	"github.com/akidb/akidbd/internal/sync/bucket"
)

// Installer serves what has arrived.
type Installer interface {
	// Install serves the version in dir: opens, warms, checks and swaps. What fails leaves the version before it
	// serving. It is called for one model at a time.
	Install(ctx context.Context, m embedding.Model, dir string) error
	// Remove stops serving a model.
	Remove(name string)
	// Serving gives the digest that answers under a name, "" when none does.
	Serving(name string) string
	// Fail notes why a model that does not serve cannot.
	Fail(name string, err error)
}

// NamedBucket is a bucket and what people call it.
type NamedBucket struct {
	bucket.Bucket
	Name   string // "s3://models-eu"
	Region string
}

// Config of a Syncer. Zero values mean the default.
type Config struct {
	Node   node.ID // required
	Region string  // required
	Models []string

	Own     *NamedBucket  // the bucket of this region; nil: other nodes carry everything
	Remotes []NamedBucket // of other regions: what the one node of this region copies from

	StateDir string        // keeps manifests and what was learned about them; required
	Interval time.Duration // between two looks at everything; default 5m
	Rate     int64         // bytes per second that are fetched; default 0, no limit
	Parallel int           // parts that are fetched at once; default 6
	Keep     store.Bound   // what the store may hold; default 2 versions of a model
	Keys     Keys          // who is believed; default everybody

	ReadOnly bool // do not copy into the own bucket

	Logger     *slog.Logger          // required
	Registerer prometheus.Registerer // required
	Tracer     trace.Tracer          // required
	Now        func() time.Time      // default time.Now
}

// Syncer brings models to one node. New makes it, Run works; the other methods may be called at any time.
type Syncer struct {
	cfg       Config
	own       *NamedBucket
	remotes   []NamedBucket
	store     *store.Store
	installer Installer
	peers     Peers
	log       *slog.Logger
	metrics   *metrics
	limiter   *rate.Limiter
	incoming  string
	clock     *Hybrid
	catalog   *catalog
	state     *state
	flights   flights
	onChange  func()
	room      func() (int64, error) // that the store has
	chunk     int64                 // size of the parts in which blobs are fetched

	installing gosync.Mutex           // held while a version is installed
	said       atomic.Pointer[string] // SHA-256 of the last document
	wake       chan struct{}          // one slot: other nodes may have said something new
	met        chan struct{}          // closed when the nodes were looked at once
	nodes      *watcher
	atBuckets  []*watcher     // of the own bucket, if there is one, and of the remotes
	copy       chan struct{}  // one slot: the own bucket may lack something
	hash       chan struct{}  // one slot: a plain layout is to be read
	inUse      gosync.RWMutex // held, to read, while files of incoming are used

	mu      gosync.Mutex
	life    context.Context // of Run; nil before
	wg      gosync.WaitGroup
	models  map[string]*model    // wanted, by name
	docs    []document           // what this node says of its catalog, and said before
	seen    map[string]digestDoc // what other nodes say, by SHA-256
	later   map[string]time.Time // documents that could not be read, by SHA-256: when they are asked for again
	refused map[refused]refusal  // manifests that are not taken
	objects map[place]refused    // where those are
	buckets map[string]error     // by name: how the last look at it ended
	held    map[string]bool      // keys that the own bucket is known to have
	heldAt  map[string]time.Time // when that was looked at last, by name of a model
	denied  time.Time            // until then others should copy: this node may not
	backlog int                  // objects that the own bucket lacks
	plain   map[string]plainLook // what the plain layout of a model looked like last, by name
	toHash  map[string]plainJob  // plain layouts to read, by name
	badHash map[string]string    // fingerprints of plain layouts that are no model, by name
}

// model is one that this node should serve.
type model struct {
	name string
	kick chan struct{} // one slot
	stop context.CancelFunc

	target   string             // digest that is brought in now; "" none
	cancel   context.CancelFunc // of that
	progress Progress
}

// Progress is how far a version has come.
type Progress struct {
	Digest      string
	Step        string // "", "fetch" or "load"
	Done, Total int64  // bytes
	Started     time.Time
}

type document struct {
	sha  string
	data []byte
}

// New makes a Syncer over the node's store. peers may be nil for a lone node.
func New(cfg Config, st *store.Store, installer Installer, peers Peers) (*Syncer, error) {
	if cfg.Node == "" || cfg.Region == "" || cfg.StateDir == "" || cfg.Logger == nil || cfg.Registerer == nil || cfg.Tracer == nil {
		return nil, errors.New("sync: Config lacks Node, Region, StateDir, Logger, Registerer or Tracer")
	}
	cfg.Interval = cmp.Or(cfg.Interval, 5*time.Minute)
	cfg.Parallel = cmp.Or(cfg.Parallel, 6)
	if cfg.Keep == (store.Bound{}) {
		cfg.Keep.Versions = 2
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if peers == nil {
		peers = alone{}
	}
	incoming, err := st.Incoming()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.StateDir, 0o750); err != nil {
		return nil, err
	}
	s := &Syncer{
		cfg: cfg, own: cfg.Own, remotes: cfg.Remotes, store: st, installer: installer, peers: peers, log: cfg.Logger,
		metrics: newMetrics(cfg.Registerer), incoming: incoming, onChange: func() {}, room: st.Room, chunk: chunkSize,
		clock: &Hybrid{Wall: cfg.Now},
		wake:  make(chan struct{}, 1), met: make(chan struct{}), nodes: newWatcher(), hash: make(chan struct{}, 1), copy: make(chan struct{}, 1),
		models: map[string]*model{}, seen: map[string]digestDoc{}, later: map[string]time.Time{}, refused: map[refused]refusal{}, buckets: map[string]error{},
		held: map[string]bool{}, heldAt: map[string]time.Time{}, objects: map[place]refused{},
		plain: map[string]plainLook{}, toHash: map[string]plainJob{}, badHash: map[string]string{},
	}
	for range s.placesToLook() {
		s.atBuckets = append(s.atBuckets, newWatcher())
	}
	s.limiter = rate.NewLimiter(rate.Inf, meterStep)
	if cfg.Rate > 0 {
		s.limiter = rate.NewLimiter(rate.Limit(cfg.Rate), max(meterStep, int(min(cfg.Rate, 1<<30))))
	}
	var bad []error
	s.catalog, bad = openCatalog(filepath.Join(cfg.StateDir, "manifests"), cfg.Keys, s.clock, cfg.Now)
	for _, err := range bad {
		s.log.Warn("a manifest that this node kept is not taken", "err", err)
	}
	s.state = openState(filepath.Join(cfg.StateDir, "state.json"), s.log, cfg.Now())
	s.SetModels(cfg.Models)
	return s, nil
}

// alone is a fleet without others.
type alone struct{}

func (alone) Nodes() []node.Info { return nil }
func (alone) Blob(context.Context, node.ID, string, int64, int64) (io.ReadCloser, error) {
	return nil, ErrNoBlob
}

func (s *Syncer) now() time.Time { return s.cfg.Now() }

// OnChange sets what is called after Catalog or what is served changed. It must not block. Set it before Run.
func (s *Syncer) OnChange(f func()) { s.onChange = f }

// SetModels says which models this node should serve.
func (s *Syncer) SetModels(names []string) {
	s.mu.Lock()
	for name, m := range s.models {
		if !slices.Contains(names, name) {
			m.stop()
			delete(s.models, name)
		}
	}
	for _, name := range names {
		if s.models[name] == nil {
			m := &model{name: name, kick: make(chan struct{}, 1), stop: func() {}}
			s.models[name] = m
			s.metrics.model(name)
			s.startModel(m)
		}
	}
	s.mu.Unlock()
	s.publish()
	s.Look()
}

// startModel starts the goroutine of a model when Run runs. mu is held.
func (s *Syncer) startModel(m *model) {
	if s.life == nil || s.life.Err() != nil {
		return
	}
	ctx, stop := context.WithCancel(s.life)
	m.stop = stop
	s.wg.Go(func() { s.follow(ctx, m) })
}

// Run works until ctx ends.
func (s *Syncer) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	s.life = ctx
	for _, m := range s.models {
		s.startModel(m)
	}
	s.mu.Unlock()
	s.tidy()
	s.wg.Go(func() { s.watchNodes(ctx) })
	for i, b := range s.placesToLook() {
		s.wg.Go(func() { s.watchBucket(ctx, s.atBuckets[i], b, s.own != nil && i == 0) })
	}
	if s.own != nil {
		s.wg.Go(func() { s.hashPlainLayouts(ctx) })
	}
	if s.own != nil && !s.cfg.ReadOnly {
		s.wg.Go(func() { s.keepCopied(ctx) })
	}
	<-ctx.Done()
	s.mu.Lock() // nothing is started after this
	cancel()
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

// Changed says that other nodes may have said something new, came or went. It never blocks.
func (s *Syncer) Changed() { poke(s.wake) }

// placesToLook are the buckets, the own one first.
func (s *Syncer) placesToLook() []NamedBucket {
	if s.own == nil {
		return s.remotes
	}
	return append([]NamedBucket{*s.own}, s.remotes...)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (s *Syncer) wanted(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.models[name] != nil
}

func (s *Syncer) wantedNames() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.models))
}

// wants says whether another node said that it wants a model.
func (s *Syncer) wants(n node.Info, name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := slices.BinarySearch(s.seen[n.Word.Catalog].Wants, name)
	return ok
}

// kickModels makes the models look at the catalog again. What is brought in but is not wanted any more is given up.
func (s *Syncer) kickModels(names ...string) {
	for _, name := range names {
		first := ""
		if c := s.catalog.candidates(name, s.cfg.Node, s.cfg.Region); len(c) > 0 {
			first = c[0].Digest
		}
		s.mu.Lock()
		if m := s.models[name]; m != nil {
			poke(m.kick)
			if m.target != "" && m.target != first && m.progress.Step == stepFetch {
				m.cancel()
			}
		}
		s.mu.Unlock()
	}
}
