// Package doctor looks at a machine and says what keeps akidbd from serving well on it, and what to do about it. It
// changes nothing. What it looks at comes in through Machine, so that a test can show it any machine.
package doctor

import (
	"context"
	"io/fs"
	"time"

	"github.com/akidb/akidbd/internal/config"
)

// Level is how bad a finding is.
type Level string

// The levels.
const (
	Green   Level = "green"
	Yellow  Level = "yellow"  // works, but less well or not for long
	Red     Level = "red"     // does not work, or not as configured
	Skipped Level = "skipped" // not configured, or not of this machine
)

// Finding is what was found about one thing.
type Finding struct {
	Check string `json:"check"` // "library", "clock" and so on
	Level Level  `json:"level"`
	Found string `json:"found"`
	Do    string `json:"do,omitempty"` // what to do about it
}

// Report is all that was found.
type Report struct {
	Level    Level     `json:"level"` // the worst
	Machine  string    `json:"machine"`
	Findings []Finding `json:"findings"`
}

// Machine is what is looked at.
type Machine struct {
	Files fs.FS // the root of the file system: /proc, /sys, /dev and /etc are read there
	Arch  string

	Config     *config.Config // nil when it cannot be read
	ConfigFile string         // "" without one
	ConfigErr  error

	// Library finds and loads ONNX Runtime.
	Library func(configured string) (path, version string, err error)
	// Node asks the running daemon; an error when none answers.
	Node func(ctx context.Context) (Node, error)
	// Bucket reads from the bucket of models; nil when none is configured. A running daemon is asked instead: it has
	// its own credentials.
	Bucket func(ctx context.Context) (name string, err error)

	User Owner // of the daemon
	Now  time.Time
	sys  system // the real one when nil
}

// Owner is a user of the machine.
type Owner struct {
	Name string
	UID  int // -1: there is no such user
	GIDs []int
}

// Node is what a running daemon says.
type Node struct {
	State, Health, Reason string
	Listens               []string // host:port, with /udp behind for the links
	Models                []Model
	Peers                 []Peer
	Checks                map[string]string // failing ones, by name
	Bucket                bool              // it reads one
}

// Model is one that the daemon serves.
type Model struct{ Name, State, Provider string }

// Peer is another node as the daemon sees it.
type Peer struct {
	Name, Region string
	Up           bool
	Cause        string // why not
}

// look is one check. It says nothing when it has nothing to say.
type look func(context.Context, *examination) []Finding

// examination is one run of the doctor.
type examination struct {
	Machine
	node    *Node // nil: no daemon answers
	nodeErr error
	tegra   string // what the board is called, "" on other machines
}

func newExamination(m Machine) *examination {
	if m.sys == nil {
		m.sys = linux{}
	}
	return &examination{Machine: m, tegra: tegra(m.Files)}
}

// Examine looks at everything.
func Examine(ctx context.Context, m Machine) Report {
	x := newExamination(m)
	if node, err := m.Node(ctx); err == nil {
		x.node = &node
	} else {
		x.nodeErr = err
	}
	r := Report{Level: Green, Machine: x.describe()}
	for _, look := range []look{
		configuration, library, daemon, accelerator, power, throttling, udpBuffers, clock, ports, certificates, bucket, peers, disk, cores,
	} {
		for _, f := range look(ctx, x) {
			r.Findings = append(r.Findings, f)
			r.Level = worse(r.Level, f.Level)
		}
	}
	return r
}

func worse(a, b Level) Level {
	rank := map[Level]int{Skipped: 0, Green: 0, Yellow: 1, Red: 2}
	if rank[b] > rank[a] {
		return b
	}
	return a
}

func green(check, found string) []Finding {
	return []Finding{{Check: check, Level: Green, Found: found}}
}
func skipped(check, why string) []Finding {
	return []Finding{{Check: check, Level: Skipped, Found: why}}
}
func yellow(check, found, do string) []Finding {
	return []Finding{{Check: check, Level: Yellow, Found: found, Do: do}}
}
func red(check, found, do string) []Finding {
	return []Finding{{Check: check, Level: Red, Found: found, Do: do}}
}
