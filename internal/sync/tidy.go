package sync

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// tidy removes from incoming what nobody will ask for again: parts of versions that were superseded, leftovers of
// copies and of plain layouts. While anything there is in use it does nothing; whoever uses it tidies afterwards.
func (s *Syncer) tidy() {
	if !s.inUse.TryLock() {
		return
	}
	defer s.inUse.Unlock()
	entries, err := os.ReadDir(s.incoming)
	if err != nil {
		s.log.Warn("what was left of fetches cannot be listed", "dir", s.incoming, "err", err)
		return
	}
	if len(entries) == 0 {
		return
	}
	stay := s.awaited()
	if s.own != nil && !s.cfg.ReadOnly {
		lack, _ := s.lack()
		for _, l := range lack {
			for _, sha := range l.blobs {
				stay[sha] = true
			}
		}
	}
	for _, e := range entries {
		sha, _, _ := strings.Cut(e.Name(), ".")
		if stay[sha] {
			continue
		}
		if err := os.Remove(filepath.Join(s.incoming, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Debug("what was left of a fetch cannot be removed", "file", e.Name(), "err", err)
		}
	}
}

// awaited are the hashes of the files of the versions that this node should serve, or tried to.
func (s *Syncer) awaited() map[string]bool {
	out := map[string]bool{}
	for _, name := range s.wantedNames() {
		trouble := s.state.get(name).Trouble
		for i, r := range s.catalog.candidates(name, s.cfg.Node, s.cfg.Region) {
			if _, tried := trouble[r.Digest]; i > 0 && !tried {
				continue
			}
			for sha := range shas(r) {
				out[sha] = true
			}
		}
	}
	return out
}
