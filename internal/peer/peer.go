// Package peer is the wire between nodes. One UDP socket carries QUIC connections with mutual TLS, the links,
// to other nodes; a link carries the hello and the probes that tell whether the node lives, requests to embed,
// and gossip. A Links keeps links to the nodes it is told of and answers what comes over them with the local
// engine, never with a router: a request crosses one link at most. It knows nothing of routing policy.
//
// Models travel between nodes as blobs, over a second connection with windows and an ALPN name (akidb-blob/1) of its
// own, dialled when one is fetched and closed when none is, so that they never stand before a request: Links.OnBlob
// sets what this node gives out, Config.BlobRate and MaxBlobs how fast and how many at once, Links.Blob fetches.
//
// A request never dials. What is known of a node is evidence of its link: connected, answered, said.
package peer

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/quic-go/quic-go"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

// Identity is who this node is, and the judge of who others are.
type Identity interface {
	// Self is this node's name and region, from its certificate.
	Self() (id node.ID, region string)
	// TLS is one configuration for both directions: TLS 1.3, certificates asked for and verified, no session
	// tickets. Each call makes a new one.
	TLS(alpn []string) *tls.Config
	// Verify says who holds the certificates, the leaf first, or names why they do not count now.
	Verify(certs []*x509.Certificate) (id node.ID, region string, err error)
	// Changed is closed at the next change of certificate, trust or deny list.
	Changed() <-chan struct{}
}

// Engine computes embeddings on this node. Embed must return soon after ctx ends.
type Engine interface {
	Embed(ctx context.Context, req embedding.Request) (embedding.Result, error)
}

// Config of Links. Zero values mean the default.
type Config struct {
	Address    string         // UDP host:port to bind; default ":7946"
	PacketConn net.PacketConn // used instead of a socket at Address when set, for simulated networks; Links closes it
	StateDir   string         // keeps the key of stateless resets (link-reset.key, 0600); "" draws one for this run only

	Self func() node.Info // this node now, called for each hello and probe; required, must be quick and not block

	MaxForeign int // links kept to nodes of each other region; default 8

	ProbeInterval time.Duration // between two probes on a link, 3 lost ones take it down; default 250 ms
	IdleTimeout   time.Duration // silence that ends a connection; default 1 s, twice that on paths over 150 ms
	Grace         time.Duration // how long a stop waits for requests in flight; default 10 s

	MaxBlobs int // that peers fetch at once, more are refused; default 4
	BlobRate int // bytes a second given out, all together; default 32 MiB

	Admit           func() error  // asked before the engine gets a request of a peer; nil admits all
	MaxRequests     int           // requests of all peers at once, half of them of one node, more are refused as overloaded; default 1024
	MaxRequestBytes int           // of one request; four times that of all that are served at once; default 32 MiB
	MaxInputs       int           // of one request; default 16384
	MaxDeadline     time.Duration // longest time given to a peer's request, and for one that names none; default 60 s

	Logger     *slog.Logger          // required
	Registerer prometheus.Registerer // required

	versions   []string      // ALPN names, newest first; default defaultVersions
	cloneGrace time.Duration // default cloneGrace
}

// defaultVersions are offered, newest first: this one and the one before it, so that a fleet can be upgraded node by node.
func defaultVersions() []string { return []string{"akidb/1"} }

func (c *Config) fill() error {
	switch {
	case c.Self == nil:
		return errors.New("peer: Config.Self is required")
	case c.Logger == nil || c.Registerer == nil:
		return errors.New("peer: Config.Logger and Config.Registerer are required")
	}
	c.Address = cmp.Or(c.Address, ":7946")
	c.MaxForeign = cmp.Or(c.MaxForeign, 8)
	c.ProbeInterval = cmp.Or(c.ProbeInterval, 250*time.Millisecond)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, time.Second)
	c.Grace = cmp.Or(c.Grace, 10*time.Second)
	c.MaxRequests = cmp.Or(c.MaxRequests, 1024)
	c.MaxRequestBytes = cmp.Or(c.MaxRequestBytes, 32<<20)
	c.MaxInputs = cmp.Or(c.MaxInputs, 16384)
	c.MaxBlobs = cmp.Or(c.MaxBlobs, 4)
	c.BlobRate = cmp.Or(c.BlobRate, 32<<20)
	c.MaxDeadline = cmp.Or(c.MaxDeadline, time.Minute)
	c.cloneGrace = cmp.Or(c.cloneGrace, cloneGrace)
	if c.versions == nil {
		c.versions = defaultVersions()
	}
	return nil
}

// Links are the links of one node. New makes them, Run keeps them; the other methods may be called at any time
// from any goroutine.
type Links struct {
	cfg      Config
	identity Identity
	engine   Engine
	log      *slog.Logger
	metrics  *metrics

	self     node.ID
	region   string
	instance uint64 // drawn at New: tells this process from another of the same name
	started  time.Time

	sock net.PacketConn
	tr   *quic.Transport
	tls  *tls.Config

	onChange func()
	onPacket func(from node.ID, addr string, data []byte, at time.Time)
	onStream func(from node.ID, addr string, c net.Conn)
	onBlob   func(ctx context.Context, sha string, offset, length int64) (io.ReadCloser, error)

	mu       sync.Mutex
	ctx      context.Context // of all links and goroutines; nil before Run, ended when Run returns
	stopDial context.CancelFunc
	dialCtx  context.Context
	draining bool
	stopped  atomic.Bool    // new requests are refused
	wg       sync.WaitGroup // goroutines; Add only with mu held and ctx alive
	remotes  map[node.ID]*remote
	members  []node.Info
	flights  map[flightKey]*flight
	at       map[string]*link // connections that are there, by the addresses that led to them
	slow     map[string]bool  // addresses with a long round trip
	rival    *rival           // an older process of this node's name; nil without one
	nextLook time.Time        // when another node's word may next make this one look for such a process

	table atomic.Pointer[map[node.ID]*link] // links that are up
	peers atomic.Pointer[[]node.Info]
	begun chan struct{} // closed when Run runs
	dirty chan struct{}
	moved chan struct{} // this node's address changed
	fatal chan error    // a clone or a lost socket, ends Run

	gate     gate
	blobs    *blobs
	requests inflight
	slots    chan struct{} // one for each request of a peer that is served, until its answer is written
	bodies   atomic.Int64  // bytes of the requests of peers that are served
	buffers  buffers
	noise    map[string]*sparse // by reason, of refusals
}

// New binds the socket and reads, or makes, the reset key. It starts nothing. A Links that is never Run must be
// closed with Close.
func New(cfg Config, id Identity, engine Engine) (*Links, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	keys, err := loadKeys(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	sock := cfg.PacketConn
	if sock == nil {
		if sock, err = listenUDP(cfg.Address, cfg.Logger); err != nil {
			return nil, err
		}
	}
	l := &Links{
		cfg: cfg, identity: id, engine: engine, log: cfg.Logger,
		metrics:  newMetrics(cfg.Registerer),
		instance: rand.Uint64(), started: time.Now(),
		sock:    sock,
		remotes: map[node.ID]*remote{}, flights: map[flightKey]*flight{}, at: map[string]*link{}, slow: map[string]bool{},
		begun: make(chan struct{}), dirty: make(chan struct{}, 1), moved: make(chan struct{}, 1), fatal: make(chan error, 1),
		gate:  gate{from: map[netip.Addr]int{}},
		slots: make(chan struct{}, cfg.MaxRequests),
		noise: map[string]*sparse{},
		blobs: newBlobs(cfg.MaxBlobs, cfg.BlobRate),
	}
	for _, r := range refusals() {
		l.noise[r] = &sparse{}
	}
	l.self, l.region = id.Self()
	l.tls = id.TLS(cfg.versions)
	l.tr = &quic.Transport{
		Conn: sock, StatelessResetKey: &keys.reset, TokenGeneratorKey: &keys.token,
		ConnContext: l.attempt, Tracer: dropped{l},
		VerifySourceAddress: func(net.Addr) bool { return l.gate.wary() },
	}
	l.table.Store(&map[node.ID]*link{})
	l.peers.Store(&[]node.Info{})
	return l, nil
}

// Addr is the address of the socket.
func (l *Links) Addr() net.Addr { return l.sock.LocalAddr() }

// OnChange sets what is called, never at the same time twice and coalesced, after a link went up or down or a
// node's word changed. It must not block. Set it before Run.
func (l *Links) OnChange(f func()) { l.onChange = f }

// Close frees the socket of a Links that is not running.
func (l *Links) Close() error {
	l.mu.Lock()
	running := l.ctx != nil
	l.mu.Unlock()
	if running {
		return errors.New("the links are running: end the context of Run instead")
	}
	return l.sock.Close()
}

// Run serves and keeps links until ctx ends, then stops in order: tells the peers this node's last word, which
// should be Draining, refuses new requests, lets those in flight end within Config.Grace, and closes every link
// as draining. It returns nil then, an error that says where when another node of this name runs already, or
// that of the socket. It may be called once.
func (l *Links) Run(ctx context.Context) error {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	ln, err := l.tr.Listen(l.identity.TLS(append(slices.Clone(l.cfg.versions), blobVersion)), l.quicConfig(""))
	if err != nil {
		return errors.Join(fmt.Errorf("listen for links on %s: %w", l.Addr(), err), l.sock.Close())
	}
	l.mu.Lock()
	l.ctx = life
	l.dialCtx, l.stopDial = context.WithCancel(life)
	l.wg.Go(func() { l.accept(ln) })
	l.wg.Go(l.publish)
	l.wg.Go(l.reverify)
	l.wg.Go(l.readGarbage)
	l.reconcile()
	close(l.begun)
	l.mu.Unlock()

	var failure error
	select {
	case <-ctx.Done():
		l.drain(ln)
	case failure = <-l.fatal:
	}

	l.mu.Lock()
	l.draining = true
	l.stopped.Store(true)
	l.stopDial()
	var open []*link
	for _, r := range l.remotes {
		open = append(open, r.links...)
	}
	l.mu.Unlock()
	blobs := l.blobs.open()
	code, text := codeDraining, "the node stops"
	if failure != nil {
		code, text = codeClosed, "the node fails"
	}
	var closing sync.WaitGroup
	for _, k := range open {
		closing.Go(func() { k.close(code, causeDraining, text) })
	}
	for conn := range blobs {
		closing.Go(func() { _ = conn.CloseWithError(code, text) })
	}
	closing.Wait()
	l.mu.Lock()
	end() // no goroutine starts after this
	l.mu.Unlock()
	err = l.tr.Close()
	l.wg.Wait()
	return errors.Join(failure, err, l.sock.Close())
}

func (l *Links) drain(ln *quic.Listener) {
	l.mu.Lock()
	l.draining = true
	l.stopDial()
	rtt := time.Duration(0)
	for _, r := range l.remotes {
		rtt = max(rtt, r.info.Link.RTT)
	}
	l.mu.Unlock()
	_ = ln.Close() // links that are up live on
	l.Tell()
	l.stopped.Store(true)
	timer := time.NewTimer(l.cfg.Grace)
	defer timer.Stop()
	select {
	case <-l.requests.idle():
	case <-timer.C:
		l.log.Warn("links close with requests in flight", "requests", l.requests.count(), "grace", l.cfg.Grace)
		return
	}
	// The last answers and the last word are written, but perhaps not yet sent: closing would cut them off.
	time.Sleep(min(l.cfg.Grace, lastWords+2*rtt))
}

const lastWords = 50 * time.Millisecond

// spawn runs f as a goroutine of Run, or not at all when Run is not there to wait for it.
func (l *Links) spawn(f func()) { l.spawned(f) }

// spawned is spawn, and says whether f runs.
func (l *Links) spawned(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.spawnLocked(f)
}

func (l *Links) spawnLocked(f func()) bool {
	if l.ctx == nil || l.ctx.Err() != nil {
		return false
	}
	l.wg.Go(f)
	return true
}

func (l *Links) quicConfig(addr string) *quic.Config {
	idle := l.cfg.IdleTimeout
	if addr != "" && l.isSlow(addr) {
		idle *= 2
	}
	c := &quic.Config{
		HandshakeIdleTimeout:       2 * time.Second,
		MaxIdleTimeout:             idle,
		KeepAlivePeriod:            idle * 3 / 10,
		MaxIncomingStreams:         1024,
		MaxIncomingUniStreams:      -1,
		InitialStreamReceiveWindow: 1 << 20,
		// A large answer that is read slowly must not hold up the others: quic-go begins with less than one of them takes.
		InitialConnectionReceiveWindow: 4 << 20,
		InitialPacketSize:              1232,
		EnableDatagrams:                true,
	}
	if addr == "" {
		c.GetConfigForClient = func(info *quic.ClientInfo) (*quic.Config, error) {
			return l.quicConfig(info.RemoteAddr.String()), nil
		}
	}
	return c
}
