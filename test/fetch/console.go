package main

import (
	"fmt"
	"io"
	"os"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// console tells people what goes on: with bars on a terminal, with lines elsewhere.
type console struct {
	w        io.Writer
	terminal bool
}

func newConsole(w io.Writer) console {
	f, ok := w.(*os.File)
	return console{w: w, terminal: ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"}
}

func (c console) line(format string, args ...any) {
	fmt.Fprintf(c.w, format+"\n", args...)
}

// barFrom is the size, in bytes, from which work takes long enough to be worth a bar.
const barFrom = 4 << 20

// progressBar counts the bytes written to it.
type progressBar struct {
	all *mpb.Progress // nil: nothing is drawn
	bar *mpb.Bar
}

// bar starts a bar of so many bytes. done must be called.
func (c console) bar(verb string, total int64) progressBar {
	if !c.terminal || total < barFrom {
		return progressBar{}
	}
	all := mpb.New(mpb.WithOutput(c.w), mpb.WithWidth(40))
	return progressBar{all: all, bar: all.AddBar(total,
		mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name("  "+verb, decor.WC{W: 12, C: decor.DindentRight})),
		mpb.AppendDecorators(decor.CountersKiloByte("% .0f / % .0f")),
	)}
}

func (p progressBar) Write(b []byte) (int, error) {
	if p.bar != nil {
		p.bar.IncrBy(len(b))
	}
	return len(b), nil
}

// done ends the bar, wiping it.
func (p progressBar) done(err error) {
	if p.bar == nil {
		return
	}
	if err != nil || !p.bar.Completed() {
		p.bar.Abort(true)
	}
	p.all.Wait()
}

func megabytes(n int64) string { return fmt.Sprintf("%.0f MB", float64(n)/1e6) }
