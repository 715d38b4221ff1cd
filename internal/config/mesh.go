package config

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// PKI is who this node is to its peers.
type PKI struct {
	// Dir holds node.pem, node-key.pem, ca.pem and perhaps deny.txt, made by `akidbd pki` or brought by another
	// tool; it is watched. The node's name and region come from its certificate. Default "": no peers, a lone
	// node.
	Dir string `yaml:"dir" reload:"restart"`
	// RenewURL is the `akidbd pki serve` that renews this node's certificate at half its life, an https URL.
	// Default "": somebody else replaces the files.
	RenewURL string `yaml:"renew_url" reload:"restart"`
}

// Peer is the one UDP port between nodes: requests, probes and gossip over QUIC with mTLS.
type Peer struct {
	// Address is host:port (UDP); an empty host is every interface. Default ":7946".
	Address string `yaml:"address" reload:"restart"`
	// Advertise is host:port where others reach it, an address or a DNS name. Default "": the host of Address,
	// or the address of the interface that leads to the first seed, and the port of Address.
	Advertise string `yaml:"advertise" reload:"restart"`
	// MaxForeign is how many links are kept to each other region. Default 8; 1 to 64.
	MaxForeign int `yaml:"max_foreign" reload:"restart"`
}

// Gossip is how nodes find each other.
type Gossip struct {
	// Seeds are host:port of some nodes of the fleet, addresses or DNS names, which are asked again each time.
	// Default none: others may join this node. At most 64.
	Seeds []string `yaml:"seeds" reload:"yes"`
}

// Router is how a request is answered by many nodes.
type Router struct {
	// CrossRegion says whether nodes of other regions may be asked, on or off. Default on.
	CrossRegion string `yaml:"cross_region" reload:"yes"`
	// Attempts is how many nodes a request may be sent to, hedges included. Default 3; 1 to 10.
	Attempts int `yaml:"attempts" reload:"restart"`
	// TryTimeout ends one attempt of an ordinary request; large ones get more by their tokens. Default 2s; 10ms
	// to 1h.
	TryTimeout Duration `yaml:"try_timeout" reload:"restart"`
	// SpillAfter is how much longer than at a peer a request may have to wait here before it is sent there.
	// Default 50ms; 1ms to 1h.
	SpillAfter Duration `yaml:"spill_after" reload:"restart"`
	// ShardTokens is the size above which a request is spread over the fleet, in estimated tokens. Default 4096;
	// 256 to 16777216.
	ShardTokens int `yaml:"shard_tokens" reload:"restart"`
}

// Meshed says whether this node has peers.
func (c *Config) Meshed() bool { return c.PKI.Dir != "" }

var switches = []string{"on", "off"}

func (k checker) mesh(c *Config) {
	k.path("pki.dir", c.PKI.Dir, false)
	if u := c.PKI.RenewURL; u != "" && !strings.HasPrefix(u, "https://") {
		k.problem("pki.renew_url", "%s, must begin with https://", quote(u))
	}
	k.address("peer.address", c.Peer.Address, `":7946"`)
	if c.Peer.Advertise != "" {
		k.reachable("peer.advertise", c.Peer.Advertise)
	}
	within(k, "peer.max_foreign", c.Peer.MaxForeign, 1, 64)
	k.atMost("gossip.seeds", len(c.Gossip.Seeds), 64, "seeds")
	for i, s := range c.Gossip.Seeds {
		k.reachable(fmt.Sprintf("gossip.seeds[%d]", i), s)
	}
	if len(c.Gossip.Seeds) > 0 && !c.Meshed() {
		k.problem("gossip.seeds", "set, but this node has no certificate for its peers: set pki.dir too")
	}
	k.oneOf("router.cross_region", c.Router.CrossRegion, switches)
	within(k, "router.attempts", c.Router.Attempts, 1, 10)
	within(k, "router.try_timeout", c.Router.TryTimeout, Duration(10*time.Millisecond), Duration(time.Hour))
	within(k, "router.spill_after", c.Router.SpillAfter, Duration(time.Millisecond), Duration(time.Hour))
	within(k, "router.shard_tokens", c.Router.ShardTokens, 256, 1<<24)
}

// address wants host:port; the host may be empty. It reports the port, or false after a problem.
func (k checker) address(path, value, example string) (host string, port uint64, ok bool) {
	host, text, err := net.SplitHostPort(value)
	switch {
	case value == "":
		k.problem(path, "missing, write for example %s", example)
	case err != nil:
		k.problem(path, "%s is not host:port, write for example %s", quote(value), example)
	case strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r == '/' }):
		k.problem(path, "%s has no valid host", quote(value))
	default:
		if port, err = strconv.ParseUint(text, 10, 16); err != nil {
			k.problem(path, "port %s, must be a number from 0 to 65535", quote(text))
			return host, 0, false
		}
		return host, port, true
	}
	return host, 0, false
}

// reachable wants an address that others can dial.
func (k checker) reachable(path, value string) {
	const example = `"10.0.0.5:7946" or "seed.example.org:7946"`
	host, port, ok := k.address(path, value, example)
	if !ok {
		return
	}
	if ip := net.ParseIP(host); host == "" || ip.IsUnspecified() || port == 0 {
		k.problem(path, "%s cannot be dialled, write for example %s", quote(value), example)
	}
}
