//go:build linux

package main

import (
	"context"
	"slices"
	"syscall"
	"time"

	"github.com/akidb/akidbd/test/lab/netlab"
)

// scenario is one way to break a fleet: a load on the asked nodes, a fault after a while, its end, and what
// clients may notice of it.
type scenario struct {
	name, about string
	ci          string // the engine it runs with in CI: fake, real or both; "" not at all
	fakeOnly    bool   // it needs the fake engine
	realOnly    bool   // it needs the real engine
	localOnly   bool   // it breaks what a node without the model does not use
	previous    bool   // it needs the previous release
	yields      bool   // it breaks the asked node's own engine: others answer then
	third       bool   // with ap-1, a third region
	asked       []string
	lack        []string // without the model in the run where everything is forwarded
	victims     []string // one of them must be at work for others at the fault, in that run
	gone        []string // the asked nodes must notice that these are gone; detection is measured
	back        []string // must be seen again at the end
	loud        []string // may log errors

	before, hold, after time.Duration // until the fault, until it is healed, until the end
	drainDelay          time.Duration
	fault, heal         func(ctx context.Context, f *fleet) error

	pair func(o options, local, forwarded *result) // judges the two runs beside each other

	detect time.Duration // limit of the detection; 0 is 5 s
	grow   time.Duration // by how much p99 may grow over that before the fault; 0 is a hedge of 250 ms and a round trip
}

// nothing is the fault or the end of a fault that ends by itself.
func nothing(context.Context, *fleet) error { return nil }

func each(names []string, f func(n *node) error) func(context.Context, *fleet) error {
	return func(_ context.Context, fl *fleet) error {
		for _, name := range names {
			if err := f(fl.node(name)); err != nil {
				return err
			}
		}
		return nil
	}
}

func send(s syscall.Signal, names ...string) func(context.Context, *fleet) error {
	return each(names, func(n *node) error { return n.signal(s) })
}

func kill(names ...string) func(context.Context, *fleet) error {
	return each(names, (*node).kill)
}

func start(names ...string) func(context.Context, *fleet) error {
	return each(names, (*node).start)
}

func change(f func(from, to *netlab.Host, p *netlab.Path)) func(context.Context, *fleet) error {
	return func(_ context.Context, fl *fleet) error { fl.net.Change(f); return nil }
}

func reset(_ context.Context, f *fleet) error { f.net.Reset(); return nil }

// between says whether a path leads from one region to the other one, in either direction.
func between(from, to *netlab.Host, a, b string) bool {
	return from.Region == a && to.Region == b || from.Region == b && to.Region == a
}

func scenarios(o options) []scenario {
	eu := []string{"eu-1", "eu-2"}
	us := []string{"us-1", "us-2"}
	partition := o.partition
	if o.ci {
		partition = min(partition, 20*time.Second)
	}
	list := []scenario{
		{
			name: "calm", about: "nothing breaks: what the way to another region costs", ci: engineFake,
			asked: eu[:1], lack: eu, victims: us, hold: 8 * time.Second, fault: nothing, heal: nothing, pair: wayCost,
		},
		{
			name: "kill", about: "SIGKILL of a peer in the same region", ci: "both",
			asked: eu[:1], lack: eu[:1], victims: eu[1:], gone: eu[1:],
			fault: kill("eu-2"), heal: nothing,
		},
		{
			name: "stop", about: "SIGSTOP of a peer: it holds its connections and says nothing", ci: engineFake,
			asked: eu[:1], lack: eu[:1], victims: eu[1:], gone: eu[1:], back: eu[1:], after: 4 * time.Second,
			fault: send(syscall.SIGSTOP, "eu-2"), heal: send(syscall.SIGCONT, "eu-2"),
		},
		{
			name: "restart", about: "a killed peer comes back after 5 s, with its state",
			asked: eu[:1], lack: eu[:1], victims: eu[1:], gone: eu[1:], back: eu[1:], hold: 5 * time.Second, after: 5 * time.Second,
			fault: kill("eu-2"), heal: start("eu-2"),
		},
		{
			name: "region-cut", about: "no packet passes between eu and us; ap is left", ci: engineFake, third: true,
			asked: eu[:1], lack: eu, victims: us, gone: us, back: us, after: 5 * time.Second,
			fault: change(func(from, to *netlab.Host, p *netlab.Path) { p.Cut = p.Cut || between(from, to, "eu", "us") }), heal: reset,
		},
		{
			name: "one-way-cut", about: "no packet of eu reaches us, those of us reach eu; ap is left", third: true,
			asked: eu[:1], lack: eu, victims: us, gone: us, back: us, after: 5 * time.Second,
			fault: change(func(from, to *netlab.Host, p *netlab.Path) {
				p.Cut = p.Cut || from.Region == "eu" && to.Region == "us"
			}), heal: reset,
		},
		{
			name: "interface-down", about: "the interface of a peer goes down",
			asked: eu[:1], lack: eu[:1], victims: eu[1:], gone: eu[1:], back: eu[1:], after: 5 * time.Second,
			fault: each(eu[1:], func(n *node) error { return n.host.SetUp(false) }),
			heal:  each(eu[1:], func(n *node) error { return n.host.SetUp(true) }),
		},
		{
			name: "loss", about: "5 % of the packets between the regions are lost",
			asked: eu[:1], lack: eu, victims: us, hold: 8 * time.Second,
			fault: change(func(from, to *netlab.Host, p *netlab.Path) {
				if from.Region != to.Region {
					p.Loss = 0.05
				}
			}), heal: reset,
		},
		{
			name: "latency", about: "the round trip between the regions is 100 ± 20 ms longer",
			asked: eu[:1], lack: eu, victims: us, hold: 8 * time.Second, grow: 450 * time.Millisecond,
			fault: change(func(from, to *netlab.Host, p *netlab.Path) {
				if from.Region != to.Region {
					p.Delay, p.Jitter = p.Delay+50*time.Millisecond, 10*time.Millisecond
				}
			}), heal: reset,
		},
		{
			name: "stutter", about: "a peer runs for 50 ms and stands still for 150 ms, over and over",
			asked: eu[:1], lack: eu[:1], victims: eu[1:], hold: time.Second, fault: stutter("eu-2", 6*time.Second), heal: nothing,
		},
		{
			name: "engine-fails", about: "the engine of a peer fails every run", fakeOnly: true,
			asked: eu[:1], lack: eu[:1], victims: eu[1:], loud: eu[1:],
			fault: send(syscall.SIGUSR1, "eu-2"), heal: send(syscall.SIGUSR2, "eu-2"),
		},
		{
			name: "local-engine-fails", about: "the engine of the asked node fails every run", fakeOnly: true, localOnly: true, yields: true,
			asked: eu[:1], loud: eu[:1], fault: send(syscall.SIGUSR1, "eu-1"), heal: send(syscall.SIGUSR2, "eu-1"),
		},
		{
			name: "slow", about: "a peer becomes ten times slower", fakeOnly: true,
			asked: eu[:1], lack: eu[:1], victims: eu[1:], hold: 10 * time.Second,
			fault: send(syscall.SIGWINCH, "eu-2"), heal: send(syscall.SIGUSR2, "eu-2"),
		},
		{
			name: "worker-dies", about: "the worker process of the serving node gets SIGSEGV, SIGKILL and SIGSTOP, three times each", realOnly: true, yields: true,
			asked: eu[:1], lack: eu[:1], victims: eu[1:], loud: eu, fault: endWorkers(3), heal: nothing, hold: time.Second,
		},
		{
			name: "upgrade", about: "all nodes run the previous release and are restarted as this one in turn; clients know two nodes",
			realOnly: true, previous: true,
			asked: []string{"eu-1", "us-1"}, lack: []string{"eu-1", "us-1"}, victims: []string{"eu-2", "us-2"}, back: []string{"eu-2", "us-1", "us-2"},
			drainDelay: time.Second, hold: time.Second, after: 4 * time.Second, fault: roll, heal: nothing, grow: 600 * time.Millisecond,
		},
		{
			name: "rolling-restart", about: "all nodes are restarted in turn, each with a drain; clients know two nodes", ci: engineFake,
			asked: []string{"eu-1", "us-1"}, lack: []string{"eu-1", "us-1"}, victims: []string{"eu-2", "us-2"}, back: []string{"eu-2", "us-1", "us-2"},
			drainDelay: time.Second, hold: time.Second, after: 4 * time.Second, fault: roll, heal: nothing, grow: 600 * time.Millisecond,
		},
		{
			name: "certificates", about: "all nodes get new certificates",
			asked: eu[:1], lack: eu[:1], victims: eu[1:], back: []string{"eu-2", "us-1", "us-2"},
			fault: reissue, heal: nothing,
		},
		{
			name: "authority", about: "the certificate authority is replaced by another one in three steps",
			asked: eu[:1], lack: eu[:1], victims: eu[1:], back: []string{"eu-2", "us-1", "us-2"},
			fault: replaceAuthority, heal: nothing, hold: time.Second,
		},
		{
			name: "denied", about: "a peer is put on the deny list of all others",
			asked: eu[:1], lack: eu[:1], victims: eu[1:], gone: eu[1:],
			fault: deny("eu-2"), heal: allow, detect: 60 * time.Second, hold: 8 * time.Second,
		},
		{
			name: "partition", about: "the regions are cut off for " + partition.String() + " and find each other again", third: true,
			asked: eu[:1], lack: eu, victims: us, gone: us, back: us, hold: partition, after: 12 * time.Second,
			fault: change(func(from, to *netlab.Host, p *netlab.Path) { p.Cut = p.Cut || between(from, to, "eu", "us") }), heal: reset,
		},
	}
	for i := range list {
		s := &list[i]
		if s.before == 0 {
			s.before = 4 * time.Second
		}
		if s.hold == 0 {
			s.hold = 5 * time.Second
		}
		if s.after == 0 {
			s.after = 3 * time.Second
		}
		if s.detect == 0 {
			s.detect = 5 * time.Second
		}
		if s.grow == 0 {
			s.grow = 250*time.Millisecond + o.rtt
			if s.third {
				s.grow += o.rtt / 2 // ap, where requests go then, is that much farther
			}
		}
	}
	return list
}

// roll restarts the nodes one after the other and waits for each to be linked with all others again.
func roll(ctx context.Context, f *fleet) error {
	for _, n := range f.nodes {
		if err := n.stop(15 * time.Second); err != nil {
			return err
		}
		n.program = ""
		if err := n.start(); err != nil {
			return err
		}
		if err := f.whole(ctx, 20*time.Second); err != nil {
			return err
		}
		if err := f.answers(ctx, n, 10*time.Second); err != nil {
			return err
		}
	}
	return nil
}

// endWorkers ends the worker process of the node that serves, in three ways, and waits for the next one each time.
func endWorkers(times int) func(context.Context, *fleet) error {
	return func(ctx context.Context, f *fleet) error {
		n := f.node("eu-1")
		if slices.Contains(f.lack, n.name) {
			n = f.node("eu-2")
		}
		for range times {
			for _, s := range []syscall.Signal{syscall.SIGSEGV, syscall.SIGKILL, syscall.SIGSTOP} {
				pid := 0
				if err := f.until(ctx, time.Minute, func() (err error) { pid, err = n.worker(ctx); return err }); err != nil {
					return err
				}
				if err := syscall.Kill(pid, s); err != nil {
					return err
				}
				if !pause(ctx, 1500*time.Millisecond) {
					return ctx.Err()
				}
			}
		}
		return nil
	}
}

// wayCost: what is forwarded takes the round trip longer, and hardly more.
func wayCost(o options, local, forwarded *result) {
	for _, c := range []struct {
		quantile float64
		slack    time.Duration
	}{{50, 2 * time.Millisecond}, {99, 20 * time.Millisecond}} {
		here, there := local.sum.Total.Quantile(c.quantile), forwarded.sum.Total.Quantile(c.quantile)
		if limit := here + o.rtt + c.slack; there > limit && local.late < tooLate && forwarded.late < tooLate {
			forwarded.slow("p%.0f is %v forwarded and %v here, at most %v is allowed", c.quantile, there.Round(100*time.Microsecond), here.Round(100*time.Microsecond), limit)
		}
	}
}

// stutter gives a node a quarter of the time for a while.
func stutter(name string, length time.Duration) func(context.Context, *fleet) error {
	return func(ctx context.Context, f *fleet) error {
		n := f.node(name)
		for end := time.Now().Add(length); time.Now().Before(end); {
			if err := n.signal(syscall.SIGSTOP); err != nil {
				return err
			}
			pause(ctx, 150*time.Millisecond)
			if err := n.signal(syscall.SIGCONT); err != nil {
				return err
			}
			if !pause(ctx, 50*time.Millisecond) {
				return ctx.Err()
			}
		}
		return nil
	}
}
