package sync

import (
	"cmp"
	"context"
	"errors"
	"hash/fnv"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/akidb/akidbd/internal/node"
)

// Peers are the other nodes of the fleet.
type Peers interface {
	// Nodes are the others as this node knows them. The slice is immutable.
	Nodes() []node.Info
	// Blob opens length bytes of a blob of a node from offset on, to its end when length is negative. It never dials.
	// ErrNoBlob, ErrComing and ErrBusy say why that node does not give it.
	Blob(ctx context.Context, from node.ID, sha string, offset, length int64) (io.ReadCloser, error)
}

// Source is where bytes come from, for metrics.
type Source string

// The closed set of sources.
const (
	SourceS3         Source = "s3"          // the bucket of this region
	SourceS3Remote   Source = "s3_remote"   // the bucket of another region
	SourcePeer       Source = "peer"        // a node of this region
	SourcePeerRemote Source = "peer_remote" // a node of another region
)

// Sources lists them all, for pre-created labels.
func Sources() []Source { return []Source{SourceS3, SourceS3Remote, SourcePeer, SourcePeerRemote} }

// source is one place that may have a blob.
type source struct {
	name string // for people, and unique
	kind Source
	open func(ctx context.Context, offset, length int64) (io.ReadCloser, error)
}

// healthy says whether a node can be asked for blobs.
func healthy(n node.Info) bool { return n.Link.Up && n.Word.State != node.Draining }

// rendezvous gives the one of ids that all nodes with the same ids choose for a key: only the keys of a node that
// comes or goes move.
func rendezvous(key string, ids []node.ID) node.ID {
	var best node.ID
	var most uint64
	for _, id := range ids {
		h := fnv.New64a()
		_, _ = io.WriteString(h, key+"\x00"+string(id))
		// FNV of like strings is alike: its bits are mixed before they are compared (the finalizer of MurmurHash3).
		v := h.Sum64()
		v = (v ^ v>>33) * 0xff51afd7ed558ccd
		v = (v ^ v>>33) * 0xc4ceb9fe1a85ec53
		v ^= v >> 33
		if best == "" || v > most || v == most && id < best {
			best, most = id, v
		}
	}
	return best
}

// chosen is the node of this region that gets a version from outside it: one of those that want the model, or of all
// when none does. It is this node when it sees no others.
func (s *Syncer) chosen(name, key string) node.ID {
	return s.choose(name, key, true, func(node.Info) bool { return true })
}

// chosenToCopy is the node of this region that copies a version into its bucket: of those that may write there, one
// that wants the model if any does. It is "" when others may and none of them is known to, and this node when it may
// not but nobody else could either.
func (s *Syncer) chosenToCopy(name, key string) node.ID {
	best := s.choose(name, key, s.mayCopy(), s.saysItCopies)
	if best == "" && s.own != nil && !s.cfg.ReadOnly {
		return s.cfg.Node
	}
	return best
}

// choose gives one of the healthy nodes of this region that may do something, preferably of those that want the model;
// "" when none may.
func (s *Syncer) choose(name, key string, self bool, may func(node.Info) bool) node.ID {
	var all, wanting []node.ID
	add := func(id node.ID, wants bool) {
		all = append(all, id)
		if wants {
			wanting = append(wanting, id)
		}
	}
	if self {
		add(s.cfg.Node, s.wanted(name))
	}
	for _, n := range s.peers.Nodes() {
		if n.Region == s.cfg.Region && healthy(n) && may(n) {
			add(n.ID, s.wants(n, name))
		}
	}
	if len(wanting) > 0 {
		all = wanting
	}
	return rendezvous(key, all)
}

// mayCopy says whether this node may write into the bucket of its region, as far as it knows.
func (s *Syncer) mayCopy() bool {
	if s.own == nil || s.cfg.ReadOnly {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.now().Before(s.denied)
}

func (s *Syncer) saysItCopies(n node.Info) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[n.Word.Catalog].Copies
}

// maxGuesses is how many nodes are asked that may have a part of a blob.
const maxGuesses = 3

// tiers are the places that may have a blob of r, the best first. Within one, any will do.
func (s *Syncer) tiers(r *record, sha string) (tiers [][]source, leader node.ID) {
	leader = s.chosen(r.Name, r.Digest)
	var near, far []source
	var first []source
	guesses := 0
	nodes := slices.Clone(s.peers.Nodes())
	slices.SortStableFunc(nodes, func(a, b node.Info) int { return cmp.Compare(a.Link.RTT, b.Link.RTT) })
	for _, n := range nodes {
		if !healthy(n) {
			continue
		}
		src := s.peerSource(n, sha)
		serves := slices.ContainsFunc(n.Word.Models, func(m node.Served) bool { return m.Digest == r.Digest })
		switch {
		case n.Region != s.cfg.Region && (serves || s.wants(n, r.Name)):
			far = append(far, src)
		case n.Region != s.cfg.Region:
		case serves:
			near = append(near, src)
		case n.ID == leader:
			first = append([]source{src}, first...)
		case guesses < maxGuesses && s.wants(n, r.Name):
			guesses++ // it may have a part already, and then the chosen node has less to give
			first = append(first, src)
		}
	}
	if s.own != nil {
		tiers = append(tiers, []source{s.bucketSource(*s.own, SourceS3, r, sha)})
	}
	var remotes []source
	for _, b := range s.remotes {
		remotes = append(remotes, s.bucketSource(b, SourceS3Remote, r, sha))
	}
	tiers = append(tiers, remotes, far)
	tiers = append([][]source{near, first}, tiers...)
	return slices.DeleteFunc(tiers, func(t []source) bool { return len(t) == 0 }), leader
}

func (s *Syncer) peerSource(n node.Info, sha string) source {
	kind := SourcePeer
	if n.Region != s.cfg.Region {
		kind = SourcePeerRemote
	}
	return source{name: "node " + string(n.ID), kind: kind, open: func(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
		return s.peers.Blob(ctx, n.ID, sha, offset, length)
	}}
}

func (s *Syncer) bucketSource(b NamedBucket, kind Source, r *record, sha string) source {
	key := BlobKey(r.Name, sha)
	if byHand(r.Node) && r.Region == b.Region {
		key = plainKey(r.Manifest, sha)
	}
	return source{name: b.Name, kind: kind, open: func(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
		return b.Get(ctx, key, offset, length, "")
	}}
}

// isMissing says that a source answered that it does not have the blob.
func isMissing(err error) bool { return errors.Is(err, ErrNoBlob) || errors.Is(err, fs.ErrNotExist) }

// How long a node waits for the one that gets a blob for the region before it asks the bucket itself.
const (
	unknownPatience = 1500 * time.Millisecond // when that node does not know the blob: it may not have heard of it
	comingPatience  = 10 * time.Second        // when it gets the blob, but nothing of it comes
	pollPause       = 40 * time.Millisecond   // between two questions
)
