package gossip

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/akidb/akidbd/internal/atomicfile"
	"github.com/akidb/akidbd/internal/node"
)

// Limits of the file of nodes met.
const (
	snapshotName  = "gossip-peers.json"
	maxSnapshot   = 512     // nodes
	maxSnapshotKB = 1 << 10 // KiB
	maxMissed     = 5       // starts without meeting a node, after which it is forgotten
)

type snapshotFile struct {
	Version int            `json:"version"`
	Peers   []snapshotPeer `json:"peers"`
}

type snapshotPeer struct {
	ID     node.ID `json:"id"`
	Region string  `json:"region,omitempty"`
	Addr   string  `json:"addr"`
	Missed int     `json:"missed,omitempty"`
}

// loadSnapshot makes the nodes that were met before the last stop ones to look for. Without a usable file there
// are the seeds.
func (c *Cluster) loadSnapshot() {
	if c.cfg.StateDir == "" {
		return
	}
	path := filepath.Join(c.cfg.StateDir, snapshotName)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var peers []snapshotPeer
	if err == nil {
		defer f.Close()
		peers, err = readSnapshot(f)
	}
	if err != nil {
		c.log.Warn("the nodes met before the last stop are not known", "file", path, "reason", err)
		return
	}
	c.table.mu.Lock()
	defer c.table.mu.Unlock()
	for _, p := range peers {
		c.table.lose(p.ID, &lost{facts: facts{region: p.Region, addr: p.Addr}, since: time.Now(), missed: p.Missed + 1})
	}
}

func readSnapshot(r io.Reader) ([]snapshotPeer, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxSnapshotKB<<10+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxSnapshotKB<<10 {
		return nil, fmt.Errorf("the file has more than %d KiB", maxSnapshotKB)
	}
	var s snapshotFile
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, err
	}
	if s.Version != 1 {
		return nil, fmt.Errorf("the file is of version %d, 1 is known", s.Version)
	}
	peers := slices.DeleteFunc(s.Peers, func(p snapshotPeer) bool {
		return !p.ID.Valid() || p.Addr == "" || len(p.Addr) > maxAddrBytes || len(p.Region) > maxNameBytes ||
			p.Missed < 0 || p.Missed >= maxMissed
	})
	return peers[:min(len(peers), maxSnapshot)], nil
}

// saveSnapshot writes the nodes met when they changed. A start that met nobody changes nothing: it may be this
// node that is cut off.
func (c *Cluster) saveSnapshot() {
	if c.cfg.StateDir == "" {
		return
	}
	peers, ok := c.table.toSave()
	if !ok {
		return
	}
	data, err := json.MarshalIndent(snapshotFile{Version: 1, Peers: peers}, "", " ")
	if err == nil {
		err = atomicfile.Write(filepath.Join(c.cfg.StateDir, snapshotName), append(data, '\n'), 0o600)
	}
	if err != nil {
		c.log.Warn("the nodes met are not kept for the next start", "reason", err)
	}
}

func (t *table) toSave() ([]snapshotPeer, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.met || !t.altered {
		return nil, false
	}
	t.altered = false
	var peers []snapshotPeer
	for id, f := range t.members {
		if f.addr != "" {
			peers = append(peers, snapshotPeer{ID: id, Region: f.region, Addr: f.addr})
		}
	}
	for id, l := range t.lost {
		// Those that left too: a whole fleet may be stopped and started.
		peers = append(peers, snapshotPeer{ID: id, Region: l.region, Addr: l.addr, Missed: l.missed})
	}
	slices.SortFunc(peers, func(a, b snapshotPeer) int { return cmp.Or(cmp.Compare(a.Missed, b.Missed), cmp.Compare(a.ID, b.ID)) })
	return peers[:min(len(peers), maxSnapshot)], true
}
