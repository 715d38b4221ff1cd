// Package testlog keeps what a test's subject logs, from any goroutine or process.
package testlog

import (
	"bytes"
	"sync"
)

// Buffer is an io.Writer whose content may be read meanwhile. The zero value is empty.
type Buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
