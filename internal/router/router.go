// Package router decides who computes a request: this node's engine or another node's. It keeps its own evidence
// of every node (results, latency, requests in flight), asks the best one, asks a second one when the first is
// late, moves on when one fails, and splits a large request over the fleet. It knows nothing of how anything is
// computed or carried. An embedding is a pure function of (digest, input), so asking twice is always safe.
package router

import (
	"cmp"
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

// Engine computes on this node. It returns soon after ctx ends.
type Engine interface {
	Embed(ctx context.Context, req embedding.Request) (embedding.Result, error)
}

// Forwarder asks another node's engine. Without a link it fails at once as unavailable; it returns soon after ctx
// ends.
type Forwarder interface {
	Embed(ctx context.Context, to node.Info, req embedding.Request) (embedding.Result, error)
}

// Directory lists the other nodes: an immutable snapshot, without this node. It is asked for every request.
type Directory interface {
	Nodes() []node.Info
}

// Config has the router's knobs. A zero value means the default.
type Config struct {
	Self node.Info        // who this node is; Word and Link are not read
	Word func() node.Word // what this node says of itself now; nil: Ready, serving nothing that the fleet may know of

	Attempts   int           // nodes that may have, or have had and failed, one request's work; default 3
	TryTimeout time.Duration // of a try on another node, plus TokenTime for each token; default 2 s
	Deadline   time.Duration // of a request whose own is later, plus TokenTime for each token; default 10 s
	TokenTime  time.Duration // what a token may take on a slow node; default 1 ms

	CrossRegion func() bool // false: nodes of other regions are never asked; nil means true

	HedgeMin   time.Duration // soonest second attempt; default 25 ms
	HedgeMax   time.Duration // latest second attempt for requests up to 512 tokens, TokenTime later for each further one; default 250 ms
	LoadMark   float64       // share of a node's queue above which it gets nothing from elsewhere; default 0.7
	SpillAfter time.Duration // how much longer than at a peer (round trip included) the wait here may be; default 50 ms
	Patience   time.Duration // how long after its first failure in a row this node's engine is expected back; default 30 s

	ShardTokens int // estimated tokens of a request above which it is split, and the most of a part; default 4096

	Random     func() uint64 // source of all dice, safe for concurrent use; default math/rand/v2
	Registerer prometheus.Registerer
}

func (c *Config) setDefaults() {
	if c.Word == nil {
		c.Word = func() node.Word { return node.Word{State: node.Ready} }
	}
	if c.CrossRegion == nil {
		c.CrossRegion = func() bool { return true }
	}
	if c.Random == nil {
		c.Random = rand.Uint64
	}
	c.Attempts = cmp.Or(c.Attempts, 3)
	c.TryTimeout = cmp.Or(c.TryTimeout, 2*time.Second)
	c.Deadline = cmp.Or(c.Deadline, 10*time.Second)
	c.TokenTime = cmp.Or(c.TokenTime, time.Millisecond)
	c.HedgeMin = cmp.Or(c.HedgeMin, 25*time.Millisecond)
	c.HedgeMax = cmp.Or(c.HedgeMax, 250*time.Millisecond)
	c.LoadMark = cmp.Or(c.LoadMark, 0.7)
	c.SpillAfter = cmp.Or(c.SpillAfter, 50*time.Millisecond)
	c.Patience = cmp.Or(c.Patience, 30*time.Second)
	c.ShardTokens = cmp.Or(c.ShardTokens, 4096)
}

// grown is a time limit that grows with the work.
func (c *Config) grown(limit time.Duration, tokens int) time.Duration {
	return limit + time.Duration(tokens)*c.TokenTime
}

// Router is an embedding.Embedder over the nodes that can answer.
type Router struct {
	cfg     Config
	local   Engine
	there   Forwarder
	dir     Directory
	here    *peer                 // this node's engine
	fleet   atomic.Pointer[fleet] // the last snapshot, with the evidence of each node
	moving  sync.Mutex            // held while fleet is replaced
	budget  budget
	work    latency // of all peers, without the round trip
	dice    dice
	metrics *metrics
	running sync.WaitGroup // attempts
}

// New makes a router over the local engine and, through there, the nodes of dir. Both may be nil: a lone node.
func New(cfg Config, local Engine, there Forwarder, dir Directory) *Router {
	cfg.setDefaults()
	r := &Router{cfg: cfg, local: local, there: there, dir: dir, here: newPeer(ejectBaseHere), dice: cfg.Random, metrics: newMetrics(cfg.Registerer)}
	r.fleet.Store(&fleet{})
	return r
}

// Run waits for ctx to end and then for attempts that lost their race and are still returning. Embed must not be
// called any more by then.
func (r *Router) Run(ctx context.Context) error {
	<-ctx.Done()
	r.running.Wait()
	return nil
}

// Embed answers the request and notes in the Result who did. Its error is an *embedding.Error.
func (r *Router) Embed(ctx context.Context, req embedding.Request) (embedding.Result, error) {
	began := time.Now()
	var res embedding.Result
	var err error
	if nodes := r.nodes().nodes; len(nodes) == 0 {
		res, err = r.alone(ctx, req)
	} else {
		res, err = r.routed(ctx, req)
	}
	r.metrics.request.Observe(time.Since(began).Seconds())
	r.metrics.decision(r.cfg.Self, res.Origin, err)
	if err != nil {
		return embedding.Result{}, embedding.AsError(err)
	}
	return res, nil
}

// alone is the short way of a node without peers: the engine, in the caller's goroutine.
func (r *Router) alone(ctx context.Context, req embedding.Request) (embedding.Result, error) {
	bounded := ctx
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		bounded, cancel = context.WithTimeout(ctx, r.cfg.grown(r.cfg.Deadline, estimate(req.Inputs)))
		defer cancel()
	}
	res, err := r.local.Embed(bounded, req)
	e := embedding.AsError(err)
	r.metrics.attempt(kindFirst, outcomeOf(e))
	if e == nil {
		if r.here.health.failing.Load() {
			r.here.health.answered(time.Now())
		}
		res.Origin = r.origin()
		return res, nil
	}
	if e.Code != embedding.CodeUnavailable || bounded.Err() != nil {
		return embedding.Result{}, e
	}
	c := r.newRace(bounded, req, ask{tokens: estimate(req.Inputs)})
	defer c.end()
	return c.resume(e)
}

// routed resolves the model and asks the fleet. A name that nobody knows any more under the digest it was
// resolved to, because a new version came meanwhile, is resolved once more.
func (r *Router) routed(ctx context.Context, req embedding.Request) (embedding.Result, error) {
	tokens := estimate(req.Inputs)
	_, digest := embedding.SplitModel(req.Model)
	pinned := digest != ""
	var gone string
	var last error
	for range 2 {
		found := r.resolve(req.Model, gone)
		if !found.ok && last != nil {
			break
		}
		res, err := r.ask(ctx, req, ask{model: found, tokens: tokens})
		if err == nil || pinned || !found.ok || embedding.AsError(err).Code != embedding.CodeModelNotFound {
			return res, err
		}
		gone, last = found.Digest, err
	}
	return embedding.Result{}, last
}

// ask answers a request whose model is resolved, whole or in parts. An unresolved model leaves it to the local
// engine to say why.
func (r *Router) ask(ctx context.Context, req embedding.Request, a ask) (embedding.Result, error) {
	if a.tokens > r.cfg.ShardTokens && len(req.Inputs) > 1 && a.model.ok {
		if res, err, ok := r.sharded(ctx, req, a); ok {
			return res, err
		}
	}
	c := r.newRace(ctx, req, a)
	defer c.end()
	return c.run()
}

func (r *Router) origin() embedding.Origin {
	return embedding.Origin{Node: string(r.cfg.Self.ID), Region: r.cfg.Self.Region}
}

// estimate guesses the tokens of the inputs from their bytes: English and code have about 4 bytes to a token,
// and two specials frame each text.
func estimate(inputs []embedding.Input) int {
	n := 0
	for _, in := range inputs {
		n += tokensOf(in)
	}
	return n
}

func tokensOf(in embedding.Input) int {
	if in.Tokens != nil {
		return len(in.Tokens)
	}
	return len(in.Text)/4 + 2
}

// dice is a source of random bits.
type dice func() uint64

// below is uniform in [0, n).
func (d dice) below(n int) int { return int(d() % uint64(n)) }

// unit is uniform in [0, 1).
func (d dice) unit() float64 { return float64(d()>>11) / (1 << 53) }

// around is d, a quarter more or less.
func (d dice) around(t time.Duration) time.Duration {
	return time.Duration(float64(t) * (0.75 + d.unit()/2))
}
