package ort

import (
	"context"
	"errors"
	"runtime"
	"slices"

	onnx "github.com/yalue/onnxruntime_go"

	"github.com/akidb/akidbd/internal/infer/modeldir"
)

// buffers is the memory of one run, used again by the next.
type buffers struct {
	ids, mask, positions, types []int64
	hidden                      []float32
}

// fill lays the rows out as rows x longest, padded on the right.
func (buf *buffers) fill(sig signature, rows [][]int32, longest int, spec modeldir.Spec) {
	n := len(rows) * longest
	buf.ids, buf.mask = resize(buf.ids, n), resize(buf.mask, n)
	for i, row := range rows {
		ids, mask := buf.ids[i*longest:(i+1)*longest], buf.mask[i*longest:(i+1)*longest]
		for j, id := range row {
			ids[j], mask[j] = int64(id), 1
		}
		for j := len(row); j < longest; j++ {
			ids[j], mask[j] = int64(spec.PadID), 0
		}
	}
	if sig.has(inputTypes) {
		buf.types = resize(buf.types, n)
		clear(buf.types)
	}
	if sig.has(inputPositions) {
		buf.positions = resize(buf.positions, n)
		for i := range buf.positions {
			buf.positions[i] = int64(i % longest)
		}
	}
}

func resize[T any](s []T, n int) []T { return slices.Grow(s[:0], n)[:n] }

// run computes and returns the output, which lives until the next run. When ctx ends it aborts the computation
// and waits for it to end: the input's memory is in use until then.
func (buf *buffers) run(ctx context.Context, s *onnx.DynamicAdvancedSession, sig signature, rows, longest, dim int) ([]float32, error) {
	var pin runtime.Pinner // ONNX Runtime keeps the addresses over several calls
	defer pin.Unpin()
	inputs, err := buf.inputs(sig, int64(rows), int64(longest), &pin)
	defer func() { destroy(inputs) }()
	if err != nil {
		return nil, err
	}
	shape := onnx.NewShape(int64(rows), int64(longest), int64(dim))
	if sig.pooled {
		shape = onnx.NewShape(int64(rows), int64(dim))
	}
	buf.hidden = resize(buf.hidden, int(shape.FlattenedSize()))
	pin.Pin(&buf.hidden[0])
	output, err := onnx.NewTensor(shape, buf.hidden)
	if err != nil {
		return nil, err
	}
	defer func() { _ = output.Destroy() }()

	opts, err := onnx.NewRunOptions()
	if err != nil {
		return nil, err
	}
	aborted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(aborted)
		_ = opts.Terminate()
	})
	err = s.RunWithOptions(inputs, []onnx.Value{output}, opts)
	if !stop() {
		<-aborted // it must not touch opts any more
	}
	err = errors.Join(err, opts.Destroy())
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return buf.hidden, err
}

// inputs makes the graph's input values in its order.
func (buf *buffers) inputs(sig signature, rows, longest int64, pin *runtime.Pinner) ([]onnx.Value, error) {
	values := make([]onnx.Value, 0, len(sig.inputs))
	add := func(v onnx.Value, err error) error {
		if err == nil {
			values = append(values, v)
		}
		return err
	}
	shape := onnx.NewShape(rows, longest)
	for _, in := range sig.inputs {
		var data []int64
		switch in.role {
		case inputIDs:
			data = buf.ids
		case inputMask:
			data = buf.mask
		case inputTypes:
			data = buf.types
		case inputPositions:
			data = buf.positions
		case inputPast: // no tokens came before: the sequence dimension is 0
			if err := add(onnx.NewTensor(onnx.NewShape(rows, in.heads, 0, in.headDim), []float32{})); err != nil {
				return values, err
			}
			continue
		}
		pin.Pin(&data[0])
		if err := add(onnx.NewTensor(shape, data)); err != nil {
			return values, err
		}
	}
	return values, nil
}

func destroy(values []onnx.Value) {
	for _, v := range values {
		_ = v.Destroy() // fails only for a value that is destroyed already
	}
}
