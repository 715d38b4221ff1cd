package bench

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/akidb/akidbd/internal/loadgen"
)

// redrawEvery is how often the line of progress is drawn: often enough to look alive, seldom enough to cost the
// machine nothing.
const redrawEvery = 250 * time.Millisecond

// screen draws one line of progress on a terminal, and nothing anywhere else.
type screen struct {
	out     io.Writer
	columns func() int // 0: not a terminal
}

func newScreen(out io.Writer) screen {
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return screen{out: out, columns: func() int { return 0 }}
	}
	return screen{out: out, columns: func() int {
		w, _, err := term.GetSize(int(f.Fd()))
		if err != nil || w < 20 {
			return width
		}
		return w
	}}
}

// follow draws the progress of a load until stop is called, which wipes the line.
func (s screen) follow(load *loadgen.Load, opt options) (stop func()) {
	if s.columns() == 0 {
		return func() {}
	}
	done := make(chan struct{})
	var drawer sync.WaitGroup
	drawer.Go(func() {
		tick := time.NewTicker(redrawEvery)
		defer tick.Stop()
		for {
			select {
			case <-done:
				fmt.Fprint(s.out, "\r\x1b[K")
				return
			case <-tick.C:
				fmt.Fprintf(s.out, "\r\x1b[K%s", cut(progressLine(load.Progress(), opt), s.columns()-1))
			}
		}
	})
	return func() {
		close(done)
		drawer.Wait()
	}
}

// progressLine says how far a run is.
func progressLine(p loadgen.Progress, opt options) string {
	if p.Elapsed < 0 {
		return fmt.Sprintf("warming up, %.0f s left  %d in flight", (-p.Elapsed).Seconds(), p.InFlight)
	}
	line := fmt.Sprintf("%.0f s", p.Elapsed.Seconds())
	if opt.duration > 0 {
		line = fmt.Sprintf("%.0f of %.0f s", min(p.Elapsed, opt.duration).Seconds(), opt.duration.Seconds())
	}
	done := count(p.Requests)
	if opt.requests > 0 {
		done += " of " + count(int64(opt.requests))
	}
	line += fmt.Sprintf("  %s done", done)
	if p.Failed > 0 {
		line += fmt.Sprintf("  %s FAILED", count(p.Failed))
	}
	line += fmt.Sprintf("  %s texts/s", rate(p.TextRate))
	if p.P50 > 0 {
		line += fmt.Sprintf("  p50 %s  p99 %s", took(p.P50), took(p.P99))
	}
	return line + fmt.Sprintf("  %d in flight", p.InFlight)
}
