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
	"github.com/akidb/akidbd/internal/sync/bucket"
)

const (
	askTimeout   = 10 * time.Second // for a small object of a bucket or a document of a node
	lookTimeout  = 5 * time.Minute  // for a listing
	unsettled    = 15 * time.Second // until the second look at a plain layout that is new
	maxDocuments = 4                // of this node's own that it still gives out
	quickPause   = 20 * time.Millisecond
	// documentPause is how long a catalog that could not be read is left alone. Words come four times a second.
	documentPause = time.Second
)

// watch learns manifests: of other nodes when they say something new, of the buckets every interval.
func (s *Syncer) watch(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	failures := 0
	for {
		full := false
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			full = true
		case <-s.full:
			full = true
		case <-s.wake:
		case <-again.C:
		}
		if s.lookAtNodes(ctx) {
			again.Reset(documentPause)
		}
		if !full {
			if sleep(ctx, quickPause) != nil { // words come four times a second from each node
				return
			}
			continue
		}
		settled, err := s.lookAtBuckets(ctx)
		s.endLook()
		next := jitter(s.cfg.Interval)
		switch {
		case err != nil:
			next = min(next, jitter(time.Second<<min(failures, 9)))
			failures++
		case !settled:
			next, failures = min(next, unsettled), 0
		default:
			failures = 0
		}
		timer.Reset(next)
		poke(s.copy)
	}
}

// jitter is d, give or take a tenth.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}

func (s *Syncer) endLook() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looked++
	for _, w := range s.waiters {
		close(w)
	}
	s.waiters = nil
}

// LookNow looks at everything, forgets the pauses after failures, and returns when it has looked.
func (s *Syncer) LookNow(ctx context.Context) error {
	done := make(chan struct{})
	s.mu.Lock()
	s.waiters = append(s.waiters, done)
	s.mu.Unlock()
	s.state.forgive("")
	s.Look()
	select {
	case <-done:
		s.kickModels(s.wantedNames()...)
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// lookAtNodes reads what nodes say of their catalogs and this one has not seen. failed says that some could not be
// read.
func (s *Syncer) lookAtNodes(ctx context.Context) (failed bool) {
	asked := map[string]bool{}
	var news []node.Info
	nodes := s.peers.Nodes() // never with mu held: they may ask this node for its word
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
		if sha == "" || known || wait || asked[sha] || !n.Link.Up {
			continue
		}
		asked[sha] = true
		news = append(news, n)
	}
	s.mu.Unlock()
	if len(news) == 0 {
		return failed
	}
	var mu gosync.Mutex
	_ = forEach(ctx, s.cfg.Parallel, news, func(ctx context.Context, n node.Info) error {
		err := s.readDocument(ctx, n)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		s.metrics.fail(reasonOf(err))
		s.log.Debug("the catalog of a node cannot be read", "node", n.ID, "err", err)
		s.mu.Lock()
		s.later[n.Word.Catalog] = s.now().Add(documentPause)
		s.mu.Unlock()
		mu.Lock()
		defer mu.Unlock()
		failed = true
		return nil
	})
	return failed
}

func (s *Syncer) readDocument(ctx context.Context, n node.Info) error {
	data, err := s.ask(ctx, n.ID, n.Word.Catalog, maxDoc)
	if err != nil {
		return err
	}
	doc, err := parseDocument(data)
	if err != nil {
		return err
	}
	var names []string
	var missing error
	for _, ref := range doc.Manifests {
		if _, known := s.catalog.manifest(ref.SHA256); known || s.isRefused(ref.Name, ref.ID) {
			continue
		}
		raw, err := s.ask(ctx, n.ID, ref.SHA256, maxManifest)
		if err != nil {
			missing = fmt.Errorf("manifest %s of %s: %w", ref.ID, ref.Name, err)
			continue
		}
		if s.take(ref.Name, ref.ID, raw) {
			names = append(names, ref.Name)
		}
	}
	if missing == nil {
		s.remember(n.Word.Catalog, doc)
	}
	s.learned(names)
	return missing
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

// take adds a manifest to the catalog and says whether it is new. One that is refused is told once.
func (s *Syncer) take(name, id string, raw []byte) bool {
	key := name + "/" + id
	_, fresh, err := s.catalog.add(raw, name, id)
	s.mu.Lock()
	_, told := s.refused[key]
	if err == nil {
		delete(s.refused, key)
		s.mu.Unlock()
		return fresh
	}
	reason := reasonOf(err)
	if reason == ReasonUnavailable {
		reason = ReasonManifest
	}
	if len(s.refused) < maxVersions {
		s.refused[key] = refusal{reason: reason, text: err.Error()}
	}
	s.mu.Unlock()
	if !told {
		s.metrics.fail(reason)
		s.log.Error("a manifest is refused", "model", name, "manifest", id, "reason", reason, "err", err)
	}
	return fresh
}

// isRefused says whether a manifest was refused for something that time does not change.
func (s *Syncer) isRefused(name, id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.refused[name+"/"+id]
	return ok && r.reason != ReasonClock
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
	wants := s.wantedNames()
	data := s.catalog.document(wants)
	sha := sum(data)
	s.mu.Lock()
	changed := len(s.docs) == 0 || s.docs[len(s.docs)-1].sha != sha
	if changed {
		s.docs = append(s.docs[max(0, len(s.docs)-maxDocuments+1):], document{sha: sha, data: data})
		s.said.Store(&sha)
	}
	s.mu.Unlock()
	if changed {
		s.remember(sha, digestDoc{Wants: wants}) // so that nobody is asked for it
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

// lookAtBuckets learns the manifests of the own bucket and, on the node that copies, of the others. settled says that
// nothing was seen that needs a second look soon.
func (s *Syncer) lookAtBuckets(ctx context.Context) (settled bool, err error) {
	settled = true
	buckets := []NamedBucket{}
	if s.own != nil {
		buckets = append(buckets, *s.own)
	}
	copies := s.copies()
	if copies {
		buckets = append(buckets, s.remotes...)
	}
	var errs []error
	for i, b := range buckets {
		own := s.own != nil && i == 0
		ok, err := s.lookAtBucket(ctx, b, own, copies)
		if ctx.Err() != nil {
			return true, err
		}
		s.noteBucket(b, err)
		if err != nil {
			errs = append(errs, err)
		}
		settled = settled && ok
	}
	err = errors.Join(errs...)
	if err == nil {
		s.metrics.lastSuccess.Set(float64(s.now().Unix()))
	}
	return settled, err
}

// copies says whether this node looks at all models and at other regions' buckets for its region.
func (s *Syncer) copies() bool {
	ids := []node.ID{s.cfg.Node}
	for _, n := range s.peers.Nodes() {
		if n.Region == s.cfg.Region && healthy(n) {
			ids = append(ids, n.ID)
		}
	}
	return rendezvous("catalog", ids) == s.cfg.Node
}

// noteBucket tells of a bucket that stopped answering, or answers again, once.
func (s *Syncer) noteBucket(b NamedBucket, err error) {
	s.mu.Lock()
	before, known := s.buckets[b.Name]
	s.buckets[b.Name] = err
	s.mu.Unlock()
	if err != nil {
		s.metrics.fail(reasonOf(err))
	}
	switch {
	case err != nil && (!known || before == nil):
		s.log.Error("a bucket cannot be read, what is served goes on", "bucket", b.Name, "reason", reasonOf(err), "err", err)
	case err == nil && before != nil:
		s.log.Info("a bucket can be read again", "bucket", b.Name)
	}
}

// lookAtBucket learns the manifests of one bucket: of all models, or of those that this node wants.
func (s *Syncer) lookAtBucket(ctx context.Context, b NamedBucket, own, all bool) (settled bool, err error) {
	prefixes := []string{modelsPrefix}
	if !all {
		prefixes = nil
		for _, name := range s.wantedNames() {
			if own && s.chosen(name, plainKind) == s.cfg.Node {
				prefixes = append(prefixes, modelPrefix(name))
			} else {
				prefixes = append(prefixes, versionsPrefix(name))
			}
		}
	}
	var keys []string
	held := map[string]bool{}
	plain := map[string][]bucket.Object{}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	for _, prefix := range prefixes {
		for o, err := range b.List(ctx, prefix) {
			if err != nil {
				return true, err
			}
			held[o.Key] = true
			name, rest, ok := splitKey(o.Key)
			_, _, _, merr := parseManifestKey(o.Key)
			switch {
			case !ok:
			case merr == nil && o.Size <= maxManifest:
				keys = append(keys, o.Key)
			case own && s.wanted(name) && isPlain(rest):
				plain[name] = append(plain[name], o)
			}
		}
	}
	if own && all {
		s.mu.Lock()
		s.held = held
		s.mu.Unlock()
	}
	err = s.readManifests(ctx, b, keys)
	settled = true
	if own {
		for name, objects := range plain {
			ok, perr := s.lookAtPlain(ctx, b, name, objects)
			settled = settled && ok
			err = errors.Join(err, perr)
		}
	}
	return settled, err
}

func (s *Syncer) readManifests(ctx context.Context, b NamedBucket, keys []string) error {
	var fresh []string
	for _, key := range keys {
		name, clock, id, _ := parseManifestKey(key)
		m := Manifest{Clock: clock, Node: id}
		if !s.catalog.has(name, m.ID()) && !s.isRefused(name, m.ID()) {
			fresh = append(fresh, key)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	names := make(chan string, len(fresh))
	err := forEach(ctx, s.cfg.Parallel, fresh, func(ctx context.Context, key string) error {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		r, err := b.Get(ctx, key, 0, -1, "")
		if err != nil {
			return err
		}
		raw, err := readAll(r, maxManifest)
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
		name, clock, id, _ := parseManifestKey(key)
		m := Manifest{Clock: clock, Node: id}
		if s.take(name, m.ID(), raw) {
			names <- name
		}
		return nil
	})
	close(names)
	var learned []string
	for name := range names {
		if !slices.Contains(learned, name) {
			learned = append(learned, name)
		}
	}
	s.learned(learned)
	return err
}
