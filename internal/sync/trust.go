package sync

import (
	"fmt"
	"time"
)

// Trust is the rule by which nodes take manifests, and by which whoever plans on what a bucket holds must read it: a
// manifest that they refuse says nothing.
type Trust struct {
	Keys Keys             // who is believed; the zero Keys: everybody
	Now  func() time.Time // nil: time.Now
}

// MaxAhead is how far ahead of the wall clock of a node a manifest may be: one from a node whose clock is wrong must not
// win over everything for years. A publisher whose own clock is further ahead writes what nobody takes.
const MaxAhead = 5 * time.Minute

// check says why m is not taken. A clock that cannot be right refuses none for being ahead.
func (t Trust) check(m *Manifest) error {
	if err := t.Keys.Verify(m); err != nil {
		return fmt.Errorf("manifest %s of %s: %w", m.ID(), m.Name, err)
	}
	if ahead := m.Clock.Time().Sub(t.now()); ahead > MaxAhead && wallIsSet(t.now()) {
		return fmt.Errorf("manifest %s of %s: %w by %v, %v is the limit: is the clock of %s right?",
			m.ID(), m.Name, errAhead, ahead.Round(time.Second), MaxAhead, m.Node)
	}
	return nil
}

func (t Trust) now() time.Time {
	if t.Now != nil {
		return t.Now()
	}
	return time.Now()
}
