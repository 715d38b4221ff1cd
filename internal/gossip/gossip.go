// Package gossip finds the nodes of the fleet and what they say of themselves. A [Cluster] runs memberlist over
// the links that the daemon gives it: packets are datagrams and streams are streams of the same mutually
// authenticated connections, so there is no port, no key and no identity besides theirs.
//
// What is trusted. The link certifies who sent a packet, but gossip is relayed: what it says of a third node is
// as good as the word of any member of the fleet. A [node.Info] of Nodes is therefore a hint where to find a node
// and what to expect there. Who a node is and where it belongs comes from its certificate, when a link to it is
// up, and its own word on its own link beats what gossip says of it.
//
// What travels how. The static facts of a node (region, zone, address, version, labels while they fit) are
// memberlist's node metadata, at most 512 bytes. What changes (state, models, load) are words, ordered by the
// epoch and sequence of their speaker, sent along with gossip and exchanged whole in each push/pull. memberlist
// wants an IP address for each node and quarrels when it changes; it is given the same placeholder for all, and
// the transport looks the real address, which may be a DNS name or missing, up by name.
//
// memberlist sends news to any four members. A node of a large fleet has links to some only, and to dial one for each
// packet, eighty times a second, would cost more than all else: news for a member without a link go to one that has
// a link. Probes go to whom memberlist chooses.
//
// memberlist does not reunite a fleet after a long partition, so the cluster keeps trying: the seeds, and the
// nodes that were lost. Nothing here depends on the wall clock.
package gossip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/akidb/akidbd/internal/node"
)

// Link carries gossip to other nodes.
type Link interface {
	// SendGossip sends one datagram of at most MaxPacket bytes and keeps data. It never blocks; what cannot be
	// sent is dropped. to may be "" when only addr is known, addr may be "" when only to is.
	SendGossip(to node.ID, addr string, data []byte)
	// DialGossip opens a stream, dialling the node where there is no link.
	DialGossip(ctx context.Context, to node.ID, addr string) (net.Conn, error)
	// Peers are the nodes that have or had a link, sorted by ID; Link.Up says which have one now. The slice is
	// immutable.
	Peers() []node.Info
}

// MaxPacket is the longest datagram given to a Link, in bytes.
const MaxPacket = 1150

// Config of a Cluster.
type Config struct {
	Self  node.Info        // ID, Region, Zone, Labels, Version and Addr of this node; Addr "" when it can only dial
	Word  func() node.Word // what this node says of itself now; must not block
	Seeds []string         // host:port, addresses or DNS names, which are resolved again each time. None: others may join

	StateDir   string                // where the nodes met are kept for the next start; "" keeps nothing
	Logger     *slog.Logger          // default: discards
	Registerer prometheus.Registerer // nil: the metrics are registered nowhere
	Label      string                // fleets of different labels do not mix; at most 64 bytes. Default "akidb"
	// Resolve looks a host name up. Default net.DefaultResolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
}

const (
	// probeInterval is how often one other node is probed, and how long it has to answer, directly or through
	// others: a round trip between distant regions (300 ms) fits.
	probeInterval = 360 * time.Millisecond
	// probeTimeout is when others, and a stream, are asked to help with a probe: a stream to a node as far away
	// can still answer in time.
	probeTimeout = 180 * time.Millisecond
	// suspicionMult times log10 of the fleet (at least 1) times probeInterval is how long a node that did not
	// answer may defend itself.
	suspicionMult = 2
	// suspicionMaxTimeoutMult times that is how long it may when nobody else confirms the suspicion; it counts
	// from suspicionMult 3 on.
	suspicionMaxTimeoutMult = 2
	gossipInterval          = 50 * time.Millisecond // between packets of news, to 4 nodes each
	pushPullInterval        = 15 * time.Second      // between exchanges of everything with one node; grows with the fleet
	rejoinInterval          = 2 * time.Second       // between attempts to find lost nodes and seeds
	tellInterval            = time.Second           // at least between words when only the load changed; grows with the fleet
	refreshInterval         = 10 * time.Second      // at most between words; grows with the fleet
)

// Limits of the configuration.
const (
	maxSeeds     = 64
	maxLabel     = 64
	maxNameBytes = 64
	maxAddrBytes = 262 // a DNS name, a colon and a port
	maxLabels    = 64
	maxLabelText = 256
)

func (c *Config) fill() {
	c.Label = cmp.Or(c.Label, "akidb")
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Resolve == nil {
		c.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
}

func (c *Config) validate() error {
	if !c.Self.ID.Valid() {
		return fmt.Errorf("node name %q: must be [a-zA-Z0-9][a-zA-Z0-9.-]{0,63}", c.Self.ID)
	}
	for _, f := range []struct {
		what, value string
		limit       int
	}{
		{"region", c.Self.Region, maxNameBytes}, {"zone", c.Self.Zone, maxNameBytes}, {"version", c.Self.Version, maxNameBytes},
		{"address", c.Self.Addr, maxAddrBytes}, {"gossip label", c.Label, maxLabel},
	} {
		if len(f.value) > f.limit {
			return fmt.Errorf("%s %.80q has %d bytes, %d are possible", f.what, f.value, len(f.value), f.limit)
		}
	}
	if c.Self.Addr != "" {
		if _, _, err := net.SplitHostPort(c.Self.Addr); err != nil {
			return fmt.Errorf("address %q of this node is not host:port", c.Self.Addr)
		}
	}
	if len(c.Self.Labels) > maxLabels {
		return fmt.Errorf("%d labels, %d are possible", len(c.Self.Labels), maxLabels)
	}
	for k, v := range c.Self.Labels {
		if len(k)+len(v) > maxLabelText {
			return fmt.Errorf("label %.40q and its value have %d bytes, %d are possible", k, len(k)+len(v), maxLabelText)
		}
	}
	if len(c.Seeds) > maxSeeds {
		return fmt.Errorf("%d seeds, %d are possible", len(c.Seeds), maxSeeds)
	}
	if c.Word == nil {
		return errors.New("a cluster needs Config.Word: what this node says of itself")
	}
	return nil
}

// Cluster is this node's part in the gossip.
type Cluster struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics

	transport *transport
	table     *table
	seeds     atomic.Pointer[[]*seed]
	speaker   *speaker
	nodes     atomic.Pointer[[]node.Info]
	changed   func()
	dirty     chan struct{} // 1
	tell      chan struct{} // 1
	started   atomic.Bool
	epoch     uint64 // of this process, as in the advert
	advert    atomic.Pointer[advert]
	moved     chan struct{} // 1
}

// New makes a Cluster that does nothing before Run.
func New(cfg Config, link Link) (*Cluster, error) {
	cfg.fill()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	seeds, err := parseSeeds(cfg.Seeds)
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		cfg: cfg, log: cfg.Logger, metrics: newMetrics(cfg.Registerer),
		changed: func() {}, dirty: make(chan struct{}, 1), tell: make(chan struct{}, 1), moved: make(chan struct{}, 1),
	}
	c.nodes.Store(&[]node.Info{})
	c.seeds.Store(&seeds)
	c.table = newTable(cfg.Self.ID, c.metrics)
	c.transport = newTransport(link, c.table, c.metrics)
	c.speaker = newSpeaker(c)
	c.epoch = cfg.Word().Epoch
	meta, rest := c.newMeta(cfg.Self.Addr)
	c.speaker.labels = rest
	c.advert.Store(&advert{meta: meta})
	return c, nil
}

// OnChange sets who is told, by a call that is not concurrent with itself, after Nodes changed. Set it before Run.
func (c *Cluster) OnChange(f func()) { c.changed = f }

// Nodes are the other nodes that are held to be alive, with the last word that gossip brought, sorted by ID. The
// slice is immutable.
func (c *Cluster) Nodes() []node.Info { return *c.nodes.Load() }

// SetSeeds replaces the seeds. The fleet that was met stays met.
func (c *Cluster) SetSeeds(in []string) error {
	if len(in) > maxSeeds {
		return fmt.Errorf("%d seeds, %d are possible", len(in), maxSeeds)
	}
	seeds, err := parseSeeds(in)
	if err != nil {
		return err
	}
	c.seeds.Store(&seeds)
	return nil
}

// Packet takes a datagram that a link brought, and keeps data. It never blocks.
func (c *Cluster) Packet(from node.ID, addr string, data []byte, at time.Time) {
	c.transport.packet(from, addr, data, at)
}

// Stream takes a stream that a link brought and closes it in the end. It never blocks.
func (c *Cluster) Stream(from node.ID, addr string, conn net.Conn) {
	c.transport.stream(from, addr, conn)
}

// Tell says that the state or the models of this node changed: its word goes out now. It never blocks.
func (c *Cluster) Tell() { notify(c.tell) }

func notify(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

const leaveTime = time.Second

// Run takes part until ctx ends, then says goodbye, within 1 s, and returns when every goroutine of it ended. It
// can be run once.
func (c *Cluster) Run(ctx context.Context) error {
	if !c.started.CompareAndSwap(false, true) {
		return errors.New("a gossip cluster cannot be run twice")
	}
	c.loadSnapshot()
	c.speaker.speak(true)
	c.transport.open()
	list, err := memberlist.Create(c.memberlistConfig())
	if err != nil {
		_ = c.transport.Shutdown() // always nil
		return fmt.Errorf("gossip of node %s: %w", c.cfg.Self.ID, err)
	}
	notify(c.dirty)

	var loops, joins sync.WaitGroup
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	loops.Go(func() { c.publish(inner, list) })
	loops.Go(func() { c.speaker.run(inner) })
	loops.Go(func() { c.readvertise(inner, list) })
	loops.Go(func() { c.keepJoined(inner, list, &joins) })
	<-ctx.Done()
	stop()
	loops.Wait()
	c.leave(list)
	joins.Wait()
	c.saveSnapshot()
	return nil
}

// leave lets the last word out before the farewell: others cannot tell a farewell from a death.
func (c *Cluster) leave(list *memberlist.Memberlist) {
	deadline := time.Now().Add(leaveTime)
	if c.speaker.speak(false) && len(c.Nodes()) > 0 {
		time.Sleep(4 * gossipInterval)
	}
	if err := list.Leave(max(time.Millisecond, time.Until(deadline))); err != nil {
		c.log.Debug("nobody may have heard that this node leaves", "reason", err)
	}
	_ = list.Shutdown() // its only error is the transport's, which has none
	// memberlist does not wait for its goroutines. All that outlive Shutdown are a probe, which waits for its
	// answer, and helpers of other nodes' probes.
	time.Sleep(max(probeInterval*time.Duration(1+list.GetHealthScore()), probeTimeout) + 10*time.Millisecond)
	c.transport.drain()
}

func (c *Cluster) memberlistConfig() *memberlist.Config {
	d := &delegate{c}
	conf := memberlist.DefaultLANConfig()
	conf.Name = string(c.cfg.Self.ID)
	conf.Transport = c.transport
	conf.Label = c.cfg.Label
	conf.BindAddr, conf.BindPort = placeholderHost, placeholderPort
	conf.AdvertiseAddr, conf.AdvertisePort = placeholderHost, placeholderPort
	conf.ProtocolVersion = memberlist.ProtocolVersionMax
	conf.TCPTimeout = streamTimeout
	conf.ProbeInterval, conf.ProbeTimeout = probeInterval, probeTimeout
	conf.SuspicionMult, conf.SuspicionMaxTimeoutMult = suspicionMult, suspicionMaxTimeoutMult
	conf.GossipInterval, conf.PushPullInterval = gossipInterval, pushPullInterval
	conf.AwarenessMaxMultiplier = 2 // a region that dies at once must not make its survivors slow to notice
	// A suspect has little time to defend itself: the suspicion must reach it, and its answer everybody, although
	// packets are lost. At 280 ms between regions and 5 % loss, 16 of 100 runs of two minutes had a false death with a
	// RetransmitMult of 6 and probes each 330 ms, none of 200 has with these. A real death is known as soon.
	conf.RetransmitMult, conf.GossipNodes = 12, 4
	conf.DeadNodeReclaimTime = 5 * time.Second
	conf.EnableCompression = false
	conf.RequireNodeNames = false      // a seed has none yet
	conf.UDPBufferSize = MaxPacket - 8 // memberlist forgets 5 bytes of checksum and 2 of a compound entry
	conf.Delegate, conf.Events, conf.Alive = d, d, d
	conf.LogOutput, conf.Logger = nil, debugLogger(c.log)
	return conf
}
