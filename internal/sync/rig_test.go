package sync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	gosync "sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
	"github.com/akidb/akidbd/internal/store"
	"github.com/akidb/akidbd/internal/sync/bucket"
	"github.com/akidb/akidbd/internal/sync/bucket/buckettest"
)

// fleet is a number of nodes in one bubble. Its time starts at noon.
type fleet struct {
	t     *testing.T
	start time.Time

	mu    gosync.Mutex
	nodes map[node.ID]*testNode
	cut   map[node.ID]bool // unreachable
	mute  node.ID          // gives nothing out
	muted int              // requests that it refused
	slow  node.ID          // takes long for everything
}

func newFleet(t *testing.T) *fleet {
	return &fleet{t: t, start: time.Now(), nodes: map[node.ID]*testNode{}, cut: map[node.ID]bool{}}
}

func (f *fleet) now() time.Time { return noon.Add(time.Since(f.start)) }

// testNode is one node, which may be stopped and started again over the same directories.
type testNode struct {
	f      *fleet
	id     node.ID
	region string
	dir    string
	cfg    Config
	engine *fakeEngine

	store *store.Store
	sync  *Syncer
	reg   *prometheus.Registry
	stop  context.CancelFunc
	ended chan error
	skew  time.Duration
	shift atomic.Int64 // of the clock while it runs, ns
	blobs int          // requests for parts of files, answered
	full  atomic.Bool  // the disk
}

// add makes a node that wants the model m and starts it.
func (f *fleet) add(id, region string, change func(*testNode)) *testNode {
	f.t.Helper()
	n := &testNode{f: f, id: node.ID(id), region: region, dir: f.t.TempDir(), engine: &fakeEngine{serving: map[string]string{}, content: map[string]string{}}}
	n.cfg = Config{Models: []string{"m"}}
	if change != nil {
		change(n)
	}
	n.run()
	f.t.Cleanup(n.kill)
	return n
}

func (n *testNode) run() {
	n.f.t.Helper()
	st, err := store.Open(filepath.Join(n.dir, "models"))
	if err != nil {
		n.f.t.Fatal(err)
	}
	n.reg = prometheus.NewRegistry()
	cfg := n.cfg
	cfg.Node, cfg.Region, cfg.StateDir = n.id, n.region, filepath.Join(n.dir, "sync")
	cfg.Logger, cfg.Registerer, cfg.Tracer = slog.New(slog.DiscardHandler), n.reg, noop.NewTracerProvider().Tracer("")
	if testing.Verbose() {
		cfg.Logger = slog.New(slog.NewTextHandler(n.f.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", n.id)
	}
	cfg.Now = func() time.Time { return n.f.now().Add(n.skew + time.Duration(n.shift.Load())) }
	s, err := New(cfg, st, n.engine, (*view)(n))
	if err != nil {
		n.f.t.Fatal(err)
	}
	s.OnChange(n.f.changed)
	s.chunk = testChunk
	s.room = func() (int64, error) {
		if n.full.Load() {
			return 10, nil
		}
		return st.Room()
	}
	ctx, cancel := context.WithCancel(n.f.t.Context())
	n.f.mu.Lock()
	n.store, n.sync, n.stop, n.ended = st, s, cancel, make(chan error, 1)
	n.f.nodes[n.id] = n
	n.f.mu.Unlock()
	_ = s.Load(ctx) // what does not load is in its status
	go func() { n.ended <- s.Run(ctx) }()
	n.f.changed()
}

// kill ends a node; the second time does nothing.
func (n *testNode) kill() {
	if n.stop == nil {
		return
	}
	n.stop()
	if err := <-n.ended; err != nil {
		n.f.t.Errorf("node %s ended with %v", n.id, err)
	}
	if err := n.store.Close(); err != nil {
		n.f.t.Error(err)
	}
	n.stop = nil
	n.f.mu.Lock()
	delete(n.f.nodes, n.id)
	n.f.mu.Unlock()
	n.f.changed()
}

// restart is a kill and a start with an engine that has forgotten everything.
func (n *testNode) restart() {
	n.f.t.Helper()
	n.kill()
	n.engine = &fakeEngine{serving: map[string]string{}, content: map[string]string{}, fail: n.engine.fail}
	n.run()
}

// changed tells all nodes that somebody said something.
func (f *fleet) changed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.nodes {
		n.sync.Changed()
	}
}

func (f *fleet) refusals() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.muted
}

// view is the fleet as one node sees it.
type view testNode

func (v *view) Nodes() []node.Info {
	v.f.mu.Lock()
	others := make([]*testNode, 0, len(v.f.nodes))
	for id, n := range v.f.nodes {
		if id != v.id && !v.f.cut[id] && !v.f.cut[v.id] {
			others = append(others, n)
		}
	}
	v.f.mu.Unlock()
	var out []node.Info
	for _, n := range others {
		info := node.Info{ID: n.id, Region: n.region, Link: node.Link{Up: true, Known: true, RTT: time.Millisecond}}
		info.Word = node.Word{State: node.Ready, Catalog: n.sync.Catalog()}
		n.engine.mu.Lock()
		for name, digest := range n.engine.serving {
			info.Word.Models = append(info.Word.Models, node.Served{Model: embedding.Model{Name: name, Digest: digest}, Active: true})
		}
		n.engine.mu.Unlock()
		out = append(out, info)
	}
	return out
}

func (v *view) Blob(ctx context.Context, id node.ID, sha string, offset, length int64) (io.ReadCloser, error) {
	v.f.mu.Lock()
	from := v.f.nodes[id]
	cut, mute := v.f.cut[id] || v.f.cut[v.id], id == v.f.mute
	if mute {
		v.f.muted++
	}
	slow := id == v.f.slow
	v.f.mu.Unlock()
	if slow {
		if err := sleep(ctx, 9*time.Second); err != nil {
			return nil, err
		}
	}
	if mute {
		return nil, errors.New("reset")
	}
	if from == nil || cut {
		return nil, errors.New("no link")
	}
	time.Sleep(2 * time.Millisecond) // the way there and back; of the bubble
	r, err := from.sync.Blob(ctx, sha, offset, length)
	if err == nil && length >= 0 {
		v.f.mu.Lock()
		from.blobs++
		v.f.mu.Unlock()
	}
	return r, err
}

// fakeEngine serves whatever directory it is given and remembers what was in it.
type fakeEngine struct {
	mu       gosync.Mutex
	serving  map[string]string
	content  map[string]string // of model.safetensors, by digest
	fail     func(digest string) error
	failed   map[string]string
	installs int
}

func (e *fakeEngine) Install(_ context.Context, m embedding.Model, dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.installs++
	if e.fail != nil {
		if err := e.fail(m.Digest); err != nil {
			return err
		}
	}
	e.serving[m.Name] = m.Digest
	e.content[m.Digest] = string(data)
	return nil
}

func (e *fakeEngine) Remove(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.serving, name)
}

func (e *fakeEngine) Serving(name string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.serving[name]
}

func (e *fakeEngine) Fail(name string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failed == nil {
		e.failed = map[string]string{}
	}
	e.failed[name] = err.Error()
}

func (e *fakeEngine) setFail(f func(string) error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fail = f
}

func (e *fakeEngine) served(name string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.content[e.serving[name]]
}

// weights are the bytes of a model that is told from others by its seed: several chunks and a bit.
func weights(seed string, size int) string {
	return strings.Repeat(seed+"\n", size/(len(seed)+1)+1)[:size]
}

const testChunk = 64 << 10

const modelSize = 5*testChunk + 1000

// contents are the files of a version.
func contents(seed string) map[string]string {
	return map[string]string{"config.json": `{"model_type":"bert"}`, "tokenizer.json": "{}", "model.safetensors": weights(seed, modelSize)}
}

// push publishes a version into a bucket at the fleet's time and gives its manifest.
func (f *fleet) push(b bucket.Bucket, by, region, seed string, change func(*Manifest)) *Manifest {
	f.t.Helper()
	m := manifestOf("m", by, f.now(), contents(seed))
	m.Region = region
	if change != nil {
		change(m)
	}
	if err := PutBlobs(f.t.Context(), b, m, writeDir(f.t, contents(seed)), nil); err != nil {
		f.t.Fatal(err)
	}
	if err := PutManifest(f.t.Context(), b, m); err != nil {
		f.t.Fatal(err)
	}
	return m
}

func writeDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for p, data := range files {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(p)), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, p), []byte(data), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// settle waits until nothing happens any more that is due within d.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (n *testNode) want(seed string) {
	n.f.t.Helper()
	if got := n.engine.served("m"); got != weights(seed, modelSize) {
		n.f.t.Errorf("node %s serves %q, want %q; status %+v", n.id, cmp.Or(strings.SplitN(got, "\n", 2)[0], "nothing"), seed, n.sync.Status())
	}
}

func (n *testNode) wantNothing() {
	n.f.t.Helper()
	if got := n.engine.served("m"); got != "" {
		n.f.t.Errorf("node %s serves %.20q", n.id, got)
	}
}

// failures is the count of one reason.
func (n *testNode) failures(r Reason) float64 {
	return testutil.ToFloat64(n.sync.metrics.failures[r])
}

func named(b bucket.Bucket, region string) *NamedBucket {
	return &NamedBucket{Bucket: b, Name: "s3://" + region, Region: region}
}

func withBucket(b bucket.Bucket) func(*testNode) {
	return func(n *testNode) { n.cfg.Own = named(b, n.region) }
}

// fails makes some operations of a fake bucket fail.
func fails(f *buckettest.Fake, fault *buckettest.Fault, ops ...buckettest.Op) {
	f.SetFault(func(op buckettest.Op, _ string) *buckettest.Fault {
		for _, o := range ops {
			if o == op {
				return fault
			}
		}
		return nil
	})
}

// onBlobs gives a fault to reads of blobs only.
func onBlobs(fault *buckettest.Fault) func(buckettest.Op, string) *buckettest.Fault {
	return func(op buckettest.Op, key string) *buckettest.Fault {
		if _, _, ok := parseBlobKey(key); ok && op == buckettest.Get {
			return fault
		}
		return nil
	}
}

func blobBytes() int64 {
	var n int64
	for _, c := range contents("x") {
		n += int64(len(c))
	}
	return n
}

var errDown = fmt.Errorf("503 SlowDown")
