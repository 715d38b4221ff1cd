package backendtest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/akidb/akidbd/internal/infer"
)

// Fake is a Backend whose vectors are a cheap function of the ids. Its knobs, set before use or through Set,
// make it slow, failing, panicking, hanging or lost.
type Fake struct {
	caps      infer.Caps
	maxTokens int

	mu      sync.Mutex
	knobs   Knobs
	batches []infer.Batch // copies of what ran
	closed  bool

	runs sync.WaitGroup
	done chan struct{}
}

// Knobs are how a Fake misbehaves.
type Knobs struct {
	PerToken time.Duration                   // time of a run per padded token
	Cost     func(infer.Batch) time.Duration // time of a run, besides
	Fail     func(infer.Batch) error         // fails the batch before it is computed
	After    func(infer.Batch) error         // fails the batch although it was computed
	NaN      func(row []int32) bool          // rows whose vector has a NaN
	Panic    func(infer.Batch) bool          // panics
	Hold     func(infer.Batch) chan struct{} // the run waits for it, or for ctx
	Deaf     bool                            // a held run ignores ctx
}

// NewFake opens a fake for rows of up to maxTokens.
func NewFake(caps infer.Caps, maxTokens int) *Fake {
	return &Fake{caps: caps, maxTokens: maxTokens, done: make(chan struct{})}
}

// Set changes the knobs.
func (f *Fake) Set(k Knobs) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.knobs = k
}

// Batches gives what ran so far, the canaries and warm-ups too.
func (f *Fake) Batches() []infer.Batch {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]infer.Batch(nil), f.batches...)
}

// Lose closes Done without a Close: the backend is gone.
func (f *Fake) Lose() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.closed = true
		close(f.done)
	}
}

// Caps is what NewFake was given.
func (f *Fake) Caps() infer.Caps { return f.caps }

// Done is closed by Close and Lose.
func (f *Fake) Done() <-chan struct{} { return f.done }

// Close waits for the runs in flight.
func (f *Fake) Close() error {
	f.Lose()
	f.runs.Wait()
	return nil
}

// Run computes, or does what the knobs say.
func (f *Fake) Run(ctx context.Context, b infer.Batch) (infer.Output, error) {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return infer.Output{}, errors.New("the fake is closed")
	}
	f.runs.Add(1)
	defer f.runs.Done()
	k := f.knobs
	f.batches = append(f.batches, infer.Batch{Rows: append([][]int32(nil), b.Rows...), Wide: b.Wide})
	f.mu.Unlock()

	if err := f.check(b); err != nil {
		return infer.Output{}, err
	}
	if k.Panic != nil && k.Panic(b) {
		panic("the fake panics")
	}
	if k.Fail != nil {
		if err := k.Fail(b); err != nil {
			return infer.Output{}, err
		}
	}
	if err := f.wait(ctx, k, b); err != nil {
		return infer.Output{}, err
	}
	out := infer.Output{Vectors: make([][]float32, len(b.Rows))}
	for i, row := range b.Rows {
		out.Vectors[i] = Vector(row, f.caps.Dimensions)
		if k.NaN != nil && k.NaN(row) {
			out.Vectors[i][0] = float32(math.NaN())
		}
	}
	if k.After != nil {
		if err := k.After(b); err != nil {
			return infer.Output{}, err
		}
	}
	select {
	case <-f.done:
		return infer.Output{}, errors.New("the fake was lost")
	default:
		return out, nil
	}
}

func (f *Fake) wait(ctx context.Context, k Knobs, b infer.Batch) error {
	if k.Hold != nil {
		if hold := k.Hold(b); hold != nil {
			done, gone := ctx.Done(), (<-chan struct{})(f.done)
			if k.Deaf {
				done, gone = nil, nil
			}
			select {
			case <-hold:
			case <-done:
			case <-gone:
			}
		}
	}
	cost := k.PerToken * time.Duration(b.PaddedTokens())
	if k.Cost != nil {
		cost += k.Cost(b)
	}
	if cost > 0 {
		timer := time.NewTimer(cost)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil && !k.Deaf {
		return context.Cause(ctx)
	}
	return nil
}

func (f *Fake) check(b infer.Batch) error {
	if len(b.Rows) == 0 {
		return errors.New("no rows")
	}
	for i, r := range b.Rows {
		if len(r) == 0 || len(r) > f.maxTokens {
			return fmt.Errorf("row %d has %d tokens, 1 to %d are taken", i, len(r), f.maxTokens)
		}
	}
	if n := b.PaddedTokens(); n > f.caps.MaxTokens {
		return fmt.Errorf("%d padded tokens, %d are taken", n, f.caps.MaxTokens)
	}
	return nil
}

// Vector is what a Fake computes for a row: not normalized, different for different rows.
func Vector(row []int32, dims int) []float32 {
	v := make([]float32, dims)
	h := uint64(1469598103934665603)
	for _, id := range row {
		h = (h ^ uint64(uint32(id))) * 1099511628211
	}
	for i := range v {
		h = h*6364136223846793005 + 1442695040888963407
		v[i] = float32(int32(h>>32)) / (1 << 30)
	}
	return v
}
