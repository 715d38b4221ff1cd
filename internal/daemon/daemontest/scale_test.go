package daemontest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/node"
)

// TestScale says what a fleet of whole nodes in six regions costs and how soon it knows of a death. AKIDB_TEST_SCALE is
// how many nodes, a multiple of six; 300 take many minutes and GiB. `make bench-mesh` puts the figures into a table.
func TestScale(t *testing.T) {
	const regions = 6
	size := 30
	if text := os.Getenv("AKIDB_TEST_SCALE"); text != "" {
		var err error
		if size, err = strconv.Atoi(text); err != nil || size < 2*regions || size%regions != 0 {
			t.Fatalf("AKIDB_TEST_SCALE is %q, must be a multiple of %d", text, regions)
		}
	} else if raceEnabled {
		size = 12
	}
	// The news of the start die away while it settles.
	settle, span, pause, deaths := 8*time.Second, 5*time.Second, 3*time.Second, 3
	if size > 100 { // a second of three hundred nodes takes a minute of a core
		settle, span, pause, deaths = 2*time.Second, 2*time.Second, 0, 1
	}
	synctest.Test(t, func(t *testing.T) {
		empty := memory()
		f := New(t, Shape{Regions: regions, Each: size / regions, RTT: 80 * time.Millisecond, RunTime: 10 * time.Millisecond}, nil)
		s := &scale{Fleet: f}
		row := func(what, format string, args ...any) { t.Logf("| %s | %s |", what, fmt.Sprintf(format, args...)) }
		row("nodes", "%d in %d regions", size, regions)
		whole := f.Await(30*time.Second, "everybody knows everybody", s.whole)
		row("all started within a second: everybody knows everybody after", "%v", whole)
		time.Sleep(settle)
		links := s.links()
		row("links of a node", "%d to %d, median %d", links[0], links[len(links)-1], links[len(links)/2])
		row("memory of a node", "%.1f MiB", float64(memory()-empty)/float64(size)/(1<<20))
		r := s.rest(span)
		row("sent by a node at rest", "%.0f packets and %.1f kB a second, of them %.1f kB gossip", r.packets, r.bytes/1000, r.gossip/1000)
		row("CPU of a node at rest", "%.2f %% of a core", 100*r.cpu)

		var link, first, all []time.Duration
		for i := range deaths {
			one, some, every := s.die(f.Region(i)[1])
			link, first, all = append(link, one), append(first, some), append(all, every)
			time.Sleep(pause + rand.N(time.Second))
			if !s.knowAll() {
				t.Error("somebody was taken for dead who is not")
			}
		}
		row("a node dies: its links are down after", "%v", link)
		row("a node dies: gossip has told the first node after", "%v", first)
		row("a node dies: gossip has told all nodes after", "%v", all)
		far, farFirst, farAll := s.die(f.Region(regions - 1)...)
		row("a region dies: its links are down after", "%v", far)
		row("a region dies: gossip has told the first node, and all, after", "%v, %v", farFirst, farAll)

		if whole > 10*time.Second {
			t.Errorf("whole after %v", whole)
		}
		for _, took := range append(link, far) {
			if took > 1300*time.Millisecond {
				t.Errorf("the links to the dead were down after %v", took)
			}
		}
		for _, took := range append(all, farAll) {
			if took > 8*time.Second {
				t.Errorf("gossip told of a death after %v", took)
			}
		}
		// Its region, 8 of each other that it chooses or is chosen by, and 64 each that gossip's probes dial and that dial
		// it. The seed has more.
		if most := min(64, size/regions-1) + (regions-1)*8*2 + 2*64; links[len(links)/2] > most {
			t.Errorf("half of the nodes have %d links and more, at most %d are expected", links[len(links)/2], most)
		}
	})
}

// scale is a fleet with those that died.
type scale struct {
	*Fleet
	dead []*Node
}

// alive are the others.
func (s *scale) alive() []*Node {
	return slices.DeleteFunc(slices.Clone(s.Nodes), func(n *Node) bool { return slices.Contains(s.dead, n) })
}

// whole says whether everybody knows everybody and has the links that are to be kept, to nodes that say that they are
// ready.
func (s *scale) whole() bool {
	if !s.knowAll() {
		return false
	}
	for _, n := range s.alive() {
		up := map[string]int{}
		for _, m := range n.Members()[1:] {
			if m.Link.Up && m.Word.State == node.Ready {
				up[m.Region]++
			}
		}
		for r := range s.shape.Regions {
			region := fmt.Sprintf("r%d", r)
			want := min(8, s.shape.Each)
			if region == n.Region {
				want = min(64, s.shape.Each-1)
			}
			if up[region] < want {
				return false
			}
		}
	}
	return true
}

// knowAll says whether everybody holds just those for members who live.
func (s *scale) knowAll() bool {
	alive := s.alive()
	return !slices.ContainsFunc(alive, func(n *Node) bool { return len(n.Members()) != len(alive) })
}

// links is how many each node has, sorted.
func (s *scale) links() []int {
	var counts []int
	for _, n := range s.alive() {
		up := 0
		for _, m := range n.Members()[1:] {
			if m.Link.Up {
				up++
			}
		}
		counts = append(counts, up)
	}
	slices.Sort(counts)
	return counts
}

// rates are of one node in one second.
type rates struct{ packets, bytes, gossip, cpu float64 }

func (s *scale) rest(span time.Duration) rates {
	read := func() (r rates) {
		for _, n := range s.alive() {
			packets, bytes := n.running.socket.Sent()
			r.packets += float64(packets)
			r.bytes += float64(bytes)
			r.gossip += sum(n.running.telemetry.Registry, "akidb_gossip_bytes_total") / 2 // in and out
		}
		return r
	}
	before, busy := read(), cpu()
	time.Sleep(span)
	spent := cpu() - busy
	after, per := read(), span.Seconds()*float64(len(s.alive()))
	return rates{(after.packets - before.packets) / per, (after.bytes - before.bytes) / per, (after.gossip - before.gossip) / per, spent.Seconds() / per}
}

// die takes nodes off the network at once and says when no link to them was up any more, when somebody held them all
// for gone, and when everybody did.
func (s *scale) die(nodes ...*Node) (link, first, all time.Duration) {
	for _, n := range nodes {
		n.Kill()
	}
	s.dead = append(s.dead, nodes...)
	began := time.Now()
	s.Await(20*time.Second, "everybody knows of the death", func() bool {
		up, left := 0, 0
		for _, n := range s.alive() {
			mine := 0
			for _, m := range n.Members()[1:] {
				if slices.ContainsFunc(nodes, func(d *Node) bool { return d.ID == m.ID }) {
					mine++
					if m.Link.Up {
						up++
					}
				}
			}
			if mine == 0 && first == 0 {
				first = time.Since(began)
			}
			left += mine
		}
		if up == 0 && link == 0 {
			link = time.Since(began)
		}
		return left == 0
	})
	return link, first, time.Since(began)
}

// memory is what the heap and the stacks hold.
func memory() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// cpu is what this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
