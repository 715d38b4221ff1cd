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
		err = putOnce(ctx, b, key, body, size, progress)
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

func putOnce(ctx context.Context, b bucket.Bucket, key string, body io.ReaderAt, size int64, progress func(int64)) error {
	ctx, dog := watch(ctx, uploadStall)
	defer dog.stop()
	err := b.Put(ctx, key, &watchedBody{body, dog}, size, func(n int64) {
		dog.alive()
		if progress != nil {
			progress(n)
		}
	})
	return dog.explain(err)
}

// sameObject checks that what is there under a key, which names its content or its one writer, has the right size.
func sameObject(ctx context.Context, b bucket.Bucket, key string, size int64) error {
	o, err := b.Head(ctx, key)
	if err != nil {
		return err
	}
	if o.Size != size {
		return wrongSize(key, o.Size, size)
	}
	return nil
}

func wrongSize(key string, got, want int64) error {
	return fmt.Errorf("%s has %d bytes in the bucket, it must have %d: delete it and try again: %w", key, got, want, errCorrupt)
}

// PutBlobs puts the files of m, which dir has, into a bucket. A manifest that names them comes after it: nobody ever
// sees half a version. What is there already is not sent again. progress, if not nil, is told of bytes, sent or found
// there.
func PutBlobs(ctx context.Context, b bucket.Bucket, m *Manifest, dir string, progress func(n int64)) error {
	there := map[string]int64{}
	if err := list(ctx, b, blobsPrefix(m.Name), func(o bucket.Object) { there[o.Key] = o.Size }); err != nil {
		return err
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
			return wrongSize(key, size, f.Size)
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

// Manifests reads all manifests of a bucket, of one model or with "" of all, and moves clock, if not nil, past them.
// Those that cannot be read, or that trust refuses as nodes do, are told in bad.
func Manifests(ctx context.Context, b bucket.Bucket, name string, trust Trust, clock *Hybrid) (all []*Manifest, bad []error, err error) {
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
		if err == nil && ManifestKey(m) != o.Key {
			err = fmt.Errorf("it is the manifest of %s", ManifestKey(m))
		}
		if err == nil {
			err = trust.check(m)
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("%s: %w", o.Key, err))
			continue
		}
		if clock != nil {
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
// under way. The tombstones say no publisher and are not signed; the clock of each is just after the last manifest of
// its version, so that it takes away nothing that is said meanwhile. A manifest that trust refuses is an error: what
// nodes serve must not be judged by what they do not believe.
func PlanGC(ctx context.Context, b bucket.Bucket, name string, keep int, grace time.Duration, trust Trust) (GC, error) {
	now := trust.now()
	all, bad, err := Manifests(ctx, b, name, trust, nil)
	if err != nil {
		return GC{}, err
	}
	if len(bad) > 0 {
		return GC{}, fmt.Errorf("nothing is removed while there are manifests that cannot be read or are refused (sync.trusted_keys, or delete them): %w", errors.Join(bad...))
	}
	records := asRecords(all)
	var plan GC
	used := map[string]bool{}
	kept := map[string]bool{}
	for _, r := range current(records) {
		kept[r.Digest] = true
	}
	for _, r := range live(records) {
		if !kept[r.Digest] && len(kept) >= keep && now.Sub(r.Clock.Time()) >= grace {
			plan.Tombstones = append(plan.Tombstones, &Manifest{Format: format, Kind: KindDelete, Name: name, Digest: r.Digest, Clock: r.Clock + 1})
			continue
		}
		kept[r.Digest] = true
		for _, f := range r.Files {
			used[BlobKey(name, f.SHA256)] = true
		}
	}
	err = list(ctx, b, blobsPrefix(name), func(o bucket.Object) {
		if _, _, ok := parseBlobKey(o.Key); ok && !used[o.Key] && now.Sub(o.Modified) >= grace {
			plan.Blobs = append(plan.Blobs, o)
			plan.Bytes += o.Size
		}
	})
	if err != nil {
		return GC{}, err
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

// Missing lists the keys of files of m that a bucket does not have: a collection of garbage may have met a publish.
func Missing(ctx context.Context, b bucket.Bucket, m *Manifest) ([]string, error) {
	there := map[string]bool{}
	if err := list(ctx, b, blobsPrefix(m.Name), func(o bucket.Object) { there[o.Key] = true }); err != nil {
		return nil, err
	}
	var out []string
	for _, f := range m.Files {
		if key := BlobKey(m.Name, f.SHA256); !there[key] {
			out = append(out, key)
		}
	}
	return out, nil
}
