package sync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/akidb/akidbd/internal/sync/bucket"
)

// putTries is how often a Put is tried that failed and may have happened.
const putTries = 3

// put writes an object of which nothing else can have the key. It may be there already, also from a try of ours that
// seemed to fail.
func put(ctx context.Context, b bucket.Bucket, key string, body io.ReaderAt, size int64, progress func(int64)) error {
	var err error
	for try := range putTries {
		if try > 0 {
			if serr := sleep(ctx, time.Second<<try/2); serr != nil {
				return serr
			}
		}
		err = b.Put(ctx, key, body, size, progress)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, fs.ErrExist):
			return sameObject(ctx, b, key, size)
		case ctx.Err() != nil || errors.Is(err, bucket.ErrDenied):
			return err
		}
	}
	return err
}

// sameObject checks that what is there under a key, which names its content or its one writer, has the right size.
func sameObject(ctx context.Context, b bucket.Bucket, key string, size int64) error {
	o, err := b.Head(ctx, key)
	if err != nil {
		return err
	}
	if o.Size != size {
		return fmt.Errorf("%s has %d bytes in the bucket, it must have %d: delete it and try again: %w", key, o.Size, size, errCorrupt)
	}
	return nil
}

// PutBlobs puts the files of m, which dir has, into a bucket. A manifest that names them comes after it: nobody ever
// sees half a version. What is there already is not sent again. progress, if not nil, is told of bytes, sent or found
// there.
func PutBlobs(ctx context.Context, b bucket.Bucket, m *Manifest, dir string, progress func(n int64)) error {
	there := map[string]int64{}
	for o, err := range b.List(ctx, blobsPrefix(m.Name)) {
		if err != nil {
			return err
		}
		there[o.Key] = o.Size
	}
	if progress == nil {
		progress = func(int64) {}
	}
	done := map[string]bool{}
	for _, f := range m.Files {
		key := BlobKey(m.Name, f.SHA256)
		size, ok := there[key]
		switch {
		case ok && size != f.Size:
			return fmt.Errorf("%s has %d bytes in the bucket, it must have %d: delete it and try again: %w", key, size, f.Size, errCorrupt)
		case ok || done[key]:
			progress(f.Size)
			continue
		}
		in, err := os.Open(filepath.Join(dir, filepath.FromSlash(f.Path)))
		if err != nil {
			return err
		}
		err = put(ctx, b, key, in, f.Size, progress)
		if err := errors.Join(err, in.Close()); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		done[key] = true
	}
	return nil
}

// PutManifest puts a manifest into a bucket that has its blobs.
func PutManifest(ctx context.Context, b bucket.Bucket, m *Manifest) error {
	raw, err := m.Encode()
	if err != nil {
		return err
	}
	if err := put(ctx, b, ManifestKey(m), bytes.NewReader(raw), int64(len(raw)), nil); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	got, err := getAll(ctx, b, ManifestKey(m), maxManifest)
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if !bytes.Equal(got, raw) {
		return fmt.Errorf("manifest: another one with the clock and node name %s is in the bucket: give each publisher a name of its own", m.ID())
	}
	return nil
}

func getAll(ctx context.Context, b bucket.Bucket, key string, most int64) ([]byte, error) {
	r, err := b.Get(ctx, key, 0, -1, "")
	if err != nil {
		return nil, err
	}
	data, err := readAll(r, most)
	return data, errors.Join(err, r.Close())
}

// Manifests reads all manifests of a bucket, of one model or with "" of all, and moves clock past them. Those that
// cannot be read are told in bad.
func Manifests(ctx context.Context, b bucket.Bucket, name string, clock *Hybrid) (all []*Manifest, bad []error, err error) {
	prefix := modelsPrefix
	if name != "" {
		prefix = versionsPrefix(name)
	}
	for o, err := range b.List(ctx, prefix) {
		if err != nil {
			return nil, nil, err
		}
		if _, _, _, kerr := parseManifestKey(o.Key); kerr != nil {
			continue
		}
		raw, err := getAll(ctx, b, o.Key, maxManifest)
		if err != nil {
			return nil, nil, err
		}
		m, err := ParseManifest(raw)
		if err != nil {
			bad = append(bad, fmt.Errorf("%s: %w", o.Key, err))
			continue
		}
		if clock != nil && m.Clock.Time().Sub(clock.wall()) <= maxAhead {
			clock.Observe(m.Clock)
		}
		all = append(all, m)
	}
	return all, bad, nil
}

// GC is what a collection of garbage would do, or did.
type GC struct {
	Tombstones []*Manifest     // versions that are given up
	Blobs      []bucket.Object // what nothing names any more
	Bytes      int64           // of the blobs
}

// PlanGC says what a bucket holds of a model that is not needed: all but the keep versions that were published last,
// those that some region or node has for itself, and blobs younger than grace, which may belong to a push that is
// under way. The tombstones have no clock yet and are not signed.
func PlanGC(ctx context.Context, b bucket.Bucket, name string, keep int, grace time.Duration, now time.Time) (GC, error) {
	all, bad, err := Manifests(ctx, b, name, nil)
	if err != nil {
		return GC{}, err
	}
	if len(bad) > 0 {
		return GC{}, fmt.Errorf("nothing is removed while there are manifests that cannot be read: %w", errors.Join(bad...))
	}
	records := asRecords(all)
	var plan GC
	used := map[string]bool{}
	kept := map[string]bool{}
	for _, r := range current(records) {
		kept[r.Digest] = true
	}
	versions := live(records)
	for _, r := range versions {
		if kept[r.Digest] || len(kept) < keep {
			kept[r.Digest] = true
			continue
		}
		if now.Sub(r.Clock.Time()) < grace {
			kept[r.Digest] = true
		}
	}
	for _, r := range versions {
		if !kept[r.Digest] {
			plan.Tombstones = append(plan.Tombstones, &Manifest{Format: format, Kind: KindDelete, Name: name, Digest: r.Digest})
			continue
		}
		for _, f := range r.Files {
			used[BlobKey(name, f.SHA256)] = true
		}
	}
	for o, err := range b.List(ctx, blobsPrefix(name)) {
		if err != nil {
			return GC{}, err
		}
		if _, _, ok := parseBlobKey(o.Key); ok && !used[o.Key] && now.Sub(o.Modified) >= grace {
			plan.Blobs = append(plan.Blobs, o)
			plan.Bytes += o.Size
		}
	}
	return plan, nil
}

// current lists what is served somewhere: the last publish of every scope that was used, as long as nothing wider
// came after it.
func current(records []*record) []*record {
	var out []*record
	scopes := map[Scope]bool{{}: true}
	for _, r := range records {
		scopes[r.Scope] = true
	}
	for scope := range scopes {
		if c := candidates(records, scope.Node, scope.Region); len(c) > 0 {
			out = append(out, c[0])
		}
	}
	return out
}
