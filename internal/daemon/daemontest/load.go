package daemontest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/akidb/akidbd/internal/daemon"
	"github.com/akidb/akidbd/internal/embedding"
)

// Load is a steady stream of requests to some nodes, each with a text of its own.
type Load struct {
	entries []*Node
	stop    chan struct{}
	once    sync.Once
	running sync.WaitGroup

	mu       sync.Mutex
	requests []request
}

type request struct {
	entry  *Node
	origin embedding.Origin
	began  time.Time
	took   time.Duration
	err    error
}

// Load sends rps requests a second, in turn to the entries that take requests, until Stop. A client leaves a node that
// stops, as one behind a load balancer does.
func (f *Fleet) Load(rps int, entries ...*Node) *Load {
	l := &Load{entries: entries, stop: make(chan struct{})}
	f.t.Cleanup(l.Stop)
	l.running.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(rps))
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-l.stop:
				return
			case <-tick.C:
			}
			if n := l.entry(i); n != nil {
				d := n.Daemon
				l.running.Go(func() { l.ask(n, d, fmt.Sprintf("request %d", i)) })
			}
		}
	})
	return l
}

func (l *Load) entry(i int) *Node {
	for k := range l.entries {
		if n := l.entries[(i+k)%len(l.entries)]; n.serving.Load() {
			return n
		}
	}
	return nil
}

func (l *Load) ask(n *Node, d *daemon.Daemon, text string) {
	r := request{entry: n, began: time.Now()}
	res, err := d.Embed(context.Background(), embedding.Request{Model: Model, Inputs: []embedding.Input{{Text: text}}})
	if err == nil && len(res.Vectors) != 1 {
		err = fmt.Errorf("%d vectors for a text", len(res.Vectors))
	}
	r.took, r.origin, r.err = time.Since(r.began), res.Origin, err
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests = append(l.requests, r)
}

// Stop ends the stream and waits for the answers.
func (l *Load) Stop() {
	l.once.Do(func() { close(l.stop) })
	l.running.Wait()
}

// Outcome is what clients saw of the requests that began in a span of time.
type Outcome struct {
	Requests, Forwarded int
	Failed              []error
	took                []time.Duration
}

// Between gives the requests that began from one moment to another and are answered by now.
func (l *Load) Between(from, to time.Time) Outcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	var o Outcome
	for _, r := range l.requests {
		if r.began.Before(from) || !r.began.Before(to) {
			continue
		}
		o.Requests++
		o.took = append(o.took, r.took)
		if r.origin.Forwarded {
			o.Forwarded++
		}
		if r.err != nil {
			o.Failed = append(o.Failed, r.err)
		}
	}
	slices.Sort(o.took)
	return o
}

// ServedBy is how many requests that began from one moment to another these nodes answered for clients of others.
func (l *Load) ServedBy(nodes []*Node, from, to time.Time) (served int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.requests {
		if r.began.Before(from) || !r.began.Before(to) || slices.Contains(nodes, r.entry) {
			continue
		}
		if slices.ContainsFunc(nodes, func(n *Node) bool { return string(n.ID) == r.origin.Node }) {
			served++
		}
	}
	return served
}

// At is a quantile of the latencies; 0 without requests.
func (o Outcome) At(q float64) time.Duration {
	if len(o.took) == 0 {
		return 0
	}
	return o.took[int(q*float64(len(o.took)-1))]
}

// Work is how many nodes were asked, and for how many requests.
type Work struct{ Attempts, Requests float64 }

// Work sums what the routers of the nodes count since they started.
func (l *Load) Work() Work {
	var w Work
	for _, n := range l.entries {
		w.Attempts += sum(n.running.telemetry.Registry, "akidb_router_attempts_total")
		w.Requests += sum(n.running.telemetry.Registry, "akidb_router_decisions_total")
	}
	return w
}

// Amplification is how many nodes were asked for each request since then.
func (w Work) Amplification(before Work) float64 {
	return (w.Attempts - before.Attempts) / (w.Requests - before.Requests)
}

// sum adds all counters of one name.
func sum(reg prometheus.Gatherer, name string) (total float64) {
	families, err := reg.Gather()
	if err != nil {
		return 0 // the process's own metrics may fail; ours do not
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				total += m.GetCounter().GetValue()
			}
		}
	}
	return total
}
