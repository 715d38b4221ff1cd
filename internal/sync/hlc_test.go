package sync

import (
	"slices"
	gosync "sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestClockText(t *testing.T) {
	c := ClockAt(time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)) + 7
	got, err := ParseClock(c.String())
	if err != nil || got != c || len(c.String()) != clockDigits {
		t.Errorf("%s: %v, %v", c, got, err)
	}
	if !c.Time().Equal(time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)) {
		t.Errorf("time is %v", c.Time())
	}
	for _, bad := range []string{"", "1", "000000000000000G", "+000000000000001", "0000000000000001 ", "00000000000000012", "ABCDEFABCDEFABCD"} {
		if _, err := ParseClock(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	texts := []string{ClockAt(time.Unix(1, 0)).String(), ClockAt(time.Unix(900, 0)).String(), c.String()}
	if !slices.IsSorted(texts) {
		t.Errorf("texts do not sort as clocks: %v", texts)
	}
}

// A node whose wall clock is wrong, or jumps back, still says what comes after everything it has seen.
func TestHybridNeverGoesBack(t *testing.T) {
	wall := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	h := &Hybrid{Wall: func() time.Time { return wall }}
	first := h.Now()
	wall = time.Unix(0, 0)
	if next := h.Now(); next <= first {
		t.Errorf("after the clock jumped back: %v after %v", next, first)
	}
	seen := ClockAt(time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC))
	h.Observe(seen)
	if next := h.Now(); next <= seen {
		t.Errorf("%v is not after the observed %v", next, seen)
	}
	wall = time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	if next := h.Now(); next < ClockAt(wall) {
		t.Errorf("%v is before the wall clock", next.Time())
	}
}

func TestHybridIsUnique(t *testing.T) {
	var h Hybrid
	const each, writers = 500, 8
	var mu gosync.Mutex
	seen := map[Clock]bool{}
	var wg gosync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				c := h.Now()
				mu.Lock()
				seen[c] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != each*writers {
		t.Errorf("%d different clocks of %d", len(seen), each*writers)
	}
}
