package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// A stage is one part of the daemon's life. run calls ready when what comes after it may start, then works until
// ctx ends, and returns when it has stopped.
type stage struct {
	name string
	run  func(ctx context.Context, ready func()) error
}

// runStages starts the stages in order, each when the one before is ready, and runs them until ctx ends or one
// fails. Then it stops them one at a time in reverse order: a plain errgroup would stop all at once, and a
// drain has an order. All stops share the budget grace; a stage that overruns it is named, left behind and the
// next one is stopped.
func runStages(ctx context.Context, log *slog.Logger, grace func() time.Duration, stages ...stage) error {
	type running struct {
		stage
		cancel context.CancelFunc
		done   chan error
	}
	var started []running
	ended := make(chan struct{}) // closed when the first stage ends, asked or not
	var once sync.Once
	var errs []error

	for _, s := range stages {
		sctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		r := running{s, cancel, make(chan error, 1)}
		ready := make(chan struct{})
		go func() {
			r.done <- s.run(sctx, func() { close(ready) })
			once.Do(func() { close(ended) })
		}()
		started = append(started, r)
		select {
		case <-ready:
			continue
		case <-ended:
		case <-ctx.Done():
		}
		break
	}
	select {
	case <-ctx.Done():
	case <-ended:
	}

	budget, stop := context.WithTimeout(context.WithoutCancel(ctx), grace())
	defer stop()
	for i := len(started) - 1; i >= 0; i-- {
		r := started[i]
		r.cancel()
		var err error
		select {
		case err = <-r.done:
		default:
			began := time.Now()
			select {
			case err = <-r.done:
				log.Debug("stage stopped", "stage", r.name, "seconds", time.Since(began).Seconds())
			case <-budget.Done():
				err = fmt.Errorf("did not stop in time")
			}
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			errs = append(errs, fmt.Errorf("%s: %w", r.name, err))
		}
	}
	return errors.Join(errs...)
}
