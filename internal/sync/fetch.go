package sync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	gosync "sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/akidb/akidbd/internal/store"
)

// rounds is how often every source may fail before a fetch is given up; whoever wanted it tries again later.
const rounds = 2

// retryPause is how long a source that failed is left alone at first.
const retryPause = 250 * time.Millisecond

// fetch gets one blob.
type fetch struct {
	s    *Syncer
	r    *record
	sha  string
	d    *download
	cool *cooling
	only *source // nil: any
	from time.Time
	told func(n int64)
}

// fetchVersion brings all files of r into the directory incoming, or finds them in the store, and gives the place
// of each by its SHA-256. What was fetched by an attempt before is not fetched again.
func (s *Syncer) fetchVersion(ctx context.Context, r *record, told func(n int64)) (map[string]string, error) {
	places := map[string]string{}
	var missing []store.File
	var bytes int64
	for sha, size := range shas(r) {
		if place, ok := s.local(ctx, sha, size); ok {
			places[sha] = place
			s.metrics.cacheHits.Inc()
			told(size)
			continue
		}
		missing = append(missing, store.File{SHA256: sha, Size: size})
		bytes += size - s.partial(sha)
	}
	if err := s.makeRoom(bytes, r); err != nil {
		return nil, err
	}
	slices.SortFunc(missing, func(a, b store.File) int { return cmp.Compare(b.Size, a.Size) }) // the longest first
	var mu gosync.Mutex
	err := forEach(ctx, s.cfg.Parallel, missing, func(ctx context.Context, f store.File) error {
		place, err := s.fetchBlob(ctx, r, f.SHA256, f.Size, told)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		places[f.SHA256] = place
		return nil
	})
	if err != nil {
		return nil, err
	}
	return places, nil
}

// forEach calls f for all items, up to parallel at a time, until one fails or ctx ends.
func forEach[T any](ctx context.Context, parallel int, items []T, f func(context.Context, T) error) error {
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, item := range items {
		if gctx.Err() != nil {
			break
		}
		group.Go(func() error { return f(gctx, item) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// local finds a blob on this node. One of the store is read and compared: disks forget, and it would be linked into
// a new version.
func (s *Syncer) local(ctx context.Context, sha string, size int64) (string, bool) {
	place := filepath.Join(s.incoming, sha)
	if info, err := os.Lstat(place); err == nil && info.Mode().IsRegular() && info.Size() == size {
		return place, true
	}
	place, n, ok := s.store.Blob(sha)
	if !ok || n != size {
		return "", false
	}
	got, _, err := store.HashFile(ctx, place)
	return place, err == nil && got == sha
}

// partial counts the bytes of a blob that an earlier attempt left.
func (s *Syncer) partial(sha string) int64 {
	marks, err := os.ReadFile(filepath.Join(s.incoming, sha+".map"))
	if err != nil {
		return 0
	}
	var n int64
	for _, m := range marks {
		n += int64(m) * s.chunk
	}
	return n
}

// makeRoom checks that bytes more fit, and makes the store give up old versions for them.
func (s *Syncer) makeRoom(bytes int64, r *record) error {
	if err := s.evict(r.Bytes()); err != nil {
		return err
	}
	return s.hasRoom(bytes, r)
}

// hasRoom checks that bytes more fit.
func (s *Syncer) hasRoom(bytes int64, r *record) error {
	room, err := s.room()
	if err != nil {
		return err
	}
	if room < bytes {
		return fmt.Errorf("%w for %d bytes of %s in %s, %d are free: make room, or lower sync.keep", errNoRoom, bytes, r.Name, s.incoming, room)
	}
	return nil
}

// fetchBlob gets one blob into incoming. One at a time for each blob: the second one finds what the first got.
func (s *Syncer) fetchBlob(ctx context.Context, r *record, sha string, size int64, told func(int64)) (string, error) {
	unlock, err := s.flights.lock(ctx, sha)
	if err != nil {
		return "", err
	}
	defer unlock()
	if place, ok := s.local(ctx, sha, size); ok {
		told(size)
		return place, nil
	}
	if err := s.hasRoom(size-s.partial(sha), r); err != nil {
		return "", err
	}
	counted := int64(0)
	mixed, err := s.attempt(ctx, r, sha, size, nil, told, &counted)
	if err == nil || !errors.Is(err, errCorrupt) {
		return filepath.Join(s.incoming, sha), err
	}
	s.metrics.fail(ReasonCorrupt)
	s.log.Warn("a blob was not what its hash says, its sources are tried one by one", "model", r.Name, "sha256", sha, "sources", mixed)
	// Somebody gave wrong bytes. Whoever it was, alone he is found out.
	errs := []error{}
	tiers, _ := s.tiers(r, sha)
	for _, src := range slices.Concat(tiers...) {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if len(mixed) == 1 && mixed[0] == src.name && src.kind != SourceS3 && src.kind != SourceS3Remote {
			errs = append(errs, fmt.Errorf("%s: %w", src.name, err))
			continue // it was alone already
		}
		_, err := s.attempt(ctx, r, sha, size, &src, func(int64) {}, &counted)
		if err == nil {
			return filepath.Join(s.incoming, sha), nil
		}
		if !isMissing(err) {
			errs = append(errs, fmt.Errorf("%s: %w", src.name, err))
		}
	}
	return "", errors.Join(append(errs, fmt.Errorf("no source has blob %s of %s as it should be: %w", sha, r.Name, errCorrupt))...)
}

// attempt downloads a blob once and gives the sources that took part.
func (s *Syncer) attempt(ctx context.Context, r *record, sha string, size int64, only *source, told func(int64), counted *int64) (from []string, err error) {
	d, err := openDownload(s.incoming, sha, size, s.chunk)
	if err != nil {
		return nil, err
	}
	s.flights.put(sha, d)
	defer func() {
		s.flights.drop(sha)
		err = errors.Join(err, d.close())
	}()
	if had := d.arrived(); had > *counted {
		told(had - *counted)
		*counted = had
	}
	now := s.now()
	f := &fetch{s: s, r: r, sha: sha, d: d, cool: newCooling(now), only: only, from: now, told: told}
	if err := forEach(ctx, s.cfg.Parallel, d.missing(), f.chunk); err != nil {
		return nil, err
	}
	err = d.finish()
	for name := range d.from {
		from = append(from, name)
	}
	return from, err
}

// chunk gets chunk i from whoever has it.
func (f *fetch) chunk(ctx context.Context, i int) error {
	for round := 0; ; {
		tried, waiting, done := f.once(ctx, i)
		if done {
			return nil
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if tried && !waiting {
			round++
		}
		if round >= rounds || !tried && !waiting && f.hopeless() {
			if err := f.cool.reasons(); err != nil {
				return err
			}
			return fmt.Errorf("blob %s of %s: %w, no bucket and no node to ask", f.sha, f.r.Name, ErrNoBlob)
		}
		pause := pollPause
		if !waiting {
			pause = retryPause
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// hopeless says that there is nobody to ask at all.
func (f *fetch) hopeless() bool {
	tiers, _ := f.tiers()
	return len(tiers) == 0
}

func (f *fetch) tiers() (tiers [][]source, leader string) {
	if f.only != nil {
		return [][]source{{*f.only}}, ""
	}
	tiers, id := f.s.tiers(f.r, f.sha)
	return tiers, "node " + string(id)
}

// once asks the sources in turn until one gives chunk i. waiting says that a node of this region gets the blob, or may
// be about to, so that the bucket is not asked yet.
func (f *fetch) once(ctx context.Context, i int) (tried, waiting, done bool) {
	tiers, leader := f.tiers()
	for _, tier := range tiers {
		if waiting && tier[0].kind != SourcePeer {
			break
		}
		for k := range tier {
			src := tier[(i+k)%len(tier)]
			now := f.s.now()
			if !f.cool.ready(src, now) {
				waiting = waiting || f.patient(src, leader, now)
				continue
			}
			err := f.try(ctx, src, i)
			if err == nil {
				f.cool.worked(src, f.s.now())
				return true, false, true
			}
			if ctx.Err() != nil {
				return true, false, false
			}
			f.note(src, err, leader)
			if f.patient(src, leader, f.s.now()) {
				waiting = true
			} else {
				tried = true
			}
		}
	}
	return tried, waiting, false
}

// note remembers that a source failed. One that is getting the blob is asked again at once.
func (f *fetch) note(src source, err error, leader string) {
	waits := errors.Is(err, ErrComing) || errors.Is(err, ErrBusy)
	if src.name == leader && errors.Is(err, ErrNoBlob) || src.kind == SourcePeer && waits {
		f.cool.later(src, err, pollPause, f.s.now())
		return
	}
	if !isMissing(err) && !waits {
		f.s.metrics.fail(reasonOf(err))
		f.s.log.Debug("a source of a blob failed", "model", f.r.Name, "sha256", f.sha, "source", src.name, "err", err)
	}
	f.cool.failed(src, err, retryPause, f.s.now())
}

// patient says whether to wait for a source that has not given the chunk rather than to ask those behind it.
func (f *fetch) patient(src source, leader string, now time.Time) bool {
	switch err := f.cool.lastOf(src); {
	case src.kind != SourcePeer:
		return false
	case errors.Is(err, ErrBusy), errors.Is(err, ErrComing) && src.name == leader:
		return f.cool.idle(now) < comingPatience
	case errors.Is(err, ErrNoBlob) && src.name == leader:
		return now.Sub(f.from) < unknownPatience
	}
	return false
}

// try reads chunk i from one source.
func (f *fetch) try(ctx context.Context, src source, i int) error {
	ctx, dog := watch(ctx, stallLimit)
	defer dog.stop()
	offset, length := f.d.span(i)
	body, err := src.open(ctx, offset, length)
	if err != nil {
		return dog.explain(err)
	}
	in := &meter{ctx: ctx, r: body, dog: dog, f: f, kind: src.kind}
	err = f.d.fill(i, src.name, in)
	if err := errors.Join(dog.explain(err), body.Close()); err != nil {
		f.told(-in.n)
		return err
	}
	return nil
}

// meter counts and slows down what is read, and notices when nothing comes.
type meter struct {
	ctx  context.Context
	r    io.Reader
	dog  *watchdog
	f    *fetch
	kind Source
	n    int64
}

const meterStep = 64 << 10 // bytes told to the rate limiter at a time

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p[:min(len(p), meterStep)])
	if n > 0 {
		if err := m.f.s.limiter.WaitN(m.ctx, n); err != nil {
			return 0, err
		}
		m.dog.alive()
		m.n += int64(n)
		m.f.told(int64(n))
		m.f.s.metrics.received(m.kind, n)
	}
	return n, err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
