package bench

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// maxBins is how many rows a histogram has at most.
const maxBins = 14

// bin counts latencies from From (included) to To.
type bin struct {
	from, to time.Duration
	count    int64
}

// bins sorts latencies into rows with round bounds that grow by about the same factor: as fine as maxBins rows
// allow. Rows at both ends are not empty, those between may be.
func bins(h *hdrhistogram.Histogram) []bin {
	if h.TotalCount() == 0 {
		return nil
	}
	lo, hi := max(1, h.Min()), max(1, h.Max())
	var edges []float64
	for _, steps := range [][]float64{
		{1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 9},
		{1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8},
		{1, 1.5, 2, 3, 4, 6, 8},
		{1, 2, 5},
		{1},
	} {
		edges = spread(steps, float64(lo), float64(hi))
		if len(edges)-1 <= maxBins {
			break
		}
	}
	rows := make([]bin, len(edges)-1)
	for i := range rows {
		rows[i] = bin{from: microseconds(edges[i]), to: microseconds(edges[i+1])}
	}
	for _, bar := range h.Distribution() {
		if bar.Count == 0 {
			continue
		}
		at := time.Duration(min(max(bar.From, lo), hi)) * time.Microsecond
		for i := range rows {
			if at < rows[i].to || i == len(rows)-1 {
				rows[i].count += bar.Count
				break
			}
		}
	}
	return rows
}

// spread repeats steps over the powers of ten: from the last bound not above lo to the first one above hi.
func spread(steps []float64, lo, hi float64) []float64 {
	var edges []float64
	for power := math.Pow(10, math.Floor(math.Log10(lo))); ; power *= 10 {
		for _, s := range steps {
			edge := s * power
			if edge <= lo {
				edges = edges[:0]
			}
			edges = append(edges, edge)
			if edge > hi {
				return edges
			}
		}
	}
}

func microseconds(x float64) time.Duration {
	return time.Duration(math.Round(x * float64(time.Microsecond)))
}

// drawHistogram draws a row for each bin.
func drawHistogram(b *strings.Builder, rows []bin, unicode bool) {
	var most, total int64
	for _, r := range rows {
		most = max(most, r.count)
		total += r.count
	}
	labels := make([]string, len(rows))
	wide := len("from")
	counts := len("requests")
	for i, r := range rows {
		labels[i] = bound(r.from)
		wide = max(wide, utf8.RuneCountInString(labels[i]))
		counts = max(counts, len(count(r.count)))
	}
	room := width - wide - counts - len("      100.0 %  ")
	fmt.Fprintf(b, "  %*s  %*s\n", wide, "from", counts, "requests")
	for i, r := range rows {
		pad := strings.Repeat(" ", wide-utf8.RuneCountInString(labels[i]))
		line := fmt.Sprintf("  %s%s  %*s  %5.1f %%  %s", pad, labels[i], counts, count(r.count),
			100*float64(r.count)/float64(total), bar(float64(r.count)/float64(most)*float64(room), unicode))
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}

// bound writes a round bound without needless digits: 1.5 ms, 200 ms, 2 s.
func bound(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%g µs", float64(d)/float64(time.Microsecond))
	case d < time.Second:
		return fmt.Sprintf("%g ms", float64(d)/float64(time.Millisecond))
	}
	return fmt.Sprintf("%g s", d.Seconds())
}

// bar draws a bar so many columns long, with eighths where block characters are allowed. A bar that is not
// empty is never invisible.
func bar(columns float64, unicode bool) string {
	if columns <= 0 {
		return ""
	}
	if !unicode {
		return strings.Repeat("#", max(1, int(math.Round(columns))))
	}
	eighths := max(1, int(math.Round(columns*8)))
	s := strings.Repeat("█", eighths/8)
	if rest := eighths % 8; rest > 0 {
		s += string([]rune("▏▎▍▌▋▊▉")[rest-1])
	}
	return s
}
