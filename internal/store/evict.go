package store

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Bound says how much the store may keep.
type Bound struct {
	Versions int   // of one name; 0: any number
	Bytes    int64 // of all entries; 0: any number
}

// Used notes that an entry is in use now: Evict takes those first that were not for the longest time.
func (s *Store) Used(e Entry) error {
	now := s.system.now()
	return os.Chtimes(filepath.Join(s.entryDir(e.Model.Name, e.Model.Digest), manifestName), now, now)
}

// Evict removes entries until the store is within b with extra bytes more, those first that were not used for the
// longest time, and never one that kept says is needed. What it removed comes back, also beside an error. When what
// is needed is over the bound already, the rest goes and that is no error.
func (s *Store) Evict(b Bound, extra int64, kept func(Entry) bool) ([]Entry, error) {
	entries, err := s.List()
	if err != nil && len(entries) == 0 {
		return nil, err
	}
	var errs []error
	total, perName := extra, map[string]int{}
	var free []Entry
	for _, e := range entries {
		total += e.Bytes
		perName[e.Model.Name]++
		if !kept(e) {
			free = append(free, e)
		}
	}
	last := make(map[string]time.Time, len(free))
	for _, e := range free {
		last[e.Dir] = s.lastUsed(e)
	}
	slices.SortStableFunc(free, func(a, b Entry) int { return last[a.Dir].Compare(last[b.Dir]) })
	var gone []Entry
	for _, e := range free {
		tooMany := b.Versions > 0 && perName[e.Model.Name] > b.Versions
		if !tooMany && (b.Bytes == 0 || total <= b.Bytes) {
			continue
		}
		if err := s.Remove(e); err != nil {
			errs = append(errs, err)
			continue
		}
		gone = append(gone, e)
		total -= e.Bytes
		perName[e.Model.Name]--
	}
	return gone, errors.Join(errs...)
}

func (s *Store) lastUsed(e Entry) time.Time {
	info, err := os.Lstat(filepath.Join(e.Dir, manifestName))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
