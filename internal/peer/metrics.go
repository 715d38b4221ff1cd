package peer

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/akidb/akidbd/internal/embedding"
)

// Reasons of akidb_peer_refused_total.
const (
	refusedGarbage     = "garbage"     // packets that belong to no link and to no handshake
	refusedHandshake   = "handshake"   // a connection that did not get through TLS, or sent no hello
	refusedFlood       = "flood"       // a handshake while too many are under way
	refusedIdentity    = "identity"    // a certificate that does not verify or is not the expected node's
	refusedClone       = "clone"       // a second node of one name
	refusedProtocol    = "protocol"    // a stream or datagram that makes no sense
	refusedAdmission   = "admission"   // a request that Config.Admit refused
	refusedConcurrency = "concurrency" // a request over Config.MaxRequests
	refusedDraining    = "draining"    // a request while this node stops
)

func refusals() []string {
	return []string{
		refusedGarbage, refusedHandshake, refusedFlood, refusedIdentity, refusedClone, refusedProtocol, refusedAdmission,
		refusedConcurrency, refusedDraining,
	}
}

const (
	scopeOwn, scopeOther = "own", "other"
	stateUp, stateDown   = "up", "down"
	dirIn, dirOut        = "in", "out"
	codeOK               = "ok"
	changeUp             = "up" // beside the causes

	// Ends of a transfer of a blob, beside codeOK.
	blobsRefused = "refused" // the node does not have it, or stops
	blobsBusy    = "busy"
	blobsCut     = "cut" // not reached, cut off or left
)

type metrics struct {
	links     map[[2]string]prometheus.Gauge // scope, state
	changes   map[string]prometheus.Counter
	rtt       prometheus.Histogram
	requests  map[[2]string]prometheus.Counter // direction, code
	bytes     map[string]prometheus.Counter
	refused   map[string]prometheus.Counter
	datagrams prometheus.Counter
	blobs     map[[2]string]prometheus.Counter // direction, result
	blobBytes map[string]prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	count := func(name, help string, labels ...string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: "akidb_peer_" + name, Help: help}, labels)
	}
	links := f.NewGaugeVec(prometheus.GaugeOpts{Name: "akidb_peer_links", Help: "Nodes that are or were linked, by region and by whether the link is up."},
		[]string{"region_scope", "state"})
	changes := count("link_changes_total", "Links that went up, and that went down by cause.", "cause")
	requests := count("requests_total", "Requests forwarded (out) and served for peers (in).", "direction", "code")
	bytes := count("bytes_total", "Bytes in QUIC packets of links.", "direction")
	refused := count("refused_total", "What came over the port and was refused.", "reason")
	blobs := count("blobs_total", "Parts of blobs fetched from peers (in) and given out to them (out).", "direction", "result")
	blobBytes := count("blob_bytes_total", "Bytes of blobs.", "direction")
	m := &metrics{
		blobs: map[[2]string]prometheus.Counter{}, blobBytes: map[string]prometheus.Counter{},
		links: map[[2]string]prometheus.Gauge{}, changes: map[string]prometheus.Counter{},
		requests: map[[2]string]prometheus.Counter{}, bytes: map[string]prometheus.Counter{}, refused: map[string]prometheus.Counter{},
		rtt: f.NewHistogram(prometheus.HistogramOpts{Name: "akidb_peer_rtt_seconds", Help: "Round trip of a probe.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 14)}), // 0.1 ms to 0.8 s
		datagrams: f.NewCounter(prometheus.CounterOpts{Name: "akidb_peer_dropped_datagrams_total", Help: "Gossip datagrams dropped for want of a link or of room."}),
	}
	for _, scope := range []string{scopeOwn, scopeOther} {
		for _, state := range []string{stateUp, stateDown} {
			m.links[[2]string{scope, state}] = links.WithLabelValues(scope, state)
		}
	}
	for _, c := range append(causes(), changeUp) {
		m.changes[c] = changes.WithLabelValues(c)
	}
	for _, d := range []string{dirIn, dirOut} {
		m.bytes[d] = bytes.WithLabelValues(d)
		m.blobBytes[d] = blobBytes.WithLabelValues(d)
		for _, r := range []string{codeOK, blobsRefused, blobsBusy, blobsCut} {
			m.blobs[[2]string{d, r}] = blobs.WithLabelValues(d, r)
		}
		m.requests[[2]string{d, codeOK}] = requests.WithLabelValues(d, codeOK)
		for _, c := range embedding.Codes() {
			m.requests[[2]string{d, string(c)}] = requests.WithLabelValues(d, string(c))
		}
	}
	for _, r := range refusals() {
		m.refused[r] = refused.WithLabelValues(r)
	}
	return m
}

// request counts a request that ended with err, nil when it was answered.
func (m *metrics) request(direction string, err *embedding.Error) {
	code := codeOK
	if err != nil {
		code = string(err.Code)
	}
	m.requests[[2]string{direction, code}].Inc()
}
