package modelctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/akidb/akidbd/internal/embedding"
	adminv1 "github.com/akidb/akidbd/internal/gen/akidb/admin/v1"
	"github.com/akidb/akidbd/internal/gen/akidb/admin/v1/adminv1connect"
	"github.com/akidb/akidbd/internal/node"
	"github.com/akidb/akidbd/internal/store"
	modelsync "github.com/akidb/akidbd/internal/sync"
	"github.com/akidb/akidbd/internal/sync/bucket"
)

// target is where versions are: a bucket, the running node, or both.
type target struct {
	bucket *bucket.S3                        // nil: none is configured
	where  string                            // what people call the bucket
	node   adminv1connect.AdminServiceClient // nil: none runs

	as     node.ID // who publishes
	region string
	clock  modelsync.Hybrid

	trust   modelsync.Trust // what nodes take
	refused []error         // what the last look at the bucket met that they do not
}

// open finds the bucket and the node. At least one is there.
func (f *flags) open(ctx context.Context) (*target, error) {
	t := &target{}
	region, err := f.openBucket(ctx, t)
	if err != nil {
		return nil, err
	}
	c, dialErr := f.machine.Dial(ctx, f.socket)
	if dialErr == nil {
		t.node = c
	}
	if t.bucket == nil && t.node == nil {
		return nil, fmt.Errorf("no bucket is configured (sync.bucket, or --bucket), and no node to publish through: %w", dialErr)
	}
	name := ""
	if t.node != nil {
		if st, err := t.node.Status(ctx, connect.NewRequest(&adminv1.StatusRequest{})); err == nil {
			name, region = st.Msg.Node, cmp.Or(region, st.Msg.Region)
		}
	}
	t.region = cmp.Or(region, "local")
	return t, t.setName(cmp.Or(f.as, name))
}

// openBucket gives the region of the configuration that the bucket came from.
func (f *flags) openBucket(ctx context.Context, t *target) (region string, err error) {
	c := bucket.S3Config{URL: f.bucket, Endpoint: f.endpoint, Region: f.awsRegion, PathStyle: f.pathStyle}
	cfg, err := f.machine.Config(f.config)
	switch {
	case err != nil && f.bucket != "" && f.config == "" && errors.Is(err, fs.ErrNotExist):
		cfg = nil // a machine that is no node, where all is said by flags
	case err != nil:
		return "", err
	}
	if t.trust.Keys, err = f.trusted(cfg); err != nil {
		return "", err
	}
	if f.bucket == "" {
		s := cfg.Sync
		region = cfg.Node.Region
		c = bucket.S3Config{
			URL: s.Bucket, Endpoint: cmp.Or(f.endpoint, s.Endpoint), Region: cmp.Or(f.awsRegion, s.AWSRegion), PathStyle: f.pathStyle || s.PathStyle,
		}
		if c.URL == "" {
			return "", nil
		}
	}
	t.where = c.URL
	t.bucket, err = bucket.OpenS3(ctx, c)
	return region, err
}

var notInName = regexp.MustCompile(`[^a-zA-Z0-9.-]+`)

func (t *target) setName(name string) error {
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return err
		}
		name = strings.Trim(notInName.ReplaceAllString(host, "-"), "-.")
	}
	if t.as = node.ID(name); !t.as.Valid() {
		return fmt.Errorf("the publisher's name is %.80q, must be 1 to 64 of a-z, A-Z, 0-9, '.' and '-', the first a letter or digit: set --as", name)
	}
	return nil
}

func (t *target) close() error {
	if t.bucket == nil {
		return nil
	}
	return t.bucket.Close()
}

// manifests lists what was published of a model, or with "" of all, and moves the clock past it.
func (t *target) manifests(ctx context.Context, name string) ([]*modelsync.Manifest, error) {
	if t.bucket != nil {
		all, bad, err := modelsync.Manifests(ctx, t.bucket, name, t.trust, &t.clock)
		for _, b := range bad {
			fmt.Fprintln(os.Stderr, "akidbd: left out, as nodes do:", b)
		}
		t.refused = bad
		return all, err
	}
	versions, err := t.versions(ctx, name)
	if err != nil {
		return nil, err
	}
	out := make([]*modelsync.Manifest, len(versions))
	for i, v := range versions {
		out[i] = v.Manifest
	}
	return out, nil
}

// versions lists them as the node sees them.
func (t *target) versions(ctx context.Context, name string) ([]modelsync.Version, error) {
	res, err := t.node.ListVersions(ctx, connect.NewRequest(&adminv1.ListVersionsRequest{Name: name}))
	if err != nil {
		return nil, err
	}
	var out []modelsync.Version
	for _, v := range res.Msg.Versions {
		m, err := modelsync.ParseManifest(v.Manifest)
		if err != nil {
			return nil, err
		}
		out = append(out, modelsync.Version{Manifest: m, Current: v.Current, Serving: v.Serving, Void: v.Deleted, Here: v.Here, Pinned: v.Pinned})
	}
	if c, err := modelsync.ParseClock(res.Msg.Clock); err == nil {
		t.clock.Observe(c)
	}
	return out, nil
}

// bring puts the files of a new version, which dir has, where versions are.
func (t *target) bring(ctx context.Context, m *modelsync.Manifest, dir string, progress func(int64)) error {
	if t.bucket == nil {
		return t.importDir(ctx, m, dir, progress)
	}
	return modelsync.PutBlobs(ctx, t.bucket, m, dir, progress)
}

// believed is an error when the bucket holds a manifest of the model that nodes refuse: what looks at the order of
// versions must not guess what it means.
func (t *target) believed(name string) error {
	if len(t.refused) == 0 {
		return nil
	}
	return fmt.Errorf("%d manifests of %s in the bucket are refused (sync.trusted_keys, or delete them), so nothing is changed: %w",
		len(t.refused), name, errors.Join(t.refused...))
}

// checkClock is an error when this machine's clock is so far ahead that nodes would refuse what it publishes. Where
// nobody says what time it is, nothing is compared.
func (t *target) checkClock(ctx context.Context) error {
	var others []time.Time
	if t.bucket != nil {
		if at, err := t.bucket.Now(ctx); err == nil {
			others = append(others, at)
		}
	}
	if t.node != nil {
		if res, err := t.node.ListVersions(ctx, connect.NewRequest(&adminv1.ListVersionsRequest{})); err == nil {
			if c, err := modelsync.ParseClock(res.Msg.Clock); err == nil {
				others = append(others, c.Time())
			}
		}
	}
	return tooFast(time.Now(), others)
}

func tooFast(now time.Time, others []time.Time) error {
	for _, at := range others {
		if ahead := now.Sub(at); ahead > modelsync.MaxAhead {
			return fmt.Errorf("the clock of this machine is %v ahead, nodes refuse what is over %v: set it right and try again", ahead.Round(time.Second), modelsync.MaxAhead)
		}
	}
	return nil
}

// publish gives a manifest that has none the clock of now, and a signature, puts it where versions are and tells the
// node.
func (t *target) publish(ctx context.Context, f *flags, m *modelsync.Manifest) error {
	if err := t.checkClock(ctx); err != nil {
		return err
	}
	if m.Clock == 0 {
		m.Clock = t.clock.Now()
	}
	if err := f.sign(m); err != nil {
		return err
	}
	if t.bucket != nil {
		if err := modelsync.PutManifest(ctx, t.bucket, m); err != nil {
			return err
		}
	}
	if t.node == nil {
		return nil
	}
	raw, err := m.Encode()
	if err != nil {
		return err
	}
	_, err = t.node.PublishManifest(ctx, connect.NewRequest(&adminv1.PublishManifestRequest{Manifest: raw}))
	if t.bucket == nil || err == nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "akidbd: published, but the running node does not take it:", err)
	return nil
}

// importDir has the node copy a directory, so that others can fetch it from there.
func (t *target) importDir(ctx context.Context, m *modelsync.Manifest, dir string, progress func(int64)) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	res, err := t.node.ImportModel(ctx, connect.NewRequest(&adminv1.ImportModelRequest{Name: m.Name, Path: abs}))
	if err != nil {
		return fmt.Errorf("the node copies %s (it must be able to read it): %w", abs, err)
	}
	same := slices.EqualFunc(res.Msg.Files, m.Files, func(a *adminv1.ModelFile, b store.File) bool {
		return a.Path == b.Path && a.Size == b.Size && a.Sha256 == b.SHA256
	})
	if !same {
		return fmt.Errorf("%s changed while it was published: try again", abs)
	}
	progress(m.Bytes())
	return nil
}

// newManifest is one of this publisher.
func (t *target) newManifest(kind modelsync.Kind, name string, f *flags) *modelsync.Manifest {
	m := modelsync.NewManifest(kind, name, t.as, t.region)
	m.Note = f.note
	m.Scope = modelsync.Scope{Region: f.region, Node: node.ID(f.node)}
	return m
}

// find gives the version of name that asked, hex digits of its digest, begins.
func find(all []*modelsync.Manifest, name, asked string) (*modelsync.Manifest, error) {
	var found *modelsync.Manifest
	for _, m := range modelsync.Live(all) {
		if m.Name != name || !(embedding.Model{Name: name, Digest: m.Digest}).HasDigest(asked) {
			continue
		}
		if found != nil && found.Digest != m.Digest {
			return nil, fmt.Errorf("%s@%s is more than one version: give more digits", name, asked)
		}
		found = m
	}
	if found == nil {
		return nil, fmt.Errorf("%s has no version %s (at least %d digits are needed): akidbd model versions %s", name, asked, embedding.ShortDigestLen, name)
	}
	return found, nil
}

// splitVersion reads NAME@DIGEST.
func splitVersion(text string) (name, digest string, err error) {
	name, digest = embedding.SplitModel(text)
	if name == "" || digest == "" {
		return "", "", fmt.Errorf("%.200q is not NAME@DIGEST: akidbd model versions lists the digests", text)
	}
	return name, digest, nil
}

func show(m *modelsync.Manifest) string {
	return embedding.Model{Name: m.Name, Digest: m.Digest}.String()
}

// code gives the code of an answer of the node.
func code(err error) connect.Code {
	if e, ok := errors.AsType[*connect.Error](err); ok {
		return e.Code()
	}
	return 0
}
