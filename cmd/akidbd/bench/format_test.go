package bench

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/HdrHistogram/hdrhistogram-go"
)

func TestFormats(t *testing.T) {
	for got, want := range map[string]string{
		count(0):                          "0",
		count(999):                        "999",
		count(-1000):                      "-1,000",
		count(1234567):                    "1,234,567",
		rate(0):                           "0",
		rate(1.234):                       "1.23",
		rate(9.996):                       "10.0",
		rate(99.96):                       "100",
		rate(5901.4):                      "5,901",
		took(85 * time.Microsecond):       "85 µs",
		took(8314 * time.Microsecond):     "8.31 ms",
		took(999400 * time.Microsecond):   "999 ms",
		took(999600 * time.Microsecond):   "1.00 s",
		took(75 * time.Second):            "75.0 s",
		span(250 * time.Millisecond):      "0.25 s",
		span(150 * time.Second):           "2m30s",
		size(999):                         "999 B",
		size(372_400):                     "372 kB",
		size(999_600):                     "1.00 MB",
		size(2_500_000_000):               "2.50 GB",
		plural(1, "client"):               "1 client",
		plural(2000, "client"):            "2,000 clients",
		plural(2, "latency", "latencies"): "2 latencies",
		cut("abcdef", 5):                  "ab...",
		cut("äöüäö", 5):                   "äöüäö",
		printable("a\nb\x1b[2J\u202ec"):   "a b?[2J?c",
		bound(1500 * time.Microsecond):    "1.5 ms",
		bound(2 * time.Second):            "2 s",
		bar(0, true):                      "",
		bar(0.01, true):                   "▏",
		bar(2.5, true):                    "██▌",
		bar(0.01, false):                  "#",
		bar(3, false):                     "###",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestWrap(t *testing.T) {
	for _, tc := range []struct {
		s    string
		want []string
	}{
		{"", []string{""}},
		{"short", []string{"short"}},
		{"one two three four", []string{"one two", "three four"}},
		{"ten chars. and then much more than fits", []string{"ten chars.", "and then", "much mo..."}},
		{"aaaaaaaaaaaaaaaaaaaa b", []string{"aaaaaaaaaa", "aaaaaaaaaa", "b"}},
	} {
		if got := slices.Collect(wrap(tc.s, 10, 3)); !slices.Equal(got, tc.want) {
			t.Errorf("%q: %q, want %q", tc.s, got, tc.want)
		}
	}
}

func TestUnicodeOutput(t *testing.T) {
	for _, tc := range []struct {
		env  map[string]string
		want bool
	}{
		{nil, true},
		{map[string]string{"LANG": "C"}, false},
		{map[string]string{"LANG": "C.UTF-8"}, true},
		{map[string]string{"LANG": "en_US.utf8", "LC_ALL": "POSIX"}, false},
	} {
		if got := unicodeOutput(func(k string) string { return tc.env[k] }); got != tc.want {
			t.Errorf("%v: %t, want %t", tc.env, got, tc.want)
		}
	}
}

func TestBins(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	loads := map[string]func() int64{
		"one value":   func() int64 { return 5000 },
		"narrow":      func() int64 { return 100_000 + r.Int64N(9_000) },
		"wide":        func() int64 { return 1 + r.Int64N(1000)*r.Int64N(1000)*r.Int64N(1000) },
		"from 1 µs":   func() int64 { return 1 + r.Int64N(3) },
		"up to hours": func() int64 { return time.Hour.Microseconds() - r.Int64N(1e6) },
		"two heaps":   func() int64 { return []int64{3000, 90_000}[r.IntN(2)] + r.Int64N(500) },
	}
	for name, draw := range loads {
		h := hdrhistogram.New(1, time.Hour.Microseconds(), 3)
		for range 1000 {
			if err := h.RecordValue(draw()); err != nil {
				t.Fatal(err)
			}
		}
		rows := bins(h)
		var total int64
		for i, b := range rows {
			total += b.count
			if b.from >= b.to || (i > 0 && b.from != rows[i-1].to) {
				t.Errorf("%s: row %d goes from %v to %v", name, i, b.from, b.to)
			}
		}
		if total != 1000 || len(rows) > maxBins || rows[0].count == 0 || rows[len(rows)-1].count == 0 {
			t.Errorf("%s: %d latencies in %d rows %v, want 1000 in at most %d with full ends", name, total, len(rows), rows, maxBins)
		}
		for _, unicode := range []bool{true, false} {
			var b strings.Builder
			drawHistogram(&b, rows, unicode)
			if got := strings.Count(b.String(), "\n"); got != len(rows)+1 {
				t.Errorf("%s: %d lines for %d rows", name, got, len(rows))
			}
			for line := range strings.Lines(b.String()) {
				if n := utf8.RuneCountInString(line) - 1; n > width {
					t.Errorf("%s: %d columns: %q", name, n, line)
				}
				if !unicode && len(strings.ReplaceAll(line, "µ", "u")) != utf8.RuneCountInString(line) {
					t.Errorf("%s: %q is not ASCII", name, line)
				}
			}
		}
	}
	if bins(hdrhistogram.New(1, 1000, 3)) != nil {
		t.Error("rows of nothing")
	}
}
