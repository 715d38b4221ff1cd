//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/akidb/akidbd/test/lab/netlab"
)

// newFleetFiles makes the directories of all nodes and their certificates.
func newFleetFiles(ctx context.Context, o options, e engine) (*fleetFiles, error) {
	f := &fleetFiles{dir: filepath.Join(o.dir, e.name)}
	f.ca = filepath.Join(f.dir, "ca")
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return nil, err
	}
	for _, p := range places() {
		if err := os.MkdirAll(f.home(p.name), 0o700); err != nil {
			return nil, err
		}
	}
	if e.lone {
		return f, nil
	}
	if err := akidbd(ctx, o, "pki", "init", "--dir", f.ca); err != nil {
		return nil, err
	}
	for _, p := range places() {
		if err := f.issue(ctx, o, p); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// fleet is one running fleet in a network of its own.
type fleet struct {
	opt    options
	files  *fleetFiles
	engine engine
	net    *netlab.Net
	nodes  []*node
	lack   []string     // without the model
	client *http.Client // asks from the clients' host in eu
}

// paths gives the network its distances: rtt between eu and us, half as much again to ap.
func paths(rtt time.Duration) func(from, to *netlab.Host) netlab.Path {
	return func(from, to *netlab.Host) netlab.Path {
		switch {
		case from.Region == to.Region:
			return netlab.Path{Delay: 100 * time.Microsecond}
		case from.Region == "ap" || to.Region == "ap":
			return netlab.Path{Delay: rtt * 3 / 4, Jitter: time.Millisecond}
		}
		return netlab.Path{Delay: rtt / 2, Jitter: time.Millisecond}
	}
}

// newFleet makes the network and starts the nodes. Those that lack the model forward everything.
func newFleet(o options, files *fleetFiles, e engine, s scenario, lack []string, run string) (*fleet, error) {
	hosts := []netlab.Place{}
	var at []place
	for _, p := range places() {
		if p.region != "ap" || s.third {
			at = append(at, p)
			hosts = append(hosts, netlab.Place{Name: p.name, Region: p.region})
		}
	}
	hosts = append(hosts, netlab.Place{Name: "client-eu", Region: "eu"}, netlab.Place{Name: "client-us", Region: "us"})
	network, err := netlab.New(hosts, paths(o.rtt))
	if err != nil {
		return nil, err
	}
	f := &fleet{opt: o, files: files, engine: e, net: network, lack: lack}
	f.client = &http.Client{
		Transport: &http.Transport{DialContext: network.Host("client-eu").DialContext, MaxIdleConnsPerHost: maxInFlight},
		Timeout:   15 * time.Second,
	}
	for _, p := range at {
		n := &node{
			place: p, host: network.Host(p.name), home: files.home(p.name), engine: e,
			log: filepath.Join(files.home(p.name), run+".log"),
		}
		n.admin = n.newAdmin()
		if s.previous {
			n.program = o.previous
		}
		f.nodes = append(f.nodes, n)
	}
	for _, n := range f.nodes {
		if err := f.configure(n, !slices.Contains(lack, n.name), s.drainDelay); err != nil {
			return f, err
		}
		if err := n.start(); err != nil {
			return f, err
		}
	}
	return f, nil
}

func (f *fleet) configure(n *node, serves bool, drainDelay time.Duration) (err error) {
	var seeds []string
	for _, other := range f.nodes {
		if other != n {
			seeds = append(seeds, fmt.Sprintf("%q", net.JoinHostPort(other.host.Addr.String(), fmt.Sprint(linkPort))))
		}
	}
	n.config, err = f.files.configuration(n, f.engine, serves, drainDelay.String(), seeds)
	return err
}

// keepMetrics writes what all nodes count beside their logs, for whoever asks why.
func (f *fleet) keepMetrics(ctx context.Context) {
	for _, n := range f.nodes {
		if !n.running() {
			continue
		}
		if data, err := n.scrape(ctx, f.client); err == nil {
			_ = os.WriteFile(strings.TrimSuffix(n.log, ".log")+".metrics", data, 0o600)
		}
	}
}

func (f *fleet) node(name string) *node {
	for _, n := range f.nodes {
		if n.name == name {
			return n
		}
	}
	panic("no node " + name)
}

// whole waits until every node sees every other one, linked and in its final state.
func (f *fleet) whole(ctx context.Context, limit time.Duration) error {
	if f.engine.lone {
		return nil
	}
	return f.until(ctx, limit, func() error {
		for _, n := range f.nodes {
			if err := f.sees(ctx, n); err != nil {
				return err
			}
		}
		return nil
	})
}

// sees says what a node does not see of the fleet.
func (f *fleet) sees(ctx context.Context, n *node) error {
	members, err := n.members(ctx)
	if err != nil {
		return err
	}
	for _, other := range f.nodes {
		m, known := members[other.name]
		switch {
		case !known:
			return fmt.Errorf("%s does not know %s", n.name, other.name)
		case m.Self:
		case m.Link != "up":
			return fmt.Errorf("%s has no link to %s: %s %s", n.name, other.name, m.Link, m.LinkCause)
		}
	}
	return nil
}

// until asks again and again until there is no error.
func (f *fleet) until(ctx context.Context, limit time.Duration, ok func() error) error {
	for end := time.Now().Add(limit); ; {
		err := ok()
		if err == nil {
			return nil
		}
		for _, n := range f.nodes {
			if n.cmd != nil && !n.running() && !n.meant {
				return fmt.Errorf("%s: %w: %w, see %s", n.name, errEnded, n.how, n.log)
			}
		}
		if time.Now().After(end) {
			return fmt.Errorf("not within %v: %w", limit, err)
		}
		if !pause(ctx, 10*time.Millisecond) {
			return ctx.Err()
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// close ends everything. The errors are of nodes that did not end well.
func (f *fleet) close() error {
	var errs []error
	stopping := make(chan error, len(f.nodes))
	count := 0
	for _, n := range f.nodes {
		if !n.running() {
			if n.cmd != nil && !n.meant {
				errs = append(errs, fmt.Errorf("%s ended by itself: %w, see %s", n.name, n.how, n.log))
			}
			continue
		}
		_ = n.signal(syscall.SIGCONT)
		count++
		go func() { stopping <- n.stop(15 * time.Second) }()
	}
	for range count {
		errs = append(errs, <-stopping)
	}
	f.client.CloseIdleConnections()
	f.net.Close()
	return errors.Join(errs...)
}
