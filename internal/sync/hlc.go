package sync

import (
	"fmt"
	"strconv"
	"sync"
	"time"
)

// Clock is a moment of the hybrid logical clock: 48 bits of Unix milliseconds, then 16 bits that count what
// happened within one of them. Clocks that were read from what others wrote are never reached again, however
// wrong the wall clock of a node is.
type Clock uint64

const (
	clockDigits = 16
	logicalBits = 16
	maxMillis   = 1<<(64-logicalBits) - 1
)

// ClockAt is the first moment of t's millisecond; times before 1970 are 1970.
func ClockAt(t time.Time) Clock {
	return Clock(min(uint64(max(0, t.UnixMilli())), maxMillis) << logicalBits)
}

// Time is the wall clock part.
func (c Clock) Time() time.Time { return time.UnixMilli(int64(c >> logicalBits)) }

// String is 16 hex digits, which sort as the clock does.
func (c Clock) String() string { return fmt.Sprintf("%016x", uint64(c)) }

// ParseClock reads what String writes, and nothing else.
func ParseClock(s string) (Clock, error) {
	v, err := strconv.ParseUint(s, 16, 64)
	if err != nil || Clock(v).String() != s {
		return 0, fmt.Errorf("%.40q is no clock: must be %d hex digits", s, clockDigits)
	}
	return Clock(v), nil
}

// MarshalText gives String.
func (c Clock) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (c *Clock) UnmarshalText(text []byte) (err error) {
	*c, err = ParseClock(string(text))
	return err
}

// Hybrid gives Clocks that grow, also past those that were observed. The zero value reads time.Now.
type Hybrid struct {
	Wall func() time.Time // nil: time.Now

	mu   sync.Mutex
	last Clock
}

// Now is a Clock after every one given and observed before, and not before the wall clock.
func (h *Hybrid) Now() Clock {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = max(h.last+1, ClockAt(h.wall()))
	return h.last
}

// Observe makes later Clocks come after c. The caller has refused those that are too far ahead.
func (h *Hybrid) Observe(c Clock) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = max(h.last, c)
}

func (h *Hybrid) wall() time.Time {
	if h.Wall != nil {
		return h.Wall()
	}
	return time.Now()
}

// clockSet is the latest wall clock that cannot be right: the year before this code was written. A Jetson without
// a battery starts in 1970 until the network sets it.
var clockSet = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

// wallIsSet says whether the wall clock can be right.
func wallIsSet(now time.Time) bool { return now.After(clockSet) }
