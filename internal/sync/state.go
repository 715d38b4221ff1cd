package sync

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"slices"
	gosync "sync"
	"time"

	"github.com/akidb/akidbd/internal/atomicfile"
)

// Trouble is a version that this node tried to serve and does not.
type Trouble struct {
	Reason Reason    `json:"reason"`
	Text   string    `json:"text"`
	Tries  int       `json:"tries"`
	Since  time.Time `json:"since"`
	Next   time.Time `json:"next"` // when it is tried again
}

// Quarantined says that the version itself is at fault, as far as this node can tell.
func (t Trouble) Quarantined() bool { return t.Reason.lasting() }

// longest is the longest pause before the next try, with its jitter.
func (t Trouble) longest() time.Duration {
	if t.Quarantined() {
		return lastQuarantine + lastQuarantine/10
	}
	return lastPause + lastPause/10
}

// Pauses before a version is tried again, doubled with each try.
const (
	firstPause      = time.Second // what could not be reached
	lastPause       = 2 * time.Minute
	firstQuarantine = time.Minute // what is at fault itself
	lastQuarantine  = time.Hour
)

// modelState is what a node remembers of a model.
type modelState struct {
	Good    string             `json:"good,omitempty"`    // digest that served last
	Pins    []string           `json:"pins,omitempty"`    // digests that the store keeps
	Origin  []string           `json:"origin,omitempty"`  // digests that were published from this node's store
	Trouble map[string]Trouble `json:"trouble,omitempty"` // by digest
}

// state is kept in a file. A node that cannot write it still works.
type state struct {
	path string
	log  *slog.Logger

	mu     gosync.Mutex
	models map[string]*modelState
}

const maxState = 4 << 20

func openState(path string, log *slog.Logger, now time.Time) *state {
	s := &state{path: path, log: log, models: map[string]*modelState{}}
	data, err := readLimited(path, maxState)
	if errors.Is(err, fs.ErrNotExist) {
		return s
	}
	if err == nil {
		err = json.Unmarshal(data, &s.models)
	}
	if err != nil || s.models == nil {
		log.Warn("what this node knew about its models is lost, it learns it again", "path", path, "err", err)
		s.models = map[string]*modelState{}
	}
	for name, m := range s.models {
		if m == nil {
			delete(s.models, name)
			continue
		}
		for digest, t := range m.Trouble { // the wall clock may have been years ahead when it was written
			if most := now.Add(t.longest()); t.Next.After(most) {
				t.Next = most
				m.Trouble[digest] = t
			}
		}
	}
	return s
}

// change calls f with the state of a model and writes the file.
func (s *state) change(name string, f func(*modelState)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.models[name]
	if m == nil {
		m = &modelState{}
		s.models[name] = m
	}
	if m.Trouble == nil {
		m.Trouble = map[string]Trouble{}
	}
	f(m)
	s.write()
}

// write is called with mu held.
func (s *state) write() {
	data, err := json.Marshal(s.models)
	if err == nil {
		err = atomicfile.Write(s.path, data, 0o640)
	}
	if err != nil {
		s.log.Warn("what this node knows about its models cannot be written", "path", s.path, "err", err)
	}
}

func (s *state) get(name string) modelState {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.models[name]
	if m == nil {
		return modelState{}
	}
	out := *m
	out.Pins, out.Origin = slices.Clone(m.Pins), slices.Clone(m.Origin)
	out.Trouble = make(map[string]Trouble, len(m.Trouble))
	for digest, t := range m.Trouble {
		out.Trouble[digest] = t
	}
	return out
}

// served notes that a version serves.
func (s *state) served(name, digest string) {
	if m := s.get(name); m.Good == digest && len(m.Trouble) == 0 {
		return
	}
	s.change(name, func(m *modelState) {
		m.Good = digest
		delete(m.Trouble, digest)
	})
}

// failed notes that a version could not be served, and says when it is tried again.
func (s *state) failed(name, digest string, err error, now time.Time) Trouble {
	var t Trouble
	s.change(name, func(m *modelState) {
		t = m.Trouble[digest]
		reason := reasonOf(err)
		if t.Reason != reason {
			t = Trouble{Since: now}
		}
		first, last := firstPause, lastPause
		if reason.lasting() {
			first, last = firstQuarantine, lastQuarantine
		}
		t.Reason, t.Text = reason, clip(err.Error(), 1000)
		t.Next = now.Add(jitter(min(last, first<<min(t.Tries, 12))))
		t.Tries++
		m.Trouble[digest] = t
	})
	return t
}

// forgive ends all pauses, of one model or of all.
func (s *state) forgive(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, m := range s.models {
		if name != "" && n != name {
			continue
		}
		for digest, t := range m.Trouble {
			t.Next = time.Time{}
			m.Trouble[digest] = t
		}
	}
}

// keepOnly forgets the troubles of versions that are no candidates any more.
func (s *state) keepOnly(name string, digests []string) {
	stale := false
	for digest := range s.get(name).Trouble {
		stale = stale || !slices.Contains(digests, digest)
	}
	if !stale {
		return
	}
	s.change(name, func(m *modelState) {
		for digest := range m.Trouble {
			if !slices.Contains(digests, digest) {
				delete(m.Trouble, digest)
			}
		}
	})
}

func clip(s string, most int) string {
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
