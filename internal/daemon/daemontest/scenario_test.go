package daemontest

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// shape is three regions of three nodes.
var shape = Shape{Regions: 3, Each: 3, RTT: 80 * time.Millisecond, RunTime: 10 * time.Millisecond}

const (
	rps       = 200
	calm      = 5 * time.Second // of load before a fault
	rejoin    = 10 * time.Second
	leastAsks = 2000 // a scenario with fewer requests shows nothing
	mostWork  = 1.12 // nodes asked for each request
	hedgeMin  = 25 * time.Millisecond
	hedgeMax  = 250 * time.Millisecond
	slack     = 20 * time.Millisecond
)

// A scenario breaks something in a fleet under load. Clients ask the first node of each region.
type scenario struct {
	name    string
	bare    func(region, i int) bool // who serves nothing, for everything to be forwarded
	victims func(f *Fleet) []*Node   // compute for others when the fault comes; nil: nobody in particular
	fault   func(f *Fleet)
	lasts   time.Duration // from the fault until it is mended
	mend    func(f *Fleet)
	tail    time.Duration // of time after the fault that p99 is of; 0: all of it
	delays  time.Duration // that the fault adds to a round trip at worst
	cut     bool          // the links to the victims go down
	again   bool          // the victim is another process afterwards
	forgets bool          // and has lost its key
	moves   bool          // entries are stopped and started: their counters begin anew
	always  bool          // runs with the race detector too
}

// entriesBare leaves the model to the others of each region.
func entriesBare(_, i int) bool { return i == 0 }

// farRegion has one region ask the others, which is the only traffic between regions.
func farRegion(bare int) func(region, i int) bool {
	return func(region, i int) bool { return region == bare }
}

// between is a fault of paths.
func between(change func(p *Path, from, to *Node)) func(f *Fleet) {
	return func(f *Fleet) {
		f.Break(func(from, to *Node, p Path) Path {
			change(&p, from, to)
			return p
		})
	}
}

// apart cuts a region off.
func apart(region string) func(f *Fleet) {
	return between(func(p *Path, from, to *Node) { p.Cut = (from.Region == region) != (to.Region == region) })
}

func restart(forget bool) func(f *Fleet) {
	return func(f *Fleet) {
		n := f.Nodes[1]
		n.Kill()
		if forget {
			n.Forget("link-reset.key")
		}
		time.Sleep(300 * time.Millisecond) // less than it takes to be missed
		n.Start()
	}
}

// move gives all nodes but the seed new addresses, one after the other.
func move(f *Fleet) {
	time.Sleep(60 * time.Second)
	for _, n := range f.Nodes[1:] {
		n.Stop()
		n.Move()
		apart("r0")(f) // which goes by addresses
		n.Start()
		<-n.Loaded()
		half := slices.DeleteFunc(slices.Clone(f.Nodes), func(o *Node) bool { return (o.Region == "r0") != (n.Region == "r0") })
		f.Await(rejoin, "the moved node is in its half", func() bool { return Whole(half...) })
	}
}

func scenarios() []scenario {
	second := func(f *Fleet) []*Node { return f.Nodes[1:2] }
	region := func(r int) func(f *Fleet) []*Node { return func(f *Fleet) []*Node { return f.Region(r) } }
	mended := func(f *Fleet) { f.Break(nil) }
	return []scenario{
		{name: "blackhole", bare: entriesBare, victims: second, cut: true, lasts: 12 * time.Second, tail: 3 * time.Second, mend: mended, always: true,
			fault: between(func(p *Path, from, to *Node) { p.Cut = from.ID == "n0-1" || to.ID == "n0-1" })},
		{name: "not heard", bare: entriesBare, victims: second, cut: true, lasts: 12 * time.Second, tail: 3 * time.Second, mend: mended,
			fault: between(func(p *Path, from, _ *Node) { p.Cut = from.ID == "n0-1" })},
		{name: "hears nothing", bare: entriesBare, victims: second, cut: true, lasts: 12 * time.Second, tail: 3 * time.Second, mend: mended,
			fault: between(func(p *Path, _, to *Node) { p.Cut = to.ID == "n0-1" })},
		{name: "5 % loss", bare: farRegion(0), lasts: 20 * time.Second, mend: mended, delays: 200 * time.Millisecond, always: true,
			fault: between(func(p *Path, _, _ *Node) { p.Loss = 0.05 })},
		{name: "200 ms jitter", bare: farRegion(0), lasts: 20 * time.Second, mend: mended, delays: 400 * time.Millisecond,
			fault: between(func(p *Path, _, _ *Node) { p.Jitter = 200 * time.Millisecond })},
		{name: "restart with reset key", bare: entriesBare, victims: second, again: true, lasts: 10 * time.Second, tail: 3 * time.Second,
			fault: restart(false), always: true},
		{name: "restart without reset key", bare: entriesBare, victims: second, again: true, forgets: true, lasts: 10 * time.Second, tail: 3 * time.Second,
			fault: restart(true)},
		{name: "region cut", bare: farRegion(0), victims: region(2), cut: true, lasts: 12 * time.Second, tail: 3 * time.Second, mend: mended, always: true,
			fault: apart("r2")},
		{name: "partition of 90 s", bare: farRegion(1), victims: region(0), cut: true, lasts: 90 * time.Second, tail: 3 * time.Second, mend: mended,
			fault: apart("r0")},
		{name: "partition of 90 s, all but a seed move", bare: farRegion(1), victims: region(0), cut: true, lasts: 90 * time.Second, mend: mended,
			moves: true, fault: apart("r0")},
	}
}

// TestScenarios breaks a fleet of whole nodes under load, once with the asked nodes serving and once with requests
// forwarded to those that the fault strikes. No request may fail, the tail stays short also while the fault is not
// known yet, and the fleet is whole again soon after it.
func TestScenarios(t *testing.T) {
	for _, s := range scenarios() {
		for _, local := range []bool{true, false} {
			name := s.name + "/forwarded"
			if local {
				name = s.name + "/local"
			}
			t.Run(name, func(t *testing.T) {
				if raceEnabled && (local || !s.always) {
					t.Skip("with the race detector only some run: all take minutes")
				}
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { s.run(t, local) })
			})
		}
	}
}

func (s scenario) run(t *testing.T, local bool) {
	bare := s.bare
	if local {
		bare = nil
	}
	f := New(t, shape, bare)
	f.Await(rejoin, "the fleet is whole", f.Whole)
	time.Sleep(2 * time.Second) // round trips settle
	l := f.Load(rps, f.Nodes[0], f.Nodes[3], f.Nodes[6])
	start := time.Now()
	time.Sleep(calm)
	s.strikeWhenBusy(t, f, l, local)
	struck, before := time.Now(), l.Work()
	s.fault(f)
	s.detect(t, f)
	if s.moves {
		move(f)
	}
	time.Sleep(time.Until(struck.Add(s.lasts)))
	if s.mend != nil {
		s.mend(f)
	}
	whole := f.Await(rejoin, "the fleet is whole again", f.Whole)
	time.Sleep(2 * time.Second)
	work := l.Work()
	l.Stop()

	now := time.Now()
	was, is := l.Between(start, struck), l.Between(struck, now)
	tail := is
	if s.tail > 0 {
		tail = l.Between(struck, struck.Add(s.tail))
	}
	amplified := work.Amplification(before)
	t.Logf("before: %d requests, %d forwarded, p50 %v, p95 %v, p99 %v", was.Requests, was.Forwarded, ms(was.At(0.5)), ms(was.At(0.95)), ms(was.At(0.99)))
	t.Logf("from the fault on: %d requests, %d forwarded, %d failed, p50 %v, p99 %v, max %v, whole %v after it ended, amplification %.3f",
		is.Requests, is.Forwarded, len(is.Failed), ms(tail.At(0.5)), ms(tail.At(0.99)), ms(is.At(1)), whole, amplified)
	if failed := append(was.Failed, is.Failed...); len(failed) > 0 {
		t.Errorf("%d requests failed, one with: %v", len(failed), failed[0])
	}
	if n := was.Requests + is.Requests; n < leastAsks {
		t.Errorf("void: %d requests, at least %d show something", n, leastAsks)
	}
	if !local && is.Forwarded*10 < is.Requests*3 {
		t.Errorf("void: %d of %d requests were forwarded", is.Forwarded, is.Requests)
	}
	if !s.moves && amplified > mostWork {
		t.Errorf("%.3f nodes were asked for each request, at most %.2f are allowed", amplified, mostWork)
	}
	hedge := min(max(was.At(0.95)*3/2, hedgeMin), hedgeMax)
	if limit := was.At(0.95) + 2*hedgeMax + shape.RTT + 2*s.delays + slack; is.At(1) > limit { // a third node is asked by then
		t.Errorf("one request took %v since the fault, at most %v are expected", is.At(1), limit)
	}
	if limit := was.At(0.95) + hedge + shape.RTT + s.delays + slack; tail.At(0.99) > limit {
		t.Errorf("p99 is %v since the fault; normal p95, hedge delay and round trip make %v", tail.At(0.99), limit)
	}
}

func ms(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

// strikeWhenBusy returns at a moment when a victim computes for a peer.
func (s scenario) strikeWhenBusy(t *testing.T, f *Fleet, l *Load, local bool) {
	if s.victims == nil || local {
		return
	}
	victims, now := s.victims(f), time.Now()
	if l.ServedBy(victims, now.Add(-2*time.Second), now) < 10 {
		t.Fatal("void: the victims do not answer for others")
	}
	computing := func(n *Node) bool { return n.Busy() > 0 && !slices.Contains(l.entries, n) }
	for end := now.Add(5 * time.Second); !slices.ContainsFunc(victims, computing); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("void: the victims compute nothing")
		}
	}
}

// detect waits until the others know of the fault, by their links and by gossip.
func (s scenario) detect(t *testing.T, f *Fleet) {
	switch {
	case s.cut:
		victims := s.victims(f)
		link := f.Await(1200*time.Millisecond, "the links to the victims are down", func() bool { return f.lost(victims, false) })
		gone := link + f.Await(3500*time.Millisecond-link, "the victims are no members", func() bool { return f.lost(victims, true) })
		t.Logf("known by link after %v, by gossip after %v", link, gone)
	case s.again:
		// From the reset that answers the first packet to the new process. Far nodes ask again later, by their round trip.
		near, far := 100*time.Millisecond, 100*time.Millisecond+2*shape.RTT
		if s.forgets {
			near, far = 1200*time.Millisecond, 1200*time.Millisecond
		}
		n := s.victims(f)[0]
		in := f.Await(near, "the restart is known in the region", func() bool { return renewed(n, f.Region(0)) })
		all := in + f.Await(far-in, "the restart is known", func() bool { return renewed(n, f.Nodes) })
		t.Logf("known in the region after %v, by all after %v", in, all)
	}
}
