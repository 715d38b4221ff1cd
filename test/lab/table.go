//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"
)

// show writes a time with three digits at most; "-" for one that was not measured.
func show(d time.Duration) string {
	switch {
	case d == noDetection:
		return "-"
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1000)
	case d < time.Second:
		return fmt.Sprintf("%.0f ms", d.Seconds()*1000)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

func (r *result) where() string {
	if r.forwarded {
		return "forwarded"
	}
	return "local"
}

func (r *result) amplification() string {
	if r.amplified == unknownAmplified {
		return "-"
	}
	return fmt.Sprintf("%.3f", r.amplified)
}

// line is the result for somebody who watches.
func (r *result) line() string {
	var b strings.Builder
	verdict := "ok  "
	if len(r.problems) > 0 {
		verdict = "FAIL"
	}
	fmt.Fprintf(&b, "%s %-15s %-4s %-9s ready %s", verdict, r.scenario.name, r.engine, r.where(), show(r.ready))
	if t := r.sum.Total; t.Requests > 0 {
		fmt.Fprintf(&b, "  %d requests, %.0f%% forwarded, %d failed  p50 %s p99 %s (before %s) max %s  detection %s rejoin %s  amplification %s  at the fault %d on a victim, %d in flight",
			t.Requests, 100*r.share, t.Failed, show(t.Quantile(50)), show(t.Quantile(99)), show(r.before), show(t.Max()),
			show(r.detection), show(r.rejoin), r.amplification(), r.busy, r.inFlight)
		if r.late >= tooLate {
			fmt.Fprintf(&b, "  (this machine was too busy: %.0f%% of the load was sent late, latencies are not judged)", 100*r.late)
		}
	}
	for _, p := range r.problems {
		fmt.Fprintf(&b, "\n     - %s", p)
	}
	return b.String()
}

// table is all results in Markdown, and how many failed.
func table(results []result, o options) (text string, failed int) {
	var b strings.Builder
	fmt.Fprintf(&b, "| scenario | engine | served | requests | forwarded | failed | p50 | p99 | max | detection | rejoin | amplification |\n")
	fmt.Fprintf(&b, "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, r := range results {
		t := r.sum.Total
		if len(r.problems) > 0 {
			failed++
		}
		if t.Latency == nil {
			fmt.Fprintf(&b, "| %s | %s | %s | did not run | | | | | | | | |\n", r.scenario.name, r.engine, r.where())
			continue
		}
		name := r.scenario.name
		if r.late >= tooLate {
			name += " (busy machine)"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %d | %.0f %% | %d | %s | %s | %s | %s | %s | %s |\n", name, r.engine, r.where(),
			t.Requests, 100*r.share, t.Failed, show(t.Quantile(50)), show(t.Quantile(99)), show(t.Max()), show(r.detection), show(r.rejoin), r.amplification())
	}
	fmt.Fprintf(&b, "\nRound trip between the regions eu and us: %v.\n", o.rtt)
	return b.String(), failed
}

const (
	tableBegin = "<!-- table: make e2e-mesh ARGS=-write=docs/resilience.md -->"
	tableEnd   = "<!-- end of the table -->"
)

// writeTable replaces what stands between the markers of a file.
func writeTable(path, text string) error {
	data, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		data, err = []byte("# Resilience\n\n"+tableBegin+"\n"+tableEnd+"\n"), nil
	}
	if err != nil {
		return err
	}
	head, rest, ok := bytes.Cut(data, []byte(tableBegin))
	_, tail, end := bytes.Cut(rest, []byte(tableEnd))
	if !ok || !end {
		return fmt.Errorf("%s has no lines %q and %q to write the table between", path, tableBegin, tableEnd)
	}
	return os.WriteFile(path, fmt.Appendf(nil, "%s%s\n\n%s\n%s%s", head, tableBegin, text, tableEnd, tail), 0o644)
}
