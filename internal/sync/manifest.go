package sync

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"unicode"
	"unicode/utf8"

	"github.com/akidb/akidbd/internal/node"
	"github.com/akidb/akidbd/internal/store"
)

// Limits of a manifest. A thousand files with paths of 512 bytes fit.
const (
	maxManifest  = 1 << 20 // bytes
	maxNote      = 1000    // bytes
	maxRegion    = 63      // bytes
	maxSignature = 1000    // bytes
)

// format is the version of the manifests that this program writes and reads. What is signed is what is understood:
// a manifest with a field that is not known is refused, so a new field needs a new format.
const format = 1

var (
	nameForm   = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$`)
	regionForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$`)
	digestForm = regexp.MustCompile(`^sha256-[0-9a-f]{64}$`)
)

// Kind is what a manifest does.
type Kind string

// Kinds of manifests.
const (
	KindPublish Kind = "publish" // these files are a version, and the name moves to it
	KindStage   Kind = "stage"   // these files are a version; the name stays where it is
	KindDelete  Kind = "delete"  // a tombstone: versions of that digest, or all with an empty one, that are older than this are void
)

// Manifest is one thing that was said about a model, once and for all: its key in the bucket is never written again.
type Manifest struct {
	Format int     `json:"format"`
	Kind   Kind    `json:"kind"`
	Name   string  `json:"name"`
	Clock  Clock   `json:"clock"`
	Node   node.ID `json:"node"`   // who said it; breaks ties of the clock
	Region string  `json:"region"` // where
	Scope  Scope   `json:"scope,omitzero"`
	Digest string  `json:"digest,omitempty"`
	Note   string  `json:"note,omitempty"`
	Files  Files   `json:"files,omitempty"`
	Signed string  `json:"signature,omitempty"` // minisign, over the manifest without it
}

// NewManifest fills in what every manifest has, but for the clock.
func NewManifest(kind Kind, name string, id node.ID, region string) *Manifest {
	return &Manifest{Format: format, Kind: kind, Name: name, Node: id, Region: region}
}

// Files are the files of a version, sorted by path.
type Files = []store.File

// Scope limits where a publish moves the name: to one region or one node, for a canary. The zero Scope is everywhere.
type Scope struct {
	Region string  `json:"region,omitempty"`
	Node   node.ID `json:"node,omitempty"`
}

// Covers says whether a node is in the scope.
func (s Scope) Covers(id node.ID, region string) bool {
	return (s.Region == "" || s.Region == region) && (s.Node == "" || s.Node == id)
}

// String is for people.
func (s Scope) String() string {
	switch {
	case s.Node != "":
		return "node " + string(s.Node)
	case s.Region != "":
		return "region " + s.Region
	}
	return "everywhere"
}

// Bytes is the size of all files.
func (m *Manifest) Bytes() int64 {
	var n int64
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

// Before orders manifests of one name: the last of them wins.
func (m *Manifest) Before(o *Manifest) bool { return m.compare(o) < 0 }

func (m *Manifest) compare(o *Manifest) int {
	return cmp.Or(cmp.Compare(m.Clock, o.Clock), cmp.Compare(m.Node, o.Node))
}

// ID names a manifest among those of its model, "<clock>-<node>".
func (m *Manifest) ID() string { return m.Clock.String() + "-" + string(m.Node) }

// Encode checks m and gives its bytes: compact JSON with the fields in the order of the struct, which is also what
// is signed. The same manifest always gives the same bytes.
func (m *Manifest) Encode() ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	data, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(data) > maxManifest {
		return nil, fmt.Errorf("manifest of %s has %d bytes, the limit is %d", m.Name, len(data), maxManifest)
	}
	return data, nil
}

// ParseManifest reads what Encode writes and refuses everything else.
func ParseManifest(data []byte) (*Manifest, error) {
	if len(data) > maxManifest {
		return nil, fmt.Errorf("manifest of %d bytes, the limit is %d", len(data), maxManifest)
	}
	var probe struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(data, &probe); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if probe.Format != format {
		return nil, fmt.Errorf("manifest of format %d, this program reads %d: upgrade it", probe.Format, format)
	}
	var m Manifest
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("manifest: something follows it")
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return &m, nil
}

func (m *Manifest) check() error {
	bad := func(what string, args ...any) error { return fmt.Errorf("manifest: "+what, args...) }
	switch {
	case m.Format != format:
		return bad("format %d, must be %d", m.Format, format)
	case !nameForm.MatchString(m.Name):
		return bad("%.80q is no name of a model", m.Name)
	case m.Clock == 0:
		return bad("no clock")
	case !m.Node.Valid():
		return bad("%.80q is no name of a node", m.Node)
	case !regionForm.MatchString(m.Region):
		return bad("%.80q is no name of a region", m.Region)
	case m.Scope.Region != "" && !regionForm.MatchString(m.Scope.Region):
		return bad("%.80q is no name of a region", m.Scope.Region)
	case m.Scope.Node != "" && !m.Scope.Node.Valid():
		return bad("%.80q is no name of a node", m.Scope.Node)
	case len(m.Note) > maxNote || !printable(m.Note):
		return bad("the note has %d bytes, it may have %d of printable text", len(m.Note), maxNote)
	case len(m.Signed) > maxSignature:
		return bad("the signature has %d bytes, the limit is %d", len(m.Signed), maxSignature)
	}
	switch m.Kind {
	case KindDelete:
		if m.Digest != "" && !digestForm.MatchString(m.Digest) || len(m.Files) > 0 {
			return bad("a tombstone names a digest or none, and no files")
		}
		return nil
	case KindPublish, KindStage:
	default:
		return bad("kind %.40q, must be %s, %s or %s", m.Kind, KindPublish, KindStage, KindDelete)
	}
	if err := store.CheckFiles(m.Files); err != nil {
		return bad("%w", err)
	}
	if got := store.Digest(m.Files); got != m.Digest {
		return bad("the digest is %.80q, but its files have %s", m.Digest, got)
	}
	return nil
}

// printable is what a terminal may be given: one line of text.
func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

func sum(data []byte) string {
	h := sha256.Sum256(data)
	return hex.EncodeToString(h[:])
}
