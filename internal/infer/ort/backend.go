package ort

import (
	"context"
	"errors"
	"fmt"
	"sync"

	onnx "github.com/yalue/onnxruntime_go"

	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/infer/modeldir"
	"github.com/akidb/akidbd/internal/infer/pooling"
)

// backend is an infer.Backend over one or two sessions of the same graph. The weights of both are mapped from
// the same file.
type backend struct {
	sig  signature
	spec modeldir.Spec
	caps infer.Caps

	narrow *onnx.DynamicAdvancedSession // one thread a run on the CPU; the only one on a GPU
	wide   *onnx.DynamicAdvancedSession // all cores a run; nil without Caps.Wide

	buffers sync.Pool // of *buffers

	mu     sync.RWMutex // held for reading by Run, for writing by Close
	closed bool
	done   chan struct{}
}

var errClosed = errors.New("the backend is closed")

func (b *backend) Caps() infer.Caps { return b.caps }

func (b *backend) Done() <-chan struct{} { return b.done }

// Close waits for the runs in flight.
func (b *backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	close(b.done)
	err := b.narrow.Destroy()
	if b.wide != nil {
		err = errors.Join(err, b.wide.Destroy())
	}
	return err
}

// Run computes one batch.
func (b *backend) Run(ctx context.Context, batch infer.Batch) (infer.Output, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return infer.Output{}, errClosed
	}
	if err := b.checkBatch(batch); err != nil {
		return infer.Output{}, err
	}
	if err := ctx.Err(); err != nil {
		return infer.Output{}, context.Cause(ctx)
	}
	session := b.narrow
	if batch.Wide && b.wide != nil {
		session = b.wide
	}
	buf, _ := b.buffers.Get().(*buffers)
	if buf == nil {
		buf = &buffers{}
	}
	defer b.buffers.Put(buf)
	rows, longest := len(batch.Rows), batch.PaddedTokens()/len(batch.Rows)
	buf.fill(b.sig, batch.Rows, longest, b.spec)
	hidden, err := buf.run(ctx, session, b.sig, rows, longest, b.caps.Dimensions)
	if err != nil {
		return infer.Output{}, err
	}
	return b.pool(hidden, batch.Rows, longest), nil
}

func (b *backend) checkBatch(batch infer.Batch) error {
	if len(batch.Rows) == 0 {
		return errors.New("the batch has no rows")
	}
	for i, r := range batch.Rows {
		if len(r) == 0 || len(r) > b.spec.MaxTokens {
			return fmt.Errorf("row %d has %d tokens, the model takes 1 to %d", i, len(r), b.spec.MaxTokens)
		}
	}
	if m := b.caps.MaxRows; m > 0 && len(batch.Rows) > m {
		return fmt.Errorf("the batch has %d rows, one run takes %d", len(batch.Rows), m)
	}
	if n := batch.PaddedTokens(); n > b.caps.MaxTokens {
		return fmt.Errorf("the batch has %d padded tokens, one run takes %d", n, b.caps.MaxTokens)
	}
	return nil
}

// pool turns the graph's output into one vector per row, in memory of its own.
func (b *backend) pool(hidden []float32, rows [][]int32, longest int) infer.Output {
	dim := b.caps.Dimensions
	flat := make([]float32, len(rows)*dim)
	out := infer.Output{Vectors: make([][]float32, len(rows))}
	for i, row := range rows {
		v := flat[i*dim : (i+1)*dim : (i+1)*dim]
		if b.sig.pooled {
			copy(v, hidden[i*dim:])
		} else {
			pooling.Pool(v, b.spec.Pooling, hidden[i*longest*dim:], len(row), dim)
		}
		out.Vectors[i] = v
	}
	return out
}
