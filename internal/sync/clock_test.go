package sync

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/sync/bucket/buckettest"
)

const decade = 10 * 365 * 24 * time.Hour

// A clock that is behind after a start does not refuse what is on disk.
func TestClockBehindAfterAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		n := f.add("a", "eu", withBucket(b))
		f.push(b, "op", "eu", "one", nil)
		n.sync.Look()
		settle(time.Minute)
		n.want("one")
		b.SetFault(func(buckettest.Op, string) *buckettest.Fault { return &buckettest.Fault{Err: errors.New("no network")} })
		n.skew = -time.Hour
		n.restart()
		settle(time.Minute)
		n.want("one")
	})
}

// What was taken while the clock was not set is judged when it is, also after a start.
func TestJudgedWhenTheClockIsSet(t *testing.T) {
	for name, again := range map[string]bool{"at once": false, "after a start": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, b := newFleet(t), &buckettest.Fake{}
				f.push(b, "op", "eu", "one", nil)
				settle(time.Second)
				n := f.add("a", "eu", func(n *testNode) { withBucket(b)(n); n.skew = -5 * decade })
				f.push(b, "wild", "eu", "two", func(m *Manifest) { m.Clock = ClockAt(f.now().Add(decade)) })
				n.sync.Look()
				settle(time.Minute)
				n.want("two") // nothing tells it apart yet
				if c := n.sync.Clock(); c.Time().After(f.now()) {
					t.Errorf("the clock followed to %v", c.Time())
				}
				if again {
					n.kill()
				}
				if n.shift.Store(int64(5 * decade)); again {
					n.restart()
				}
				settle(time.Minute)
				n.want("one")
				if c := n.sync.Clock(); c.Time().After(f.now().Add(time.Minute)) {
					t.Errorf("the clock is at %v", c.Time())
				}
				n.restart()
				settle(time.Minute)
				n.want("one")
			})
		})
	}
}

// A failure that was noted by a clock years ahead does not keep a version away for years.
func TestPausesOfAWildClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		f.push(b, "op", "eu", "one", nil)
		b.SetFault(onBlobs(&buckettest.Fault{Err: errDown}))
		n := f.add("a", "eu", func(n *testNode) { withBucket(b)(n); n.skew = decade })
		settle(time.Minute)
		n.kill()
		n.skew = 0
		b.SetFault(nil)
		n.restart()
		settle(5 * time.Minute)
		n.want("one")
	})
}

// A manifest that is a little ahead is taken when its time has come, also where only nodes tell of it.
func TestAheadByNodesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		p := f.add("p", "eu", func(n *testNode) { withBucket(b)(n); n.skew = 6 * time.Minute })
		n := f.add("a", "eu", nil)
		settle(time.Second)
		f.push(b, "p", "eu", "one", func(m *Manifest) { m.Clock = ClockAt(f.now().Add(6 * time.Minute)) })
		p.sync.Look()
		settle(30 * time.Second)
		n.wantNothing()
		settle(40 * time.Second)
		n.want("one")
		if r := n.sync.Status().Refused; len(r) > 0 {
			t.Errorf("still refused: %+v", r)
		}
	})
}

func TestClockAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b := newFleet(t), &buckettest.Fake{}
		n := f.add("a", "eu", withBucket(b))
		f.push(b, "op", "eu", "one", nil)
		n.sync.Look()
		settle(time.Second)
		ahead := f.push(b, "fast", "eu", "two", func(m *Manifest) { m.Clock = ClockAt(f.now().Add(20 * time.Minute)) })
		n.sync.Look()
		settle(time.Second)
		n.want("one")
		st := n.sync.Status()
		if len(st.Refused) != 1 || st.Refused[0].ID != ahead.ID() || st.Refused[0].Reason != ReasonClock {
			t.Errorf("refused: %+v", st.Refused)
		}
		if n.failures(ReasonClock) != 1 {
			t.Errorf("%v failures by the clock, want one for all looks", n.failures(ReasonClock))
		}
		// It does not push the clock of this node ahead, so that what is published here now still wins over "one".
		if c := n.sync.Clock(); c.Time().After(f.now().Add(time.Minute)) {
			t.Errorf("the clock followed to %v", c.Time())
		}
		settle(30 * time.Minute) // when its time has come, it counts
		n.want("two")

		unset := f.add("unset", "eu", func(n *testNode) { withBucket(b)(n); n.skew = -50 * 365 * 24 * time.Hour })
		settle(time.Second)
		unset.want("two")
		if unset.sync.Status().ClockSet {
			t.Error("a clock in 1976 counts as set")
		}
	})
}
