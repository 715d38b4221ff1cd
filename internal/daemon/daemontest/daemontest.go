// Package daemontest runs whole nodes in one process, for tests in a synctest bubble: real daemons with their router,
// gossip, certificates and QUIC links, over a [Network] that is simulated and an engine that only takes time. Hours of
// a fleet pass in seconds, and a fault comes at the very moment when somebody is asking the node that it strikes.
package daemontest

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/akidb/akidbd/internal/config"
	"github.com/akidb/akidbd/internal/daemon"
	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/infer/backendtest"
	"github.com/akidb/akidbd/internal/infer/testmodels"
	"github.com/akidb/akidbd/internal/node"
	"github.com/akidb/akidbd/internal/pki"
	"github.com/akidb/akidbd/internal/telemetry"
)

// Shape of a Fleet.
type Shape struct {
	Regions, Each int
	RTT           time.Duration // between regions; within one it is 1 ms
	RunTime       time.Duration // of the engine for one batch at least; an eighth more in the mean
}

// Model is the one that every node serves, unless it is bare.
const Model = "tiny"

// startWithin is the time in which the nodes of a fleet start, as after a power cut.
const startWithin = time.Second

// Fleet is the nodes of a test, region by region: n0-0, n0-1 and so on in region r0.
type Fleet struct {
	Net   *Network
	Nodes []*Node

	t     testing.TB
	shape Shape
	ca    *pki.CA
	model string
	hosts []int // used by now, by region
}

// Node is one daemon, and where it keeps its things. It may be started more than once.
type Node struct {
	*daemon.Daemon // of the last start
	ID             node.ID
	Region         string
	Addr           netip.AddrPort
	Bare           bool // serves no model by itself

	fleet   *Fleet
	pki     string
	state   string
	seeds   []string
	running *life
	backend atomic.Pointer[backend]
	serving atomic.Bool // takes requests of clients
}

// life is one start of a node.
type life struct {
	socket    *Socket
	telemetry *telemetry.Telemetry
	cancel    context.CancelFunc
	ended     chan struct{}
	err       error
}

// backend counts the runs that are under way.
type backend struct {
	*backendtest.Fake
	busy atomic.Int64
}

func (b *backend) Run(ctx context.Context, batch infer.Batch) (infer.Output, error) {
	b.busy.Add(1)
	defer b.busy.Add(-1)
	return b.Fake.Run(ctx, batch)
}

// New makes a fleet and starts it; bare says which nodes serve nothing by themselves. It must be called in a bubble.
func New(t testing.TB, s Shape, bare func(region, i int) bool) *Fleet {
	t.Helper()
	ca, err := pki.Init(filepath.Join(t.TempDir(), "ca"), "akidb.test", 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	f := &Fleet{Net: NewNetwork(), t: t, shape: s, ca: ca, hosts: make([]int, s.Regions), model: testmodels.Dir(t, testmodels.BERTGeluNew)}
	f.Net.SetPath(f.path)
	t.Cleanup(f.end)
	for r := range s.Regions {
		for i := range s.Each {
			n := &Node{
				ID: node.ID(fmt.Sprintf("n%d-%d", r, i)), Region: fmt.Sprintf("r%d", r), Addr: f.address(r), fleet: f,
				Bare: bare != nil && bare(r, i), pki: filepath.Join(t.TempDir(), "pki"), state: filepath.Join(t.TempDir(), "state"),
			}
			if _, err := ca.Issue(n.ID, n.Region, n.pki, 12*time.Hour); err != nil {
				t.Fatal(err)
			}
			if len(f.Nodes) > 0 {
				n.seeds = []string{f.Nodes[0].Addr.String()}
			}
			f.Nodes = append(f.Nodes, n)
		}
	}
	waits := make([]time.Duration, len(f.Nodes)) // nobody starts at the same nanosecond
	for i := range waits {
		waits[i] = rand.N(startWithin)
	}
	slices.Sort(waits)
	for i, n := range f.Nodes {
		time.Sleep(waits[i] - waits[max(0, i-1)])
		n.Start()
	}
	for _, n := range f.Nodes {
		<-n.Loaded()
	}
	return f
}

// address is a new one in a region: 10.<region>.<host>.
func (f *Fleet) address(region int) netip.AddrPort {
	f.hosts[region]++
	host := f.hosts[region]
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(region), byte(host >> 8), byte(host)}), 7946)
}

// path is the way between two addresses when nothing is broken.
func (f *Fleet) path(from, to netip.AddrPort) Path {
	if from.Addr().As4()[1] == to.Addr().As4()[1] {
		return Path{Delay: 500 * time.Microsecond}
	}
	return Path{Delay: f.shape.RTT / 2}
}

// Break changes the paths between nodes; nil mends them. change is given the regular path.
func (f *Fleet) Break(change func(from, to *Node, p Path) Path) {
	if change == nil {
		f.Net.SetPath(f.path)
		return
	}
	at := map[netip.AddrPort]*Node{}
	for _, n := range f.Nodes {
		at[n.Addr] = n
	}
	f.Net.SetPath(func(from, to netip.AddrPort) Path {
		a, b := at[from], at[to]
		if a == nil || b == nil {
			return f.path(from, to)
		}
		return change(a, b, f.path(from, to))
	})
}

// Region gives the nodes of one region.
func (f *Fleet) Region(r int) []*Node { return f.Nodes[r*f.shape.Each:][:f.shape.Each] }

// Start runs the node at its address, with what its state directory holds.
func (n *Node) Start() {
	f := n.fleet
	f.t.Helper()
	cfg := config.Default()
	cfg.Listen = nil // clients are goroutines
	cfg.PKI.Dir, cfg.StateDir, cfg.CacheDir = n.pki, n.state, filepath.Join(filepath.Dir(n.state), "cache")
	cfg.DrainDelay = 0
	cfg.Gossip.Seeds = n.seeds
	if !n.Bare {
		cfg.Models = []config.Model{{Name: Model, Path: f.model, Precision: "fp32"}}
	}
	l := &life{socket: f.Net.Listen(n.Addr), telemetry: telemetry.New(telemetry.Config{}, logs(n.ID)), ended: make(chan struct{})}
	d, err := daemon.New(daemon.Options{
		Config: cfg, Open: n.open, Telemetry: l.telemetry, Version: "test", PacketConn: l.socket, NoAdmin: true, PollFiles: true,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.Daemon, n.running, l.cancel = d, l, cancel
	go func() {
		defer close(l.ended)
		l.err = d.Run(ctx)
	}()
	n.serving.Store(true)
}

// logs goes nowhere, or with AKIDB_TEST_LOG to standard error.
func logs(id node.ID) io.Writer {
	if want := os.Getenv("AKIDB_TEST_LOG"); want != "" && strings.Contains(string(id), want) {
		return os.Stderr
	}
	return io.Discard
}

func (n *Node) open(_ context.Context, a infer.Artifact, _ infer.Options) (infer.Backend, error) {
	b := &backend{Fake: backendtest.NewFake(infer.Caps{Provider: infer.ProviderCPU, Lanes: 2, MaxTokens: 512, Dimensions: a.Spec.Hidden, Wide: true}, a.Spec.MaxTokens)}
	b.Set(backendtest.Knobs{Cost: n.fleet.runTime})
	n.backend.Store(b)
	return b, nil
}

// runTime has a tail, as computing has: three eighths more once in twenty.
func (f *Fleet) runTime(infer.Batch) time.Duration {
	return f.shape.RunTime + time.Duration(rand.ExpFloat64()*float64(f.shape.RunTime)/8)
}

// Kill ends the node without a word to anybody. What it leaves on its disk is what it had there at that moment.
func (n *Node) Kill() {
	n.serving.Store(false)
	l, state := n.running, filepath.Join(n.fleet.t.TempDir(), "state")
	l.socket.unplug()
	n.copyState(state)
	n.state = state
	l.cancel() // the rest of the process ends unseen
}

// copyState copies all but the models, whose store the dying process still holds.
func (n *Node) copyState(to string) {
	err := os.MkdirAll(to, 0o700)
	entries, rerr := os.ReadDir(n.state)
	if err != nil || rerr != nil {
		n.fleet.t.Fatal(err, rerr)
	}
	for _, e := range entries {
		if e.IsDir() || strings.Contains(e.Name(), "tmp") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(n.state, e.Name()))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, e.Name()), data, 0o600)
		}
		if err != nil {
			n.fleet.t.Fatal(err)
		}
	}
}

// Forget removes a file from the state directory of a node that does not run.
func (n *Node) Forget(name string) {
	if err := os.Remove(filepath.Join(n.state, name)); err != nil {
		n.fleet.t.Error(err)
	}
}

// Stop ends the node as an operator does and waits for it.
func (n *Node) Stop() {
	n.serving.Store(false)
	n.running.cancel()
	<-n.running.ended
	if err := n.running.err; err != nil {
		n.fleet.t.Errorf("node %s ended with: %v", n.ID, err)
	}
}

// Move gives a stopped node another address in its region.
func (n *Node) Move() {
	n.Addr = n.fleet.address(int(n.Addr.Addr().As4()[1]))
}

// Busy is how many runs of the node's engine are under way.
func (n *Node) Busy() int64 {
	if b := n.backend.Load(); b != nil {
		return b.busy.Load()
	}
	return 0
}

// end stops everything: the bubble waits for its goroutines.
func (f *Fleet) end() {
	f.Break(nil)
	for _, n := range f.Nodes {
		if n.running != nil {
			n.running.cancel()
		}
	}
	for _, n := range f.Nodes {
		if n.running != nil {
			<-n.running.ended
		}
	}
}

// Whole says whether every node has a link to every other one, which says that it is ready.
func (f *Fleet) Whole() bool { return Whole(f.Nodes...) }

// Whole says so of some nodes and of nobody besides them.
func Whole(nodes ...*Node) bool {
	for _, n := range nodes {
		others := n.Members()[1:]
		if len(others) != len(nodes)-1 {
			return false
		}
		for _, m := range others {
			if !m.Link.Up || m.Word.State != node.Ready {
				return false
			}
		}
	}
	return true
}

// Await waits until something holds and says how long that took; the test fails when it takes longer than limit.
func (f *Fleet) Await(limit time.Duration, what string, holds func() bool) time.Duration {
	f.t.Helper()
	began := time.Now()
	step := 10 * time.Millisecond
	if len(f.Nodes) > 100 {
		step = 50 * time.Millisecond // to look at all members of all nodes takes as long as half a second of their lives
	}
	for !holds() {
		if time.Since(began) > limit {
			f.t.Fatalf("not within %v: %s%s", limit, what, f.views())
		}
		time.Sleep(step)
	}
	return time.Since(began)
}

// views is what some nodes know.
func (f *Fleet) views() string {
	var b strings.Builder
	for _, n := range f.Nodes[:min(len(f.Nodes), 12)] {
		others := n.Members()[1:]
		fmt.Fprintf(&b, "\n%s knows %d:", n.ID, len(others))
		for _, m := range others[:min(len(others), 12)] {
			fmt.Fprintf(&b, " %s(%v %s)", m.ID, m.Link.Up, m.Word.State)
		}
	}
	return b.String()
}

// lost says whether all other nodes know that the victims are gone: that their links are down, or that they are no
// members any more.
func (f *Fleet) lost(victims []*Node, members bool) bool {
	for _, n := range f.Nodes {
		if slices.Contains(victims, n) {
			continue
		}
		for _, m := range n.Members()[1:] {
			if (m.Link.Up || members) && slices.ContainsFunc(victims, func(v *Node) bool { return v.ID == m.ID }) {
				return false
			}
		}
	}
	return true
}

// renewed says whether none of these takes a restarted node for the process that it was.
func renewed(n *Node, others []*Node) bool {
	epoch := n.Members()[0].Word.Epoch
	for _, o := range others {
		for _, m := range o.Members()[1:] {
			if o != n && m.ID == n.ID && m.Link.Up && m.Word.Epoch != epoch {
				return false
			}
		}
	}
	return true
}
