package peer

import (
	"bufio"
	"io"
	"sync"
)

// inflight counts requests and tells when there are none.
type inflight struct {
	mu   sync.Mutex
	n    int
	none chan struct{} // closed when n is 0; nil when nobody waits
}

func (f *inflight) add() {
	f.mu.Lock()
	f.n++
	f.mu.Unlock()
}

func (f *inflight) done() {
	f.mu.Lock()
	f.n--
	if f.n == 0 && f.none != nil {
		close(f.none)
		f.none = nil
	}
	f.mu.Unlock()
}

func (f *inflight) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n
}

// idle is closed at the next moment without a request.
func (f *inflight) idle() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := make(chan struct{})
	switch {
	case f.n == 0:
		close(c)
	case f.none == nil:
		f.none = c
	default:
		c = f.none
	}
	return c
}

// buffers are reused between requests. Large ones are left to the garbage collector.
type buffers struct {
	bytes   sync.Pool // of *[]byte
	readers sync.Pool // of *bufio.Reader
}

const keepBuffer = 512 << 10

func (p *buffers) get() *[]byte {
	if b, ok := p.bytes.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, 4096)
	return &b
}

func (p *buffers) put(b *[]byte) {
	if cap(*b) <= keepBuffer {
		*b = (*b)[:0]
		p.bytes.Put(b)
	}
}

func (p *buffers) reader(from io.Reader) *bufio.Reader {
	if r, ok := p.readers.Get().(*bufio.Reader); ok {
		r.Reset(from)
		return r
	}
	return bufio.NewReaderSize(from, 4096)
}

func (p *buffers) putReader(r *bufio.Reader) {
	r.Reset(nil)
	p.readers.Put(r)
}
