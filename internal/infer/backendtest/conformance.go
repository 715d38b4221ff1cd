// Package backendtest holds the conformance suite of infer.Backend and a fake that passes it and can fail in
// every way the contract allows.
package backendtest

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/akidb/akidbd/internal/infer"
)

// Subject is an open Backend under test. MaxTokens and Vocab bound what rows it takes.
type Subject struct {
	Backend          infer.Backend
	MaxTokens, Vocab int
}

// Conformance checks the contract of infer.Backend. open is called once per test; the suite closes what it
// gives.
func Conformance(t *testing.T, open func(t *testing.T) Subject) {
	with := func(name string, f func(t *testing.T, s Subject)) {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			t.Cleanup(func() {
				if err := s.Backend.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			f(t, s)
		})
	}
	with("caps", testCaps)
	with("batch equals single", testBatchEqualsSingle)
	with("order of rows does not matter", testPermutation)
	with("wide equals narrow", testWide)
	with("concurrent runs", testConcurrent)
	with("extreme lengths", testLengths)
	with("refuses bad batches and goes on", testBadBatches)
	with("canceled before", testCanceled)
	with("does not keep the batch", testNotKept)
	with("close", testClose)
}

func testCaps(t *testing.T, s Subject) {
	c := s.Backend.Caps()
	if c.Provider == "" || c.Lanes < 1 || c.Dimensions < 1 || c.MaxTokens < s.MaxTokens {
		t.Errorf("caps %+v: needs a provider, a lane, dimensions and room for a row of %d tokens", c, s.MaxTokens)
	}
}

func testBatchEqualsSingle(t *testing.T, s Subject) {
	rows := randomRows(s, 7)
	together := mustRun(t, s, infer.Batch{Rows: rows})
	for i, row := range rows {
		alone := mustRun(t, s, infer.Batch{Rows: [][]int32{row}})
		if c := Cosine(alone[0], together[i]); !(c > 0.9999) {
			t.Errorf("row %d of %d tokens: cosine of batch and single is %v", i, len(row), c)
		}
	}
}

func testPermutation(t *testing.T, s Subject) {
	rows := randomRows(s, 6)
	a := mustRun(t, s, infer.Batch{Rows: rows})
	perm := rand.New(rand.NewPCG(1, 2)).Perm(len(rows))
	shuffled := make([][]int32, len(rows))
	for i, p := range perm {
		shuffled[i] = rows[p]
	}
	b := mustRun(t, s, infer.Batch{Rows: shuffled})
	for i, p := range perm {
		if c := Cosine(a[p], b[i]); !(c > 0.9999) {
			t.Errorf("row %d: cosine after shuffling is %v", p, c)
		}
	}
}

func testWide(t *testing.T, s Subject) {
	if !s.Backend.Caps().Wide {
		t.Skip("the backend has no wide form")
	}
	for _, row := range randomRows(s, 4) {
		narrow := mustRun(t, s, infer.Batch{Rows: [][]int32{row}})
		wide := mustRun(t, s, infer.Batch{Rows: [][]int32{row}, Wide: true})
		if c := Cosine(narrow[0], wide[0]); !(c > 0.9999) {
			t.Errorf("%d tokens: cosine of wide and narrow is %v", len(row), c)
		}
	}
}

func testConcurrent(t *testing.T, s Subject) {
	rows := randomRows(s, 8)
	want := make([][]float32, len(rows))
	for i, row := range rows {
		want[i] = mustRun(t, s, infer.Batch{Rows: [][]int32{row}})[0]
	}
	var wg sync.WaitGroup
	for g := range 2 * s.Backend.Caps().Lanes {
		wg.Go(func() {
			for k := range 2 * len(rows) {
				i := (g + k) % len(rows)
				out, err := s.Backend.Run(context.Background(), infer.Batch{Rows: rows[i : i+1], Wide: k%3 == 0})
				if err != nil {
					t.Error(err)
					return
				}
				if c := Cosine(out.Vectors[0], want[i]); !(c > 0.9999) {
					t.Errorf("row %d: cosine under concurrency is %v", i, c)
				}
			}
		})
	}
	wg.Wait()
}

func testLengths(t *testing.T, s Subject) {
	for _, n := range []int{1, 2, s.MaxTokens - 1, s.MaxTokens} {
		v := mustRun(t, s, infer.Batch{Rows: [][]int32{randomRow(s, n, uint64(n))}})
		for _, x := range v[0] {
			if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
				t.Fatalf("%d tokens: the vector has %v", n, x)
			}
		}
	}
}

func testBadBatches(t *testing.T, s Subject) {
	good := infer.Batch{Rows: randomRows(s, 2)}
	for name, bad := range map[string]infer.Batch{
		"no rows":       {},
		"an empty row":  {Rows: [][]int32{{}}},
		"row too long":  {Rows: [][]int32{make([]int32, s.MaxTokens+1)}},
		"too many rows": {Rows: make([][]int32, s.Backend.Caps().MaxTokens+1)},
	} {
		if name == "too many rows" {
			for i := range bad.Rows {
				bad.Rows[i] = []int32{0}
			}
		}
		if _, err := s.Backend.Run(t.Context(), bad); err == nil {
			t.Errorf("%s: no error", name)
		}
		mustRun(t, s, good)
	}
}

func testCanceled(t *testing.T, s Subject) {
	cause := errors.New("the reason")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := s.Backend.Run(ctx, infer.Batch{Rows: randomRows(s, 1)}); !errors.Is(err, cause) && !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled run gave %v", err)
	}
	mustRun(t, s, infer.Batch{Rows: randomRows(s, 1)})
}

func testNotKept(t *testing.T, s Subject) {
	row := randomRow(s, s.MaxTokens/2, 9)
	first := mustRun(t, s, infer.Batch{Rows: [][]int32{row}})[0]
	kept := append([]float32(nil), first...)
	clear(row)
	mustRun(t, s, infer.Batch{Rows: [][]int32{row}})
	for i := range kept {
		if kept[i] != first[i] {
			t.Fatal("a later run changed the vector of an earlier one")
		}
	}
}

func testClose(t *testing.T, s Subject) {
	select {
	case <-s.Backend.Done():
		t.Fatal("done before it was closed")
	default:
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { // either answers or says that it is closed
			_, _ = s.Backend.Run(context.Background(), infer.Batch{Rows: randomRows(s, 2)})
		})
	}
	for range 2 {
		if err := s.Backend.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	wg.Wait()
	select {
	case <-s.Backend.Done():
	case <-time.After(10 * time.Second):
		t.Error("done is not closed after Close")
	}
	if _, err := s.Backend.Run(context.Background(), infer.Batch{Rows: randomRows(s, 1)}); err == nil {
		t.Error("a run after Close gave no error")
	}
}

func mustRun(t *testing.T, s Subject, b infer.Batch) [][]float32 {
	t.Helper()
	out, err := s.Backend.Run(t.Context(), b)
	if err != nil {
		t.Fatalf("run of %d rows: %v", len(b.Rows), err)
	}
	if len(out.Vectors) != len(b.Rows) {
		t.Fatalf("%d vectors for %d rows", len(out.Vectors), len(b.Rows))
	}
	for _, v := range out.Vectors {
		if len(v) != s.Backend.Caps().Dimensions {
			t.Fatalf("a vector has %d dimensions, caps say %d", len(v), s.Backend.Caps().Dimensions)
		}
	}
	return out.Vectors
}

func randomRow(s Subject, n int, seed uint64) []int32 {
	rng := rand.New(rand.NewPCG(seed, 17))
	row := make([]int32, n)
	for i := range row {
		row[i] = int32(rng.IntN(s.Vocab))
	}
	return row
}

// randomRows gives n rows of different lengths that fit in one run.
func randomRows(s Subject, n int) [][]int32 {
	longest := min(s.MaxTokens, s.Backend.Caps().MaxTokens/n)
	rows := make([][]int32, n)
	for i := range rows {
		rows[i] = randomRow(s, 1+i*(longest-1)/n, uint64(i))
	}
	return rows
}

// Cosine is the cosine of the angle between two vectors of the same length.
func Cosine(a, b []float32) float64 {
	var ab, aa, bb float64
	for i := range a {
		ab += float64(a[i]) * float64(b[i])
		aa += float64(a[i]) * float64(a[i])
		bb += float64(b[i]) * float64(b[i])
	}
	return ab / math.Sqrt(aa*bb)
}
