package worker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// What of a worker's standard error is logged: a burst, enough for the stack of the goroutine that crashed, then so
// many lines a second.
const (
	maxLine   = 8 << 10
	lineBurst = 60
	lineRate  = 10
)

// relay logs what comes from r line by line until it ends, and gives the line that says why the process crashed, "" if
// there was none. Records of the worker's own logger keep their level and attributes.
func relay(r io.Reader, log *slog.Logger, now func() time.Time) (headline string) {
	in := bufio.NewReaderSize(r, maxLine)
	left, at, dropped := float64(lineBurst), now(), 0
	tellDropped := func() {
		if dropped > 0 {
			log.Warn("lines of a worker were left out", "lines", dropped)
			dropped = 0
		}
	}
	for {
		line, err := in.ReadSlice('\n')
		whole := err == nil
		text := strings.TrimRight(string(line), "\r\n")
		for errors.Is(err, bufio.ErrBufferFull) { // the rest of a line that is too long
			_, err = in.ReadSlice('\n')
			whole = err == nil
		}
		if text != "" {
			if headline == "" && isHeadline(text) {
				headline = text
			}
			t := now()
			left, at = min(lineBurst, left+lineRate*t.Sub(at).Seconds()), t
			if left < 1 {
				dropped++
			} else {
				left--
				tellDropped()
				logLine(log, text)
			}
		}
		if !whole {
			tellDropped()
			return headline
		}
	}
}

// isHeadline knows how the Go runtime begins to say why it dies, and glibc.
func isHeadline(line string) bool {
	beginnings := []string{"SIG", "fatal error: ", "panic: ", "runtime: out of memory", "terminate called",
		"free(): ", "malloc(): ", "double free"}
	return slices.ContainsFunc(beginnings, func(b string) bool { return strings.HasPrefix(line, b) })
}

func logLine(log *slog.Logger, text string) {
	var record map[string]any
	if !strings.HasPrefix(text, "{") || json.Unmarshal([]byte(text), &record) != nil {
		log.Warn("a worker says", "line", text)
		return
	}
	level := slog.LevelWarn
	if s, ok := record[slog.LevelKey].(string); ok {
		_ = level.UnmarshalText([]byte(s)) // it stays a warning
	}
	attrs := make([]slog.Attr, 0, len(record))
	for k, v := range record {
		if k != slog.LevelKey && k != slog.MessageKey && k != slog.TimeKey {
			attrs = append(attrs, slog.Any(k, v))
		}
	}
	slices.SortFunc(attrs, func(a, b slog.Attr) int { return strings.Compare(a.Key, b.Key) })
	log.LogAttrs(context.Background(), level, fmt.Sprint(record[slog.MessageKey]), attrs...)
}
