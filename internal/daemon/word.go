package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/akidb/akidbd/internal/atomicfile"
	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/node"
)

// wordAge is how old the word that this node gives of itself may be: it goes out with each probe's reply, four
// times a second on each link.
const wordAge = 25 * time.Millisecond

// admitBelow is the load up to which a node takes forwarded work: the rest of its queue is for its own clients.
const admitBelow = 0.7

// speaker makes the words that this node says of itself.
type speaker struct {
	mu   sync.Mutex
	made time.Time
	word node.Word
}

// word is what this node says of itself now. It is also what its own router goes by.
func (d *Daemon) word() node.Word {
	s := &d.speaker
	s.mu.Lock()
	defer s.mu.Unlock()
	state, catalog := d.nodeState(), d.catalog()
	if state == s.word.State && catalog == s.word.Catalog && time.Since(s.made) < wordAge {
		return s.word
	}
	var queued int
	var delay time.Duration
	for _, l := range d.engine.Loads() {
		queued += l.Tokens
		delay += l.Delay
	}
	s.word = node.Word{
		State: state, Models: d.served(), QueueDelay: delay, Catalog: catalog,
		Load:  min(1, float64(queued)/float64(d.opt.Config.Engine.QueueTokens)),
		Epoch: d.epoch, Seq: s.word.Seq + 1,
	}
	s.made = time.Now()
	return s.word
}

// served lists the models that answer here.
func (d *Daemon) served() []node.Served {
	var served []node.Served
	for _, m := range d.engine.Models() {
		if m.State == embedding.ModelReady {
			served = append(served, node.Served{Model: m.Model, Aliases: m.Aliases, Active: true, Since: m.Loaded.UnixMilli()})
		}
	}
	slices.SortFunc(served, func(a, b node.Served) int { return cmp.Compare(a.Name, b.Name) })
	return served
}

// admit refuses forwarded work when this node has enough of its own.
func (d *Daemon) admit() error {
	if load := d.word().Load; load >= admitBelow {
		return embedding.Errorf(embedding.CodeOverloaded, "the queue is %.0f %% full, forwarded requests are taken below %.0f %%", 100*load, 100*admitBelow)
	}
	return nil
}

// nextEpoch counts the starts of this node in a file of its state directory. The clock helps when the file was
// lost, and only then: a Jetson without a battery starts in 1970.
func nextEpoch(stateDir string, now time.Time) (uint64, error) {
	path := filepath.Join(stateDir, "epoch")
	last := uint64(0)
	data, err := os.ReadFile(path)
	switch {
	case err == nil:
		if last, err = strconv.ParseUint(strings.TrimSpace(string(data)), 10, 63); err != nil {
			last = 0 // torn by a power cut: the clock must do
		}
	case !errors.Is(err, fs.ErrNotExist):
		return 0, err
	}
	next := max(last+1, uint64(max(0, now.Unix())))
	return next, atomicfile.Write(path, fmt.Appendf(nil, "%d\n", next), 0o600)
}
