package api

import (
	"io"

	"github.com/akidb/akidbd/internal/embedding"
)

// hold counts bytes of a body or an answer against Config.MaxMemory, until the call ends. A few bytes can ask for
// megabytes of vectors, and a client that sends or reads slowly holds what it caused: neither the number of
// requests nor the size of one bounds the memory of all.
func (c *call) hold(bytes int) error {
	c.held.Add(int64(bytes))
	if now := c.api.held.Add(int64(bytes)); now > c.api.cfg.MaxMemory {
		return embedding.Errorf(embedding.CodeOverloaded,
			"requests and answers in progress take %d MiB, the limit is %d: try again later, or send fewer inputs at once",
			now>>20, c.api.cfg.MaxMemory>>20)
	}
	return nil
}

// release gives back what the call held.
func (c *call) release() { c.api.held.Add(-c.held.Swap(0)) }

// meter counts what is read of a body.
type meter struct {
	io.ReadCloser
	call *call
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	if holdErr := m.call.hold(n); holdErr != nil {
		return n, holdErr
	}
	return n, err
}
