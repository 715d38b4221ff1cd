//go:build linux

// Command lab breaks fleets on purpose: real akidbd processes in network namespaces, two or three regions apart,
// a steady load on some of them, a fault, and a table of what clients noticed. `make e2e-mesh` runs it. It needs
// root; without, it says so and ends well.
//
// The engine is either real (akidbd with ONNX Runtime and a model) or fake (the same daemon with an engine that
// costs no CPU, for 200 requests per second on two cores).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/akidb/akidbd/test/lab/netlab"
)

// options are the flags.
type options struct {
	bin, library, model string // akidbd, ONNX Runtime and a model of the real engine
	previous            string // akidbd of the previous release, "" when there is none
	tiny                string // the model directory of the fake engine
	engine              string // fake or real
	run                 string // scenarios to run, "" for all
	ci                  bool   // only what fits in four minutes
	dir                 string // logs are kept here
	write               string // the table goes into this file too
	partition           time.Duration
	rtt                 time.Duration
	list                bool
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == fakeNodeCommand {
		if err := fakeNode(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "fakenode:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.StringVar(&o.bin, "bin", "bin/akidbd", "the akidbd to start")
	flag.StringVar(&o.previous, "previous", "", "the akidbd of the previous release, for the upgrade; without one that scenario is skipped")
	flag.StringVar(&o.library, "library", "", "the ONNX Runtime library, for the real engine")
	flag.StringVar(&o.model, "model", "", "the directory of a model, for the real engine")
	flag.StringVar(&o.tiny, "tiny", "internal/infer/testmodels/models/bert-gelu-new", "the directory of a small model, for the fake engine")
	flag.StringVar(&o.engine, "engine", "fake", "fake, real or both")
	flag.StringVar(&o.run, "run", "", "names of scenarios, with commas; all when empty")
	flag.BoolVar(&o.ci, "ci", false, "only the scenarios that fit in four minutes")
	flag.StringVar(&o.dir, "dir", "", "keep certificates, state and logs in a new directory here; when empty, they are kept after a failure only")
	flag.StringVar(&o.write, "write", "", "write the table between the markers of this file too")
	flag.DurationVar(&o.partition, "partition", 90*time.Second, "length of the long partition; at most 20s with -ci")
	flag.DurationVar(&o.rtt, "rtt", 80*time.Millisecond, "round trip between the first two regions")
	flag.BoolVar(&o.list, "list", false, "list the scenarios and end")
	flag.Parse()

	if o.list {
		for _, s := range scenarios(o) {
			fmt.Printf("%-18s %s\n", s.name, s.about)
		}
		fmt.Printf("%-18s one request of %d texts: on one node, on four, with one of the four killed midway\n", bulkName, bulkTexts)
		return
	}
	if err := netlab.Available(); err != nil {
		fmt.Printf("SKIPPED: the mesh was not tested: %v\n", err)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := lab(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func lab(ctx context.Context, o options) (err error) {
	hurry()
	keep := o.dir != ""
	if keep {
		err = os.MkdirAll(o.dir, 0o700)
	}
	if err == nil {
		o.dir, err = os.MkdirTemp(o.dir, "akidb-lab-")
	}
	if err != nil {
		return err
	}
	for _, path := range []*string{&o.bin, &o.previous, &o.tiny, &o.dir} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	engines := []string{o.engine}
	if o.engine == "both" {
		engines = []string{engineFake, engineReal}
	}
	var results []result
	var large string
	for _, name := range engines {
		e, err := newEngine(name, o)
		if err != nil {
			return err
		}
		f, err := newFleetFiles(ctx, o, e)
		if err != nil {
			return err
		}
		for _, s := range scenarios(o) {
			if !wanted(s, o, e) {
				continue
			}
			runs := []bool{false, true}
			if s.localOnly {
				runs = runs[:1]
			}
			for _, forwarded := range runs {
				r := (&runner{opt: o, engine: e, files: f}).run(ctx, s, forwarded)
				if o.ci && !r.wrong && len(r.problems) > 0 { // a lost request has no second chance
					fmt.Println(r.line() + "\n     once more: nothing but latencies was wrong")
					r = (&runner{opt: o, engine: e, files: f}).run(ctx, s, forwarded)
				}
				if ctx.Err() != nil {
					return ctx.Err()
				}
				results = append(results, r)
				if n := len(results); forwarded && s.pair != nil {
					s.pair(o, &results[n-2], &results[n-1])
				}
				fmt.Println(results[len(results)-1].line())
			}
		}
		if name == engineFake && wantsBulk(o) {
			if large, err = bulk(ctx, o, e, f); err != nil {
				return err
			}
		}
	}
	text, failed := table(results, o)
	if large != "" {
		text += "\n" + large + "\n"
	}
	fmt.Println("\n" + text)
	switch {
	case len(results) == 0 && large == "":
		return fmt.Errorf("no scenario is called %s: -list names them", o.run)
	case failed > 0:
		return fmt.Errorf("%d of %d runs failed; logs: %s", failed, len(results), o.dir)
	}
	if o.write != "" {
		if err := writeTable(o.write, text); err != nil {
			return err
		}
	}
	if !keep {
		return os.RemoveAll(o.dir)
	}
	return nil
}

func wanted(s scenario, o options, e engine) bool {
	if s.fakeOnly && e.name != engineFake || s.realOnly && e.name != engineReal {
		return false
	}
	if s.previous && o.previous == "" {
		if !o.ci {
			fmt.Printf("SKIPPED: %s: no previous release was given (-previous)\n", s.name)
		}
		return false
	}
	if o.run != "" {
		return slices.Contains(strings.Split(o.run, ","), s.name)
	}
	return !o.ci || s.ci == e.name || s.ci == "both"
}

func wantsBulk(o options) bool {
	return o.run == "" || slices.Contains(strings.Split(o.run, ","), bulkName)
}

// hurry lets this process, which carries all packets and sends the load, go before the nodes that it measures:
// on two busy cores a switch that waits for its turn would be measured as the fleet's latency. The nodes are
// started at the usual priority.
func hurry() {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range tasks {
		var tid int
		if _, err := fmt.Sscan(t.Name(), &tid); err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, tid, -10) // threads made later inherit it
		}
	}
}

var errEnded = errors.New("the node ended")
