//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/akidb/akidbd/internal/loadgen"
)

// Bounds of every run.
const (
	warmup           = 2 * time.Second
	leastForwarded   = 0.3
	mostAmplified    = 1.12
	tooLate          = 0.05 // share of the load that was sent late: latencies are not judged
	startLimit       = 40 * time.Second
	rejoinLimit      = 10 * time.Second
	detectionStep    = 20 * time.Millisecond
	noDetection      = -1
	unknownAmplified = -1
)

// runner runs one scenario once.
type runner struct {
	opt    options
	engine engine
	files  *fleetFiles

	forwarded bool
	fleet     *fleet
	client    *client
	faultAt   time.Time
	detection atomic.Int64 // a time.Duration
	rejoin    atomic.Int64 // a time.Duration
	busy      int          // requests on the busiest victim right before the fault
	inFlight  int          // requests of clients then
	watching  sync.WaitGroup
}

// result is what one run showed.
type result struct {
	scenario  scenario
	engine    string
	forwarded bool // the asked nodes lacked the model
	sum       loadgen.Summary
	share     float64 // of the answers, computed elsewhere
	late      float64 // share of the load that this machine sent late
	before    time.Duration
	detection time.Duration // noDetection: not measured
	rejoin    time.Duration // noDetection: not measured
	amplified float64       // unknownAmplified: not measured
	busy      int
	inFlight  int
	ready     time.Duration // from the start of the processes to the first answers
	problems  []string
	wrong     bool // a problem is more than a latency
}

func (r *result) problem(format string, args ...any) {
	r.wrong = true
	r.slow(format, args...)
}

// slow is a problem that a machine with other work may be the cause of.
func (r *result) slow(format string, args ...any) {
	r.problems = append(r.problems, fmt.Sprintf(format, args...))
}

func (r *runner) run(ctx context.Context, s scenario, forwarded bool) (res result) {
	res = result{scenario: s, engine: r.engine.name, forwarded: forwarded, detection: noDetection, rejoin: noDetection, amplified: unknownAmplified}
	var lack []string
	name := s.name + "-local"
	if forwarded {
		lack, name = s.lack, s.name+"-forwarded"
	}
	r.forwarded = forwarded
	began := time.Now()
	f, err := newFleet(r.opt, r.files, r.engine, s, lack, name)
	if f == nil {
		res.problem("%v", err)
		return res
	}
	r.fleet = f
	sizes := map[string]int64{}
	for _, n := range f.nodes {
		if info, err := os.Stat(n.log); err == nil {
			sizes[n.name] = info.Size()
		}
	}
	if err == nil {
		err = r.ready(ctx, s)
	}
	res.ready = time.Since(began)
	if err == nil {
		err = r.under(ctx, s, &res)
	}
	if err != nil {
		res.problem("%v", err)
	}
	if err := f.close(); err != nil {
		res.problem("%v", err)
	}
	for _, n := range f.nodes {
		if slices.Contains(s.loud, n.name) {
			continue
		}
		for _, c := range n.complaints(sizes[n.name]) {
			res.problem("%s", c)
		}
	}
	return res
}

// ready waits for the fleet to be whole and for the asked nodes to answer.
func (r *runner) ready(ctx context.Context, s scenario) error {
	if err := r.fleet.whole(ctx, startLimit); err != nil {
		return err
	}
	for _, name := range s.asked {
		if err := r.fleet.answers(ctx, r.fleet.node(name), startLimit); err != nil {
			return err
		}
	}
	return nil
}

// answers waits until a node answers a request.
func (f *fleet) answers(ctx context.Context, n *node, limit time.Duration) error {
	probe := &client{http: f.client, asked: []*node{n}}
	return f.until(ctx, limit, func() error {
		if out := probe.Send(ctx, 0, []string{"are you there"}); out.Code != "" {
			return fmt.Errorf("%s: %s", out.Code, out.Message)
		}
		return nil
	})
}

// under puts the fleet under load and breaks it.
func (r *runner) under(ctx context.Context, s scenario, res *result) error {
	texts, err := loadgen.NewTexts(loadgen.TextsConfig{Lengths: "short", Seed: 1})
	if err != nil {
		return err
	}
	r.client = &client{http: r.fleet.client}
	var urls []string
	for _, name := range s.asked {
		n := r.fleet.node(name)
		r.client.asked = append(r.client.asked, n)
		urls = append(urls, n.url())
	}
	load, err := loadgen.New(loadgen.Plan{
		Clients: maxInFlight, Rate: r.engine.rate, Duration: 10 * time.Minute, Warmup: warmup, TextsPerRequest: 1, Seed: 7,
	}, texts, r.client, urls)
	if err != nil {
		return err
	}
	first := r.counters(ctx)
	loading, stop := context.WithCancel(ctx)
	defer stop()
	summed := make(chan loadgen.Summary, 1)
	go func() { summed <- load.Do(loading) }()
	err = r.timeline(ctx, s)
	ended := time.Now()
	r.drain(ctx)
	stop()
	res.sum = <-summed
	if err != nil {
		return err
	}
	res.amplified = amplification(first, r.counters(ctx))
	r.fleet.keepMetrics(ctx)
	r.judge(s, res, ended)
	return nil
}

// drain gives the last requests the time to be answered before the load is cut off, so that none in flight is
// left out of the count: the load goes on meanwhile.
func (r *runner) drain(ctx context.Context) {
	last := time.Now()
	for end := last.Add(12 * time.Second); time.Now().Before(end); {
		if r.client.oldest().After(last) || !pause(ctx, 20*time.Millisecond) {
			return
		}
	}
}

// timeline lets time pass, breaks and heals.
func (r *runner) timeline(ctx context.Context, s scenario) error {
	slow := func(d time.Duration) time.Duration { return time.Duration(float64(d) * r.engine.slow) }
	if !pause(ctx, warmup+slow(s.before)) {
		return ctx.Err()
	}
	r.awaitWork(ctx, s)
	r.detection.Store(noDetection)
	r.rejoin.Store(noDetection)
	r.faultAt = time.Now()
	watch, stopWatch := context.WithCancel(ctx)
	defer r.watching.Wait()
	defer stopWatch()
	if len(s.gone) > 0 {
		r.watching.Go(func() { r.detection.Store(r.watch(watch, s.asked[0], s.gone, r.faultAt, false)) })
	}
	if err := s.fault(ctx, r.fleet); err != nil {
		return fmt.Errorf("the fault: %w", err)
	}
	if !pause(ctx, slow(s.hold)) {
		return ctx.Err()
	}
	for end := r.faultAt.Add(s.detect); len(s.gone) > 0 && r.detection.Load() == noDetection && time.Now().Before(end); {
		if !pause(ctx, detectionStep) { // it may take longer than the fault was to be held
			return ctx.Err()
		}
	}
	healAt := time.Now()
	if err := s.heal(ctx, r.fleet); err != nil {
		return fmt.Errorf("the end of the fault: %w", err)
	}
	if len(s.back) > 0 {
		r.watching.Go(func() { r.rejoin.Store(r.watch(watch, s.asked[0], s.back, healAt, true)) })
	}
	if !pause(ctx, slow(s.after)) {
		return ctx.Err()
	}
	return nil
}
