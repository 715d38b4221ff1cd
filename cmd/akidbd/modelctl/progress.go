package modelctl

import (
	"io"
	"os"
	"sync/atomic"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// bar shows how far something is, on a terminal only, and counts it anywhere.
type bar struct {
	all  *mpb.Progress // nil: nothing is drawn
	bar  *mpb.Bar
	done atomic.Int64
}

// newBar draws on w when it is a terminal.
func newBar(w io.Writer, verb string, total int64) *bar {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || total <= 0 {
		return &bar{}
	}
	all := mpb.New(mpb.WithOutput(w), mpb.WithWidth(40))
	return &bar{all: all, bar: all.AddBar(total, mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name(verb, decor.WC{W: 10, C: decor.DindentRight})),
		mpb.AppendDecorators(decor.CountersKiloByte("% .0f / % .0f"), decor.Name("  "), decor.AverageSpeed(decor.SizeB1000(0), "% .0f")),
	)}
}

// add counts n bytes more, or fewer when it is negative.
func (b *bar) add(n int64) {
	done := b.done.Add(n)
	if b.bar != nil {
		b.bar.SetCurrent(done)
	}
}

// set says how many bytes are done.
func (b *bar) set(done int64) { b.add(done - b.done.Load()) }

// end takes the bar away.
func (b *bar) end() {
	if b.bar != nil {
		b.bar.Abort(true)
		b.all.Wait()
	}
}
