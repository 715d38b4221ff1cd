//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	engineFake = "fake"
	engineReal = "real"
)

// engine is what the nodes compute with, and what load fits it on two cores.
type engine struct {
	name     string
	program  string
	args     []string // before the path of the configuration
	model    string   // its name
	path     string   // its directory
	extra    string   // lines of the configuration
	rate     float64  // requests per second
	requests int64    // without so many a run proves nothing
	slow     float64  // phases are this much longer
	lone     bool     // the nodes do not know each other: the lab's own test
}

func newEngine(name string, o options) (engine, error) {
	switch name {
	case engineFake:
		self, err := os.Executable()
		if err != nil {
			return engine{}, err
		}
		return engine{
			name: name, program: self, args: []string{fakeNodeCommand}, model: "tiny", path: o.tiny,
			extra: "engine: {threads: 4}\n", rate: 200, requests: 2000, slow: 1,
		}, nil
	case engineReal:
		if o.library == "" || o.model == "" {
			return engine{}, fmt.Errorf("the real engine needs -library and -model: run make e2e-mesh")
		}
		return engine{
			name: name, program: o.bin, args: []string{"serve", "--config"}, model: "all-MiniLM-L6-v2", path: o.model,
			extra: fmt.Sprintf("engine: {threads: 1, library_path: %q}\n", o.library), rate: 40, requests: 500, slow: 1.25,
		}, nil
	}
	return engine{}, fmt.Errorf("the engine is fake, real or both, not %q", name)
}

// fleetFiles are the directories of the nodes, which outlive a scenario: certificates, and the models that the
// nodes have copied.
type fleetFiles struct{ dir, ca string }

// place is a node of the fleet.
type place struct{ name, region string }

// places are all nodes; ap-1 is there in some scenarios only.
func places() []place {
	return []place{{"eu-1", "eu"}, {"eu-2", "eu"}, {"us-1", "us"}, {"us-2", "us"}, {"ap-1", "ap"}}
}

func (f *fleetFiles) home(name string) string  { return filepath.Join(f.dir, name) }
func (f *fleetFiles) certs(name string) string { return filepath.Join(f.dir, name, "pki") }

// configuration writes the configuration of a node and gives its path.
func (f *fleetFiles) configuration(n *node, e engine, serves bool, drainDelay string, seeds []string) (string, error) {
	var b strings.Builder
	home := f.home(n.name)
	fmt.Fprintf(&b, `node: {name: %s, region: %s}
listen: [{address: ":%d"}]
admin: {socket: %q}
log: {format: text}
state_dir: %q
cache_dir: %q
drain_delay: %s
`, n.name, n.region, httpPort, n.socket(), filepath.Join(home, "state"), filepath.Join(home, "cache"), drainDelay)
	b.WriteString(e.extra)
	if serves {
		fmt.Fprintf(&b, "models: [{name: %s, path: %q}]\n", e.model, e.path)
	}
	if !e.lone {
		fmt.Fprintf(&b, "pki: {dir: %q}\npeer: {address: \":%d\", advertise: \"%s:%d\"}\ngossip: {seeds: [%s]}\n",
			f.certs(n.name), linkPort, n.host.Addr, linkPort, strings.Join(seeds, ", "))
	}
	file := filepath.Join(home, "akidbd.yaml")
	return file, os.WriteFile(file, []byte(b.String()), 0o600)
}
