//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/akidb/akidbd/internal/loadgen"
)

// One large request, which the router parts over the fleet: it must be so much faster with four nodes than with one,
// and the loss of a node midway must not lose it.
const (
	bulkName  = "bulk"
	bulkTexts = 2000
	bulkGain  = 2.5
)

// bulk measures large requests with one serving node, with all, and while one of all is killed. The engine waits in
// place of computing: with two cores, four that compute would show nothing.
func bulk(ctx context.Context, o options, e engine, files *fleetFiles) (line string, err error) {
	s := scenario{name: bulkName, asked: []string{"eu-1"}}
	alone, _, err := bulkRun(ctx, o, e, files, s, []string{"eu-2", "us-1", "us-2"}, "")
	if err != nil {
		return "", fmt.Errorf("with one node: %w", err)
	}
	all, served, err := bulkRun(ctx, o, e, files, s, nil, "")
	if err != nil {
		return "", fmt.Errorf("with four nodes: %w", err)
	}
	killed, _, err := bulkRun(ctx, o, e, files, s, nil, "eu-2")
	if err != nil {
		return "", fmt.Errorf("with one of four killed midway: %w", err)
	}
	gain := alone.Seconds() / all.Seconds()
	line = fmt.Sprintf("One request of %d texts: %s on one node, %s on four (%.1f times sooner), %s when one of the four is killed midway.",
		bulkTexts, show(alone), show(all), gain, show(killed))
	if gain < bulkGain {
		return line, fmt.Errorf("%s At least %.1f times sooner is wanted; the answer came from %s", line, bulkGain, served)
	}
	return line, nil
}

// bulkRun gives the median time of three requests, or the time of one with a victim.
func bulkRun(ctx context.Context, o options, e engine, files *fleetFiles, s scenario, lack []string, victim string) (took time.Duration, served string, err error) {
	f, err := newFleet(o, files, e, s, lack, fmt.Sprintf("%s-%d%s", s.name, len(lack), victim))
	if f == nil {
		return 0, "", err
	}
	defer func() {
		if failed := f.close(); err == nil {
			err = failed
		}
	}()
	if err != nil {
		return 0, "", err
	}
	if err := f.whole(ctx, startLimit); err != nil {
		return 0, "", err
	}
	for _, n := range f.nodes {
		if err := f.answers(ctx, n, startLimit); err != nil {
			return 0, "", err
		}
	}
	if !pause(ctx, 11*time.Second) { // the slow start of links that have just come up
		return 0, "", ctx.Err()
	}
	texts, err := loadgen.NewTexts(loadgen.TextsConfig{Lengths: "short", Seed: 3})
	if err != nil {
		return 0, "", err
	}
	body := texts.Batch(0, bulkTexts)
	if victim != "" {
		go func() {
			pause(ctx, 150*time.Millisecond)
			_ = f.node(victim).kill()
		}()
		return f.one(ctx, body)
	}
	var all []time.Duration
	for range 3 {
		took, served, err = f.one(ctx, body)
		if err != nil {
			return 0, "", err
		}
		all = append(all, took)
	}
	slices.Sort(all)
	return all[1], served, nil
}

// one sends all texts at once to eu-1 and says how long the answer took and who gave it.
func (f *fleet) one(ctx context.Context, texts []string) (time.Duration, string, error) {
	c := &client{http: f.client, asked: []*node{f.node("eu-1")}}
	if out := c.Send(ctx, 0, texts); out.Code != "" {
		return 0, "", fmt.Errorf("%s: %s", out.Code, out.Message)
	}
	r := c.requests[0]
	return r.end.Sub(r.begin), r.node + " " + r.route, nil
}
