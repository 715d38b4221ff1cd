package replication

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/akidb/akidbd/internal/sync/bucket"
)

const (
	// ProbePrefix is where probes are: below Layout, so that the rules for models carry them, and under a name that no
	// model has, so that no node takes them for one.
	ProbePrefix = Layout + ".akidb-probe/"
	// MaxTimeout of Verify.
	MaxTimeout = 45 * time.Minute
	// abandoned is the age of a probe whose Verify has ended, whatever its timeout was.
	abandoned = time.Hour
	// removeTime is how long the removal of a probe is tried.
	removeTime = 30 * time.Second
)

// End is one side of Verify.
type End struct {
	Name   string // for people
	Bucket bucket.Bucket
}

// VerifyOptions are Verify's. The zero values are the defaults.
type VerifyOptions struct {
	Timeout  time.Duration // for a probe to arrive; default 15 m, at most MaxTimeout
	Interval time.Duration // between two looks, and so the resolution of the times; default 1 s
}

// Probe is what happened to an object that was written on one side.
type Probe struct {
	From    string  `json:"from"`
	To      string  `json:"to"`
	Key     string  `json:"key"`
	Arrived bool    `json:"arrived"`
	Seconds float64 `json:"seconds"` // from the end of the write until it was seen, or until nobody looked any more
	Removed bool    `json:"removed"` // from both sides; true if it was never written
	Error   string  `json:"error,omitempty"`
}

// Report is Verify's.
type Report struct {
	Probes    []Probe `json:"probes"`    // from a to b, from b to a
	Leftovers int     `json:"leftovers"` // probes of earlier runs that were cut short, which this one removed
}

// OK says whether replication works both ways.
func (r Report) OK() bool {
	for _, p := range r.Probes {
		if !p.Arrived {
			return false
		}
	}
	return true
}

// Verify writes a small object on each side, waits until it is on the other, and removes both from both, also when ctx
// ends. What keeps a probe from arriving is in the report. The error is that of a side which cannot be listed: nothing
// was written then.
func Verify(ctx context.Context, a, b End, o VerifyOptions) (Report, error) {
	if o.Timeout <= 0 {
		o.Timeout = 15 * time.Minute
	}
	o.Timeout = min(o.Timeout, MaxTimeout)
	if o.Interval <= 0 {
		o.Interval = time.Second
	}
	r := Report{Probes: make([]Probe, 2)}
	var errs []error
	for _, e := range []End{a, b} {
		n, err := sweep(ctx, e)
		r.Leftovers += n
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return Report{}, err
	}
	var wg sync.WaitGroup
	wg.Go(func() { r.Probes[0] = probe(ctx, a, b, o) })
	wg.Go(func() { r.Probes[1] = probe(ctx, b, a, o) })
	wg.Wait()
	return r, nil
}

// sweep removes the probes of runs that were killed.
func sweep(ctx context.Context, e End) (n int, err error) {
	for o, err := range e.Bucket.List(ctx, ProbePrefix) {
		if err != nil {
			return n, err
		}
		if time.Since(o.Modified) < abandoned {
			continue
		}
		if err := e.Bucket.Delete(ctx, o.Key); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func probe(ctx context.Context, from, to End, o VerifyOptions) Probe {
	name := rand.Text()
	p := Probe{From: from.Name, To: to.Name, Key: ProbePrefix + name}
	body := "a probe of akidbd aws s3-replication verify, to be removed: " + name + "\n"
	err := from.Bucket.Put(ctx, p.Key, strings.NewReader(body), int64(len(body)), nil)
	if errors.Is(err, bucket.ErrDenied) { // and so not written
		p.Removed, p.Error = true, err.Error()
		return p
	}
	if err == nil {
		start := time.Now()
		err = await(ctx, to.Bucket, p.Key, body, o)
		p.Seconds = time.Since(start).Seconds()
	}
	p.Arrived = err == nil
	// A write that failed may have happened, and what did not arrive in time may be under way.
	removeErr := remove(context.WithoutCancel(ctx), p.Key, o.Interval, from, to)
	p.Removed = removeErr == nil
	if err = errors.Join(err, removeErr); err != nil {
		p.Error = err.Error()
	}
	return p
}

// await looks until the object is there. What may pass is waited for, wrong credentials are not.
func await(ctx context.Context, b bucket.Bucket, key, body string, o VerifyOptions) error {
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, errLate)
	defer cancel()
	var last error
	for {
		err := look(ctx, b, key, body)
		switch {
		case err == nil, errors.Is(err, bucket.ErrDenied), errors.Is(err, errOther):
			return err
		case ctx.Err() == nil:
			last = err
		}
		select {
		case <-time.After(o.Interval):
		case <-ctx.Done():
		}
		switch cause := context.Cause(ctx); {
		case cause == nil:
		case !errors.Is(cause, errLate):
			return cause
		case last == nil || errors.Is(last, fs.ErrNotExist):
			return fmt.Errorf("not there after %s: see whether the source has a replication rule, and the object's ReplicationStatus (aws s3api head-object)", o.Timeout)
		default:
			return fmt.Errorf("not seen for %s: %w", o.Timeout, last)
		}
	}
}

var (
	errLate  = errors.New("timeout")
	errOther = errors.New("an object of other content is there")
)

func look(ctx context.Context, b bucket.Bucket, key, body string) error {
	r, err := b.Get(ctx, key, 0, -1, "")
	if err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(r, int64(len(body))+1))
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	if !bytes.Equal(data, []byte(body)) {
		return fmt.Errorf("%s: %w", key, errOther)
	}
	return nil
}

// remove deletes on both sides until neither has the object any more: a replica that was under way may come after the
// first try. The delete markers are replicated like anything else, and say the same.
func remove(ctx context.Context, key string, interval time.Duration, ends ...End) error {
	ctx, cancel := context.WithTimeout(ctx, removeTime)
	defer cancel()
	for {
		var errs []error
		for _, e := range ends {
			if err := removeFrom(ctx, e, key); err != nil {
				errs = append(errs, fmt.Errorf("%s may be left in %s, remove it by hand: %w", key, e.Name, err))
			}
		}
		if len(errs) == 0 {
			return nil
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
		}
		if ctx.Err() != nil || errors.Is(errors.Join(errs...), bucket.ErrDenied) {
			return errors.Join(errs...)
		}
	}
}

func removeFrom(ctx context.Context, e End, key string) error {
	if err := e.Bucket.Delete(ctx, key); err != nil {
		return err
	}
	_, err := e.Bucket.Head(ctx, key)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil:
		return errors.New("it is still there")
	}
	return err
}
