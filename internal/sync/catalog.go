package sync

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/akidb/akidbd/internal/node"
)

// has says whether a manifest of that model and ID is known.
func (c *catalog) has(name, id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.models[name], func(r *record) bool { return r.ID() == id })
}

func (c *catalog) manifest(sha string) (*record, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.bySHA[sha]
	return r, ok
}

func (c *catalog) blobSize(sha string) (int64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.blobs[sha]
	return n, ok
}

func (c *catalog) names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]string, 0, len(c.models))
	for name := range c.models {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// records lists all manifests of a model, oldest first.
func (c *catalog) records(name string) []*record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.models[name])
}

// candidates are the versions that a node should serve under name, the first of them now, the others where it cannot:
// the publishes that cover it and are not void, the last first, each digest once.
func (c *catalog) candidates(name string, id node.ID, region string) []*record {
	return candidates(c.records(name), id, region)
}

func candidates(records []*record, id node.ID, region string) []*record {
	return versions(records, func(r *record) bool { return r.Kind == KindPublish && r.Scope.Covers(id, region) })
}

// versions lists the last manifest of each digest among those that ok takes and no tombstone took, the last first.
func versions(records []*record, ok func(*record) bool) []*record {
	var out []*record
	for _, r := range slices.Backward(records) {
		if ok(r) && !isVoid(records, r.Manifest) && !slices.ContainsFunc(out, func(o *record) bool { return o.Digest == r.Digest }) {
			out = append(out, r)
		}
	}
	return out
}

// isVoid says whether a later tombstone takes m away.
func isVoid(records []*record, m *Manifest) bool {
	return slices.ContainsFunc(records, func(t *record) bool {
		return t.Kind == KindDelete && (t.Digest == "" || t.Digest == m.Digest) && m.Before(t.Manifest)
	})
}

// live lists the digests of a model that some manifest has and no tombstone took, with the last manifest of each.
func live(records []*record) []*record {
	return versions(records, func(r *record) bool { return r.Kind != KindDelete })
}

// Live lists the manifests of the versions that no tombstone took, of any number of models, the last of each version
// and the last version first.
func Live(all []*Manifest) []*Manifest {
	byName := map[string][]*Manifest{}
	for _, m := range all {
		byName[m.Name] = append(byName[m.Name], m)
	}
	var out []*Manifest
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		for _, r := range live(asRecords(byName[name])) {
			out = append(out, r.Manifest)
		}
	}
	return out
}

// Resolve gives the manifest of the version that a node should serve, nil when there is none, out of all manifests
// of one model.
func Resolve(all []*Manifest, id node.ID, region string) *Manifest {
	if c := candidates(asRecords(all), id, region); len(c) > 0 {
		return c[0].Manifest
	}
	return nil
}

// Previous gives the manifest that a rollback goes back to: of the version before the one that is served everywhere.
func Previous(all []*Manifest) *Manifest {
	if c := candidates(asRecords(all), "", ""); len(c) > 1 {
		return c[1].Manifest
	}
	return nil
}

func asRecords(all []*Manifest) []*record {
	out := make([]*record, len(all))
	for i, m := range all {
		out[i] = &record{Manifest: m}
	}
	slices.SortFunc(out, func(a, b *record) int { return a.compare(b.Manifest) })
	return out
}

// digestDoc is what a node says of its catalog to the others. They learn its SHA-256 by gossip and fetch it as a
// blob when they have not seen one like it: nodes that know and want the same say the same.
type digestDoc struct {
	Wants     []string      `json:"wants"`            // names that it serves or would, sorted
	Copies    bool          `json:"copies,omitempty"` // it may write into the bucket of its region
	Manifests []manifestRef `json:"manifests"`
}

type manifestRef struct {
	Name   string `json:"name"`
	ID     string `json:"id"`
	SHA256 string `json:"sha256"`
}

// maxDoc bounds a digestDoc: about ten thousand manifests.
const maxDoc = 2 << 20

// document is the digestDoc of now. Old manifests are left out when there are too many for it.
func (c *catalog) document(wants []string, copies bool) []byte {
	doc := digestDoc{Wants: wants, Copies: copies, Manifests: []manifestRef{}}
	each := 200
	for {
		doc.Manifests = doc.Manifests[:0]
		for _, name := range c.names() {
			records := c.records(name)
			for _, r := range records[max(0, len(records)-each):] {
				doc.Manifests = append(doc.Manifests, manifestRef{Name: r.Name, ID: r.ID(), SHA256: r.sha})
			}
		}
		data, err := json.Marshal(doc)
		if err == nil && len(data) <= maxDoc || each <= 1 {
			return data
		}
		each /= 2
	}
}

func parseDocument(data []byte) (digestDoc, error) {
	var doc digestDoc
	if len(data) > maxDoc {
		return doc, fmt.Errorf("catalog of %d bytes, the limit is %d", len(data), maxDoc)
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return doc, fmt.Errorf("catalog: %w", err)
	}
	if len(doc.Wants) > maxModels {
		return doc, fmt.Errorf("catalog: %d names are wanted, the limit is %d", len(doc.Wants), maxModels)
	}
	for _, name := range doc.Wants {
		if !nameForm.MatchString(name) {
			return doc, fmt.Errorf("catalog: %.80q is no name of a model", name)
		}
	}
	for _, r := range doc.Manifests {
		if !nameForm.MatchString(r.Name) || !digestForm.MatchString(blobPrefix+r.SHA256) || len(r.ID) > clockDigits+65 {
			return doc, fmt.Errorf("catalog: %.80q, %.80q, %.80q is no manifest", r.Name, r.ID, r.SHA256)
		}
	}
	return doc, nil
}
