package bench

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/akidb/akidbd/internal/loadgen"
)

// width is how many columns a report takes at most.
const width = 80

// writeText writes the report for people. unicode allows block characters in the histogram.
func (r result) writeText(w io.Writer, unicode bool) error {
	var b strings.Builder
	r.head(&b)
	r.totals(&b)
	r.failures(&b)
	r.latency(&b, unicode)
	if len(r.sum.URLs) > 1 {
		r.groups(&b, "server", r.sum.URLs, r.opt.failover)
	}
	if len(r.sum.Places) > 0 {
		r.groups(&b, "region and route", r.sum.Places, false)
	}
	r.remarks(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

func (r result) head(b *strings.Builder) {
	target := r.opt.urls[0]
	if n := len(r.opt.urls); n > 1 {
		target = fmt.Sprintf("%d servers", n)
	}
	line := func(format string, args ...any) { b.WriteString(cut(fmt.Sprintf(format, args...), width) + "\n") }
	line("%s, %s API, %s", target, r.opt.api, r.opt.modelName())
	line("%s, %s per request", r.opt.mode(), plural(int64(r.opt.textsPer), "text"))
	line("%s", r.about)
	measured := "measured " + span(r.sum.Window)
	if n := r.sum.WarmupRequests; n > 0 {
		measured += fmt.Sprintf(" after %s of warm-up (%s", span(r.opt.warmup), plural(n, "request"))
		if r.sum.WarmupFailed > 0 {
			measured += fmt.Sprintf(", %s failed", count(r.sum.WarmupFailed))
		}
		measured += ")"
	}
	if r.sum.Interrupted {
		measured += ", interrupted"
	}
	line("%s\n", measured)
}

func (r result) totals(b *strings.Builder) {
	t := r.sum.Total
	seconds := r.sum.Window.Seconds()
	perSecond := func(n int64) string {
		if seconds <= 0 {
			return "-"
		}
		return rate(float64(n)/seconds) + "/s"
	}
	rows := [][]string{
		{"requests", count(t.Requests), perSecond(t.Requests)},
		{"texts", count(t.Texts), rate(r.rate(t.WindowTexts)) + "/s"},
		{"tokens", count(t.Tokens), rate(r.rate(t.WindowTokens)) + "/s"},
		{"sent", size(t.Sent), ""},
		{"received", size(t.Received), ""},
		{"failed", count(t.Failed), ""},
	}
	if r.opt.failover {
		rows = append(rows, []string{"failed over", count(t.Retried), ""})
	}
	if t.Texts > 0 && t.Tokens > 0 {
		rows[2] = append(rows[2], rate(float64(t.Tokens)/float64(t.Texts))+" per text")
	}
	table(b, rows)
}

func (r result) failures(b *strings.Builder) {
	byCount := slices.SortedFunc(maps.Keys(r.sum.Codes), func(x, y string) int {
		return cmp.Or(cmp.Compare(r.sum.Codes[y], r.sum.Codes[x]), cmp.Compare(x, y))
	})
	if len(byCount) > 0 {
		b.WriteString("\nfailures\n")
	}
	for _, code := range byCount {
		fmt.Fprintf(b, "  %s %s\n", count(r.sum.Codes[code]), code)
		if m := printable(r.sum.Errors[code]); m != "" {
			for line := range wrap(m, width-6, 4) {
				fmt.Fprintf(b, "      %s\n", line)
			}
		}
	}
}

func (r result) latency(b *strings.Builder, unicode bool) {
	t := r.sum.Total
	if t.Latency.TotalCount() == 0 {
		return
	}
	b.WriteString("\nlatency\n")
	mean := time.Duration(t.Latency.Mean() * float64(time.Microsecond))
	table(b, [][]string{
		{"", "p50", "p90", "p95", "p99", "p99.9", "max", "mean"},
		{
			"", took(t.Quantile(50)), took(t.Quantile(90)), took(t.Quantile(95)), took(t.Quantile(99)),
			took(t.Quantile(99.9)), took(t.Max()), took(mean),
		},
	})
	b.WriteByte('\n')
	drawHistogram(b, bins(t.Latency), unicode)
}

func (r result) groups(b *strings.Builder, name string, groups []loadgen.Group, failover bool) {
	head := []string{name, "requests", "failed"}
	if failover {
		head = append(head, "over")
	}
	rows := [][]string{append(head, "texts/s", "p50", "p99")}
	for _, g := range groups {
		row := []string{cut(g.Name, 30), count(g.Requests), count(g.Failed)}
		if failover {
			row = append(row, count(g.Retried))
		}
		p50, p99 := "-", "-"
		if g.Latency.TotalCount() > 0 {
			p50, p99 = took(g.Quantile(50)), took(g.Quantile(99))
		}
		rows = append(rows, append(row, rate(r.rate(g.WindowTexts)), p50, p99))
	}
	b.WriteByte('\n')
	table(b, rows)
}

// remarks says what a reader must know to trust the numbers.
func (r result) remarks(b *strings.Builder) {
	var lines []string
	if r.sum.Late > 0 {
		lines = append(lines, fmt.Sprintf("%s started over 10 ms after they were due (the wait is in their latency);\n"+
			"at most %s were in flight, --clients is %s", plural(r.sum.Late, "request"),
			count(int64(r.sum.MostInFlight)), count(int64(r.opt.clients))))
	}
	if n := r.sum.LatencyCapped; n > 0 {
		lines = append(lines, plural(n, "latency", "latencies")+" over an hour are counted as one hour")
	}
	if r.sum.Total.Failed > 0 {
		lines = append(lines, "latency, texts and tokens are of the requests that succeeded")
	}
	if r.opt.verify {
		lines = append(lines, "every vector was decoded and checked")
	}
	for _, l := range lines {
		fmt.Fprintf(b, "\nnote: %s", l)
	}
	if len(lines) > 0 {
		b.WriteByte('\n')
	}
}

// table writes rows in columns: the first flush left, the others flush right, two spaces between.
func table(b *strings.Builder, rows [][]string) {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				line.WriteString("  " + cell + pad)
			} else {
				line.WriteString("  " + pad + cell)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}
