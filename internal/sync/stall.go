package sync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// How long nothing may come before what is under way is ended.
const (
	stallLimit  = 15 * time.Second // of a read
	listStall   = time.Minute      // of a listing
	uploadStall = 2 * time.Minute  // of an upload: a part of a slow line is read bit by bit as it goes out
)

// errStalled is why a watchdog ended something.
var errStalled = errors.New("nothing came")

// watchdog ends a context when nothing comes for a while.
type watchdog struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	limit  time.Duration
	timer  *time.Timer
}

// watch gives a context that ends when alive is not called for as long as limit. stop must be called.
func watch(ctx context.Context, limit time.Duration) (context.Context, *watchdog) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(limit, func() { cancel(fmt.Errorf("%w for %v", errStalled, limit)) })
	return ctx, &watchdog{ctx: ctx, cancel: cancel, limit: limit, timer: timer}
}

func (w *watchdog) alive() { w.timer.Reset(w.limit) }

func (w *watchdog) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// explain gives what the watchdog says in place of the error that its end caused.
func (w *watchdog) explain(err error) error {
	if cause := context.Cause(w.ctx); err != nil && errors.Is(cause, errStalled) {
		return cause
	}
	return err
}

// watchedReader puts off a watchdog with everything that is read.
type watchedReader struct {
	io.Reader
	dog *watchdog
}

func (r *watchedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n > 0 {
		r.dog.alive()
	}
	return n, err
}

// watchedBody puts it off with every question for a part.
type watchedBody struct {
	io.ReaderAt
	dog *watchdog
}

func (b *watchedBody) ReadAt(p []byte, off int64) (int, error) {
	b.dog.alive()
	return b.ReaderAt.ReadAt(p, off)
}
