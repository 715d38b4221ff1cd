//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/akidb/akidbd/test/lab/netlab"
)

// TestMain lets the test binary be the fake node that the lab starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == fakeNodeCommand {
		if err := fakeNode(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// loneRun runs a scenario with nodes that do not know each other.
func loneRun(t *testing.T, s scenario) result {
	t.Helper()
	if err := netlab.Available(); err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	o := options{dir: t.TempDir(), tiny: "../../internal/infer/testmodels/models/bert-gelu-new", rtt: 20 * time.Millisecond}
	var err error
	if o.tiny, err = filepath.Abs(o.tiny); err != nil {
		t.Fatal(err)
	}
	e, err := newEngine(engineFake, o)
	if err != nil {
		t.Fatal(err)
	}
	e.lone, e.rate, e.requests = true, 100, 100
	files, err := newFleetFiles(t.Context(), o, e)
	if err != nil {
		t.Fatal(err)
	}
	if s.heal == nil {
		s.heal = nothing
	}
	s.before, s.hold, s.after, s.grow = 500*time.Millisecond, 500*time.Millisecond, 500*time.Millisecond, time.Second
	var r result
	for range 3 { // a busy machine's latencies are not judged
		r = (&runner{opt: o, engine: e, files: files}).run(t.Context(), s, false)
		t.Log(r.line())
		if r.late < tooLate {
			break
		}
	}
	return r
}

// TestClientKnowsTwo: a kill that the client works around is no failure, and the killed node's end is not held
// against it.
func TestClientKnowsTwo(t *testing.T) {
	r := loneRun(t, scenario{name: "two", asked: []string{"eu-1", "us-1"}, victims: []string{"eu-1"}, fault: kill("eu-1"), heal: start("eu-1")})
	if len(r.problems) > 0 || r.sum.Total.Requests < 100 {
		t.Errorf("%d requests, problems %q", r.sum.Total.Requests, r.problems)
	}
}

// TestLabSeesFailures: each way to fail is seen as one.
func TestLabSeesFailures(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault func(context.Context, *fleet) error
		heal  func(context.Context, *fleet) error
		want  string
	}{
		{"killed", kill("eu-1"), start("eu-1"), "requests failed"},
		{"engine", send(10, "eu-1"), send(12, "eu-1"), "requests failed"}, // SIGUSR1, SIGUSR2
		{"ended by itself", each([]string{"us-1"}, func(n *node) error { return n.cmd.Process.Kill() }), nothing, "us-1 ended by itself"},
		{"slow", change(func(_, _ *netlab.Host, p *netlab.Path) { p.Delay += 800 * time.Millisecond }), reset, "p99 is"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := loneRun(t, scenario{name: "broken", asked: []string{"eu-1"}, fault: tc.fault, heal: tc.heal})
			if !strings.Contains(strings.Join(r.problems, "\n"), tc.want) {
				t.Errorf("problems %q, want one with %q", r.problems, tc.want)
			}
		})
	}
}

func TestParseMetrics(t *testing.T) {
	got, err := parseMetrics([]byte("# HELP a b\na{x=\"1 2\"} 3\na{x=\"}\"} 4.5e1\nb 1\n"))
	if err != nil || got["a"] != 48 || got["b"] != 1 {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := parseMetrics([]byte("a b c\n")); err == nil {
		t.Error("no error for a value that is no number")
	}
}

func TestWriteTable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "r.md")
	for _, text := range []string{"first", "second"} {
		if err := writeTable(file, text); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil || strings.Contains(string(data), "first") || !strings.Contains(string(data), "second") {
		t.Errorf("%v %s", err, data)
	}
	if err := os.WriteFile(file, []byte("no markers"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeTable(file, "x"); err == nil {
		t.Error("a file without markers was overwritten")
	}
}
