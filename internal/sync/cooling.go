package sync

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	gosync "sync"
	"time"
)

// cooling are the sources that failed lately, of one download.
type cooling struct {
	mu    gosync.Mutex
	until map[string]time.Time
	fails map[string]int
	last  map[string]error
	moved time.Time // when a node that waits for it gave something last
}

func newCooling(now time.Time) *cooling {
	return &cooling{until: map[string]time.Time{}, fails: map[string]int{}, last: map[string]error{}, moved: now}
}

// failed keeps a source out for a while that doubles, from pause on.
func (c *cooling) failed(src source, err error, pause time.Duration, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Before(c.until[src.name]) { // parts that were asked for at once fail at once: that is one failure
		c.last[src.name] = err
		return
	}
	n := min(c.fails[src.name], 6)
	c.fails[src.name]++
	c.until[src.name] = now.Add(pause << n)
	c.last[src.name] = err
}

func (c *cooling) worked(src source, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.fails, src.name)
	delete(c.until, src.name)
	if src.kind == SourcePeer {
		c.moved = now
	}
}

func (c *cooling) ready(src source, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !now.Before(c.until[src.name])
}

func (c *cooling) idle(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return now.Sub(c.moved)
}

// reasons joins what every source said last, each with its name.
func (c *cooling) reasons() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for name, err := range c.last {
		errs = append(errs, fmt.Errorf("%s: %w", name, err))
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// later keeps a source out for a fixed while that says nothing against it.
func (c *cooling) later(src source, err error, pause time.Duration, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until[src.name] = now.Add(pause)
	c.last[src.name] = err
}

func (c *cooling) lastOf(src source) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last[src.name]
}
