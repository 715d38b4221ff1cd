package sync

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	askTimeout  = 10 * time.Second // for a small object of a bucket or a document of a node
	lookTimeout = 5 * time.Minute  // for a listing
	unsettled   = 15 * time.Second // until the second look at a plain layout that is new
	unsetPause  = 10 * time.Second // between two looks at a wall clock that is not set
	meetTimeout = 2 * time.Second  // that a bucket waits at the start for what the nodes say
	quickPause  = 20 * time.Millisecond
	// documentPause is how long a catalog that could not be read is left alone. Words come four times a second.
	documentPause = time.Second
)

// watcher looks at one place: at the other nodes, or at one bucket. None waits for another: a bucket that hangs keeps
// no node from hearing of the others.
type watcher struct {
	full    chan struct{}   // one slot: look at everything
	waiters []chan struct{} // closed at the end of the next look that begins. Under Syncer.mu
}

func newWatcher() *watcher { return &watcher{full: make(chan struct{}, 1)} }

// beginLook gives those who wait for the look that begins.
func (s *Syncer) beginLook(w *watcher) []chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiters := w.waiters
	w.waiters = nil
	return waiters
}

func endLook(waiters []chan struct{}) {
	for _, w := range waiters {
		close(w)
	}
}

// watchNodes learns what other nodes say, when they say something new.
func (s *Syncer) watchNodes(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	for first := true; ; first = false {
		full := false
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			full = true
		case <-s.nodes.full:
			full = true
		case <-s.wake:
		case <-again.C:
		}
		var waiters []chan struct{}
		if full {
			waiters = s.beginLook(s.nodes)
		}
		s.judge()
		next := s.takeDue()
		failed := s.lookAtNodes(ctx)
		if failed {
			again.Reset(documentPause)
		}
		if !failed && !s.HasBuckets() {
			s.metrics.lastSuccess.Set(float64(s.now().Unix()))
		}
		if first {
			close(s.met)
		}
		endLook(waiters)
		if s.catalog.judging() {
			next = min(next, unsetPause)
		}
		timer.Reset(next)
		if !full && sleep(ctx, quickPause) != nil { // words come four times a second from each node
			return
		}
	}
}

// watchBucket learns the manifests of a bucket every interval.
func (s *Syncer) watchBucket(ctx context.Context, w *watcher, b NamedBucket, own bool) {
	meet := time.NewTimer(meetTimeout)
	defer meet.Stop()
	select { // which node gets what depends on who is there
	case <-ctx.Done():
		return
	case <-s.met:
	case <-meet.C:
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-w.full:
		}
		waiters := s.beginLook(w)
		settled, err := s.lookAt(ctx, b, own)
		if ctx.Err() != nil {
			return
		}
		endLook(waiters)
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

// LookNow looks at everything, forgets the pauses after failures, and returns when it has looked: each look that it
// waits for began after the call.
func (s *Syncer) LookNow(ctx context.Context) error {
	var looks []chan struct{}
	s.mu.Lock()
	for _, w := range s.watchers() {
		done := make(chan struct{})
		w.waiters = append(w.waiters, done)
		looks = append(looks, done)
	}
	s.mu.Unlock()
	s.state.forgive("")
	s.Look()
	for _, done := range looks {
		select {
		case <-done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	s.kickModels(s.wantedNames()...)
	return nil
}

// watchers are all of them.
func (s *Syncer) watchers() []*watcher {
	return append([]*watcher{s.nodes}, s.atBuckets...)
}

// Look asks for a look at everything soon. It never blocks.
func (s *Syncer) Look() {
	for _, w := range s.watchers() {
		poke(w.full)
	}
}
