package sync

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	gosync "sync"
	"time"

	"github.com/akidb/akidbd/internal/node"
)

const (
	maxDocuments = 4 // of this node's own that it still gives out
	// documentTimeout bounds the reading of one document with all its manifests. What has come by then is kept, and
	// the next try goes on.
	documentTimeout = 30 * time.Second
	manifestsAtOnce = 4 // asked of one node
)

// lookAtNodes reads what nodes say of their catalogs and this one has not seen. failed says that some could not be
// read.
func (s *Syncer) lookAtNodes(ctx context.Context) (failed bool) {
	var news []string
	who := map[string][]node.ID{} // that say it
	nodes := s.peers.Nodes()      // never with mu held: they may ask this node for its word
	now := s.now()
	s.mu.Lock()
	for sha, at := range s.later {
		if !now.Before(at) {
			delete(s.later, sha)
		}
	}
	failed = len(s.later) > 0
	for _, n := range nodes {
		sha := n.Word.Catalog
		_, known := s.seen[sha]
		_, wait := s.later[sha]
		if sha == "" || known || wait || !n.Link.Up {
			continue
		}
		if who[sha] == nil {
			news = append(news, sha)
		}
		who[sha] = append(who[sha], n.ID)
	}
	s.mu.Unlock()
	if len(news) == 0 {
		return failed
	}
	var mu gosync.Mutex
	_ = forEach(ctx, s.cfg.Parallel, news, func(ctx context.Context, sha string) error {
		if s.readOneOf(ctx, sha, who[sha]) || ctx.Err() != nil {
			return nil
		}
		s.mu.Lock()
		s.later[sha] = s.now().Add(documentPause)
		s.mu.Unlock()
		mu.Lock()
		defer mu.Unlock()
		failed = true
		return nil
	})
	return failed
}

// readOneOf reads a document from one of the nodes that say it: one that is broken hides nothing that others know.
func (s *Syncer) readOneOf(ctx context.Context, sha string, ids []node.ID) bool {
	rand.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	for _, id := range ids[:min(len(ids), maxGuesses)] {
		err := s.readDocument(ctx, id, sha)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		s.metrics.fail(reasonOf(err))
		s.log.Debug("the catalog of a node cannot be read", "node", id, "err", err)
	}
	return false
}

// readDocument asks a node for a document and for the manifests in it that are new. One manifest that the node lacks
// does not keep the others; any other failure ends it.
func (s *Syncer) readDocument(ctx context.Context, id node.ID, sha string) error {
	ctx, cancel := context.WithTimeout(ctx, documentTimeout)
	defer cancel()
	data, err := s.ask(ctx, id, sha, maxDoc)
	if err != nil {
		return err
	}
	doc, err := parseDocument(data)
	if err != nil {
		return err
	}
	fresh := slices.DeleteFunc(slices.Clone(doc.Manifests), func(ref manifestRef) bool {
		_, known := s.catalog.manifest(ref.SHA256)
		return known || s.isRefused(ref.Name, ref.ID, ref.SHA256)
	})
	var mu gosync.Mutex
	var names []string
	var missing error
	err = forEach(ctx, manifestsAtOnce, fresh, func(ctx context.Context, ref manifestRef) error {
		raw, err := s.ask(ctx, id, ref.SHA256, maxManifest)
		if err != nil {
			err = fmt.Errorf("manifest %s of %s: %w", ref.ID, ref.Name, err)
			if !errors.Is(err, ErrNoBlob) {
				return err
			}
		}
		took := err == nil && s.take(ref.Name, ref.ID, raw)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			missing = err
		}
		if took {
			names = append(names, ref.Name)
		}
		return nil
	})
	s.learned(names)
	if err = errors.Join(err, missing); err != nil {
		return err
	}
	s.remember(sha, doc)
	return nil
}

// maxSeen is how many documents are remembered before those that no node says any more are forgotten.
const maxSeen = 100

func (s *Syncer) remember(sha string, doc digestDoc) {
	slices.Sort(doc.Wants)
	doc.Manifests = nil
	said := map[string]bool{sha: true, s.Catalog(): true}
	for _, n := range s.peers.Nodes() {
		said[n.Word.Catalog] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[sha] = doc
	if len(s.seen) < maxSeen {
		return
	}
	for old := range s.seen {
		if !said[old] {
			delete(s.seen, old)
		}
	}
}

// ask reads a small blob of a node and compares its hash.
func (s *Syncer) ask(ctx context.Context, id node.ID, sha string, most int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r, err := s.peers.Blob(ctx, id, sha, 0, -1)
	if err != nil {
		return nil, err
	}
	data, err := readAll(r, most)
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	if sum(data) != sha {
		return nil, fmt.Errorf("node %s: %w", id, errCorrupt)
	}
	return data, nil
}

// learned tells everybody that manifests of these models are new.
func (s *Syncer) learned(names []string) {
	if len(names) == 0 {
		return
	}
	s.publish()
	s.kickModels(names...)
	poke(s.copy)
}

// publish makes what this node says of its catalog anew.
func (s *Syncer) publish() {
	wants, copies := s.wantedNames(), s.mayCopy()
	data := s.catalog.document(wants, copies)
	sha := sum(data)
	s.mu.Lock()
	changed := len(s.docs) == 0 || s.docs[len(s.docs)-1].sha != sha
	if changed {
		s.docs = append(s.docs[max(0, len(s.docs)-maxDocuments+1):], document{sha: sha, data: data})
		s.said.Store(&sha)
	}
	s.mu.Unlock()
	if changed {
		s.remember(sha, digestDoc{Wants: wants, Copies: copies}) // so that nobody is asked for it
		s.onChange()
	}
}

// Catalog is what this node says to others about what it knows: they fetch the blob of that SHA-256. It takes no lock.
func (s *Syncer) Catalog() string {
	if sha := s.said.Load(); sha != nil {
		return *sha
	}
	return ""
}
