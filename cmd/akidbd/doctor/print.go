package doctor

import (
	"fmt"
	"io"
	"strings"
)

// signs stand before a finding; colours are those of terminals.
var signs = map[Level]struct{ mark, colour string }{
	Green: {"ok", "32"}, Yellow: {"!!", "33"}, Red: {"XX", "31"}, Skipped: {"--", "90"},
}

// Print writes the report for people.
func (r Report) Print(w io.Writer, colour bool) {
	fmt.Fprintf(w, "%s\n\n", r.Machine)
	for _, f := range r.Findings {
		s := signs[f.Level]
		mark := s.mark
		if colour {
			mark = "\x1b[" + s.colour + "m" + mark + "\x1b[0m"
		}
		indent := strings.Repeat(" ", 20)
		fmt.Fprintf(w, "%s %-16s %s\n", mark, f.Check, strings.ReplaceAll(f.Found, "\n", "\n"+indent))
		if f.Do != "" {
			fmt.Fprintf(w, "%s-> %s\n", indent, f.Do)
		}
	}
	counts := map[Level]int{}
	for _, f := range r.Findings {
		counts[f.Level]++
	}
	fmt.Fprintf(w, "\n%s: %d green, %d yellow, %d red\n", r.Level, counts[Green], counts[Yellow], counts[Red])
}
