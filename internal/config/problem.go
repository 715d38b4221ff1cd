package config

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Problem is one thing wrong with a configuration.
type Problem struct {
	Source  string // file or environment variable; "" for a default or a value set by a program
	Line    int    // 1-based; 0 when there is none
	Path    string // key path, "engine.threads" or "models[0].name"; "" when it is about the whole
	Message string // what was wrong, the limit, the actual value
}

// String is the problem on one line: source:line: path: message.
func (p Problem) String() string {
	var b strings.Builder
	if p.Source != "" {
		b.WriteString(p.Source)
		if p.Line > 0 {
			b.WriteString(":" + strconv.Itoa(p.Line))
		}
		b.WriteString(": ")
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Error is everything wrong with a configuration, at least one Problem.
type Error struct {
	Problems []Problem
}

// Error has one line a problem.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// maxProblems bounds a report: a file that is wrong everywhere is not a configuration.
const maxProblems = 50

// report collects problems.
type report struct {
	problems []Problem
	dropped  int
}

func (r *report) add(p Problem) {
	if len(r.problems) >= maxProblems {
		r.dropped++
		return
	}
	r.problems = append(r.problems, p)
}

// err is the *Error of what was collected, in the order of the lines, or nil.
func (r *report) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(r.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Line, b.Line))
	})
	if r.dropped > 0 {
		r.problems = append(r.problems, Problem{Message: "and " + strconv.Itoa(r.dropped) + " more problems"})
	}
	return &Error{Problems: r.problems}
}

// nearest is the candidate that a mistyped word most likely means, or "" when none is close.
func nearest(word string, candidates []string) string {
	if len(word) > 64 {
		return ""
	}
	best, bestDistance := "", max(2, len(word)/3)+1
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), strings.ToLower(c)); d < bestDistance && d < len(word) {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance is the Levenshtein distance of bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
