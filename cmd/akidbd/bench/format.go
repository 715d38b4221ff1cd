package bench

import (
	"fmt"
	"iter"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// count writes 1234567 as 1,234,567.
func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// plural writes "1 request" or "2 requests"; many is the plural when it does not end in s.
func plural(n int64, one string, many ...string) string {
	switch {
	case n == 1:
		return "1 " + one
	case len(many) > 0:
		return count(n) + " " + many[0]
	}
	return count(n) + " " + one + "s"
}

// rate writes a number with three digits or as a whole number.
func rate(x float64) string {
	switch {
	case x == 0:
		return "0"
	case x >= 999.5:
		return count(int64(math.Round(x)))
	case x >= 99.95:
		return strconv.FormatFloat(x, 'f', 0, 64)
	case x >= 9.995:
		return strconv.FormatFloat(x, 'f', 1, 64)
	}
	return strconv.FormatFloat(x, 'f', 2, 64)
}

// took writes a duration with three digits: 85 µs, 8.31 ms, 412 ms, 1.20 s, 75.0 s.
func took(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < 999500*time.Microsecond:
		return rate(float64(d)/float64(time.Millisecond)) + " ms"
	}
	return rate(d.Seconds()) + " s"
}

// span writes how long something lasted: 0.25 s, 10.0 s, 2m30s.
func span(d time.Duration) string {
	if d >= time.Minute {
		return d.Round(time.Second).String()
	}
	return rate(d.Seconds()) + " s"
}

// size writes bytes with decimal units.
func size(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 999_500:
		return rate(float64(n)/1e3) + " kB"
	case n < 999_500_000:
		return rate(float64(n)/1e6) + " MB"
	}
	return rate(float64(n)/1e9) + " GB"
}

// cut shortens s to so many characters.
func cut(s string, columns int) string {
	runes := []rune(s)
	if len(runes) <= columns {
		return s
	}
	return string(runes[:columns-3]) + "..."
}

// wrap breaks s at spaces into lines of so many columns, and cuts what is left in the last one.
func wrap(s string, columns, lines int) iter.Seq[string] {
	return func(yield func(string) bool) {
		runes := []rune(strings.Join(strings.Fields(s), " "))
		for ; lines > 1 && len(runes) > columns; lines-- {
			at := columns
			for at > columns/2 && runes[at] != ' ' {
				at--
			}
			if runes[at] != ' ' {
				at = columns
			}
			if !yield(string(runes[:at])) {
				return
			}
			runes = runes[at:]
			if runes[0] == ' ' {
				runes = runes[1:]
			}
		}
		yield(cut(string(runes), columns))
	}
}

// printable keeps what a server said from moving the cursor of a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s)
}

// unicodeOutput says whether the locale of the environment is a UTF-8 one, which is taken for granted where
// none is set.
func unicodeOutput(env func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(env(name)); v != "" {
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return true
}
