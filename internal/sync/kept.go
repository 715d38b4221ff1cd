package sync

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	gosync "sync"
	"time"

	"github.com/akidb/akidbd/internal/atomicfile"
)

// Limits of the catalog: what is over them is not taken.
const (
	maxModels   = 1000
	maxVersions = 1000      // manifests of one model
	maxCatalog  = 128 << 20 // bytes of all manifests
)

// record is a manifest that was taken.
type record struct {
	*Manifest
	raw     []byte
	sha     string // of raw
	unaware bool   // taken while the wall clock was not set: it is judged when it is. Under catalog.mu
}

// catalog is what this node knows of all models. It only grows, up to its limits, and is kept on disk so that a node
// without a network knows what to serve.
type catalog struct {
	dir   string // holds <name>/<id>.json, and <name>/<id>.unset of those that are to be judged; "" keeps nothing
	trust Trust
	clock *Hybrid

	mu     gosync.Mutex
	models map[string][]*record // sorted, oldest first
	bySHA  map[string]*record
	blobs  map[string]int64 // size by SHA-256, of the files of all manifests
	bytes  int              // of all manifests
	unset  int              // records that are to be judged
	floor  map[string]Clock // of models with too many manifests: those up to it were dropped
}

// unsetSuffix ends the names of manifests that were taken while the wall clock was not set.
const unsetSuffix = ".unset"

// errKeep is of a manifest that is taken, but would be forgotten at the next start.
var errKeep = errors.New("the manifest cannot be kept on disk")

func openCatalog(dir string, keys Keys, clock *Hybrid, now func() time.Time) (*catalog, []error) {
	c := &catalog{
		dir: dir, trust: Trust{Keys: keys, Now: now}, clock: clock,
		models: map[string][]*record{}, bySHA: map[string]*record{}, blobs: map[string]int64{}, floor: map[string]Clock{},
	}
	var bad []error
	for _, suffix := range []string{jsonSuffix, unsetSuffix} {
		paths, err := filepath.Glob(filepath.Join(dir, "*", "*"+suffix))
		if err != nil {
			bad = append(bad, err)
		}
		for _, p := range paths {
			raw, err := readLimited(p, maxManifest)
			if err == nil {
				name := filepath.Base(filepath.Dir(p))
				_, err = c.take(raw, name, strings.TrimSuffix(filepath.Base(p), suffix), suffix)
			}
			if err != nil {
				bad = append(bad, fmt.Errorf("%s: %w", p, err))
			}
		}
	}
	return c, bad
}

// add takes the manifest that a model and an ID promise, and keeps it. It says whether it is new. With errKeep it was
// taken all the same.
func (c *catalog) add(raw []byte, name, id string) (*record, bool, error) {
	r, err := c.take(raw, name, id, "")
	if err != nil || r == nil {
		return nil, false, err
	}
	if c.dir == "" {
		return r, true, nil
	}
	c.mu.Lock()
	path := c.path(r)
	c.mu.Unlock()
	err = os.MkdirAll(filepath.Dir(path), 0o750)
	if err == nil {
		err = atomicfile.Write(path, raw, 0o640)
	}
	if err != nil {
		return r, true, fmt.Errorf("%w: %w", errKeep, err)
	}
	return r, true, nil
}

// path is where r is kept.
func (c *catalog) path(r *record) string {
	suffix := jsonSuffix
	if r.unaware {
		suffix = unsetSuffix
	}
	return filepath.Join(c.dir, r.Name, r.ID()+suffix)
}

// take gives the record of a manifest that is new, nil for one that is known. kept is the suffix of the file that it
// comes from, "" when it comes from somebody else. What was taken once is not refused for being ahead later: the clock
// of this node may be behind after a start.
func (c *catalog) take(raw []byte, name, id, kept string) (*record, error) {
	sha := sum(raw)
	c.mu.Lock()
	known := c.bySHA[sha]
	c.mu.Unlock()
	if known != nil && known.Name == name && known.ID() == id {
		return nil, nil
	}
	m, err := ParseManifest(raw)
	if err != nil {
		return nil, err
	}
	if m.Name != name || m.ID() != id {
		return nil, fmt.Errorf("manifest %s of %s: it says that it is %s of %s", id, name, m.ID(), m.Name)
	}
	r := &record{Manifest: m, raw: raw, sha: sha, unaware: kept == unsetSuffix || kept == "" && !wallIsSet(c.trust.now())}
	if err := c.trust.check(m); err != nil && (kept == "" || !errors.Is(err, errAhead)) {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.insert(r)
}

// insert is called with mu held.
func (c *catalog) insert(r *record) (*record, error) {
	list := c.models[r.Name]
	if len(list) == 0 && len(c.models) >= maxModels {
		return nil, fmt.Errorf("manifest of %s: there are %d models already, the limit", r.Name, maxModels)
	}
	if floor, ok := c.floor[r.Name]; ok && r.Clock <= floor {
		return nil, fmt.Errorf("manifest of %s: it is older than the last %d, the limit", r.Name, len(list))
	}
	if len(list) >= maxVersions {
		if list = c.dropOldest(r.Name); len(list) >= maxVersions {
			return nil, fmt.Errorf("manifest of %s: there are %d manifests already that count, the limit", r.Name, maxVersions)
		}
	}
	if c.bytes+len(r.raw) > maxCatalog {
		return nil, fmt.Errorf("manifest of %s: all manifests would have %d bytes, the limit is %d", r.Name, c.bytes+len(r.raw), maxCatalog)
	}
	i, same := slices.BinarySearchFunc(list, r, func(a, b *record) int { return a.compare(b.Manifest) })
	if same {
		// Two said different things at one moment under one name: all nodes must settle on the same.
		if list[i].sha >= r.sha {
			return nil, nil
		}
		c.forget(list[i])
		list[i] = r
	} else {
		list = slices.Insert(list, i, r)
	}
	c.models[r.Name] = list
	c.bySHA[r.sha] = r
	c.bytes += len(r.raw)
	for _, f := range r.Files {
		c.blobs[f.SHA256] = f.Size
	}
	if r.unaware {
		c.unset++
	} else {
		c.clock.Observe(r.Clock)
	}
	return r, nil
}

// forget takes a record out of everything but the list of its model. mu is held.
func (c *catalog) forget(r *record) {
	delete(c.bySHA, r.sha)
	c.bytes -= len(r.raw)
	if r.unaware {
		c.unset--
	}
}

// dropAtOnce is how many manifests go when there are too many: finding them takes a look at all.
const dropAtOnce = maxVersions / 10

// dropOldest makes room among the manifests of a model and gives those that stay. What a node somewhere should serve
// stays, and so do tombstones of what stays. mu is held.
func (c *catalog) dropOldest(name string) []*record {
	list := c.models[name]
	counts := map[*record]bool{}
	scopes := map[Scope]bool{}
	for _, r := range slices.Backward(list) {
		if r.Kind == KindPublish && !scopes[r.Scope] && !isVoid(list, r.Manifest) {
			scopes[r.Scope], counts[r] = true, true
		}
	}
	var stay, gone []*record
	for _, r := range list {
		needed := counts[r] || r.Kind == KindDelete && slices.ContainsFunc(stay, func(o *record) bool {
			return o.Kind != KindDelete && (r.Digest == "" || r.Digest == o.Digest)
		})
		if needed || len(gone) >= dropAtOnce {
			stay = append(stay, r)
		} else {
			gone = append(gone, r)
		}
	}
	for _, r := range gone {
		c.floor[name] = max(c.floor[name], r.Clock)
	}
	c.drop(name, stay, gone)
	return stay
}

// drop removes records, also from the disk, where a failure means that they are dropped again after a start. mu is
// held.
func (c *catalog) drop(name string, stay, gone []*record) {
	if c.models[name] = stay; len(stay) == 0 {
		delete(c.models, name)
	}
	for _, r := range gone {
		c.forget(r)
		if c.dir != "" {
			_ = os.Remove(c.path(r))
		}
	}
	if len(gone) == 0 {
		return
	}
	c.blobs = map[string]int64{}
	for _, list := range c.models {
		for _, r := range list {
			for _, f := range r.Files {
				c.blobs[f.SHA256] = f.Size
			}
		}
	}
}

// judge compares what was taken while the wall clock was not set with the clock, once it is set. Those that are too
// far ahead are dropped and given back, each with why.
func (c *catalog) judge() (ahead []*record, why []error, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unset == 0 || !wallIsSet(c.trust.now()) {
		return nil, nil, nil
	}
	var errs []error
	for name, list := range c.models {
		var stay, gone []*record
		for _, r := range list {
			if r.unaware {
				if err := c.trust.check(r.Manifest); err != nil {
					gone, why = append(gone, r), append(why, err)
					continue
				}
				errs = append(errs, c.settle(r))
			}
			stay = append(stay, r)
		}
		if len(gone) > 0 {
			c.drop(name, stay, gone)
			ahead = append(ahead, gone...)
		}
	}
	return ahead, why, errors.Join(errs...)
}

// settle makes a record one like all others. mu is held.
func (c *catalog) settle(r *record) error {
	from := c.path(r)
	r.unaware = false
	c.unset--
	c.clock.Observe(r.Clock)
	if c.dir == "" {
		return nil
	}
	if err := os.Rename(from, c.path(r)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// judging says whether there are records to judge.
func (c *catalog) judging() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unset > 0
}
