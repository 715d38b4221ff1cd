package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/akidb/akidbd/internal/infer"
)

// backend is an infer.Backend, and an infer.Hosted, over a worker.
type backend struct {
	process *process
	caps    infer.Caps
}

func (b *backend) Caps() infer.Caps      { return b.caps }
func (b *backend) Done() <-chan struct{} { return b.process.done }
func (b *backend) Close() error          { return b.process.close() }

// Process is for people who look at it.
func (b *backend) Process() infer.Process {
	return infer.Process{PID: b.process.pid(), RSS: b.process.rss.Load()}
}

// Err is why Done was closed without a Close.
func (b *backend) Err() error {
	b.process.mu.Lock()
	defer b.process.mu.Unlock()
	return b.process.cause
}

// Kill ends the worker now.
func (b *backend) Kill(reason string) { b.process.kill(reasonStuck, reason) }

// Run sends the batch and waits for its answer. When ctx ends the worker is asked to abort it; one that does not
// within abortGrace is ended.
func (b *backend) Run(ctx context.Context, batch infer.Batch) (infer.Output, error) {
	if err := b.check(batch); err != nil {
		return infer.Output{}, err
	}
	if ctx.Err() != nil {
		return infer.Output{}, context.Cause(ctx)
	}
	p := b.process
	c := &call{rows: len(batch.Rows), dims: b.caps.Dimensions, answer: make(chan result, 1)}
	id, err := p.register(c)
	if err != nil {
		return infer.Output{}, err
	}
	if err := p.out.send(kindRun, id, func(buf []byte) []byte { return appendBatch(buf, batch) }); err != nil {
		// Half a frame may be out: nothing can follow it. A dying worker's own cause is the better one.
		if !p.waitDead() {
			p.kill(reasonProtocol, "its socket broke: "+err.Error())
		}
	}
	select {
	case r := <-c.answer:
		return r.out, r.err
	case <-ctx.Done():
	}
	_ = p.out.send(kindCancel, id, nil) // a broken socket is seen by the reader
	timer := time.NewTimer(abortGrace)
	defer timer.Stop()
	var r result
	select {
	case r = <-c.answer:
	case <-timer.C:
		p.kill(reasonStuck, fmt.Sprintf("a run did not end within %v after it was aborted", abortGrace))
		r = <-c.answer
	}
	if r.canceled {
		return infer.Output{}, context.Cause(ctx)
	}
	return r.out, r.err
}

// check refuses what would not fit into a frame; the backend at the other end has its own rules.
func (b *backend) check(batch infer.Batch) error {
	if len(batch.Rows) == 0 {
		return errors.New("the batch has no rows")
	}
	for i, r := range batch.Rows {
		if len(r) == 0 {
			return fmt.Errorf("row %d has no tokens", i)
		}
	}
	if n := batch.PaddedTokens(); n > b.caps.MaxTokens {
		return fmt.Errorf("the batch has %d padded tokens, one run takes %d", n, b.caps.MaxTokens)
	}
	return nil
}

// register makes c wait for the answer with the returned id.
func (p *process) register(c *call) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return 0, p.lost()
	}
	if p.closing {
		return 0, errClosed
	}
	p.last++ // ids begin at 1: 0 is the host itself
	p.calls[p.last] = c
	return p.last, nil
}
