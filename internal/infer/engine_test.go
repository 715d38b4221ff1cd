package infer_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/infer/backendtest"
)

func TestEmbed(t *testing.T) {
	r := newRig(t, nil)
	r.install("m")
	res, err := r.ask("w1 w2", "w3", "w1 w2")
	if err != nil {
		t.Fatal(err)
	}
	if res.Model.Name != "m" || len(res.Vectors) != 3 || res.TotalTokens() != 4+3+4 {
		t.Fatalf("got %+v", res)
	}
	want := backendtest.Vector([]int32{2, 5, 6, 3}, testDims)
	if c := backendtest.Cosine(res.Vectors[0], want); c < 0.999999 {
		t.Errorf("vector 0 is not the backend's: cosine %v", c)
	}
	if n := backendtest.Cosine(res.Vectors[0], res.Vectors[2]); n < 0.999999 {
		t.Errorf("equal inputs differ: %v", n)
	}
	var norm float64
	for _, x := range res.Vectors[0] {
		norm += float64(x) * float64(x)
	}
	if norm < 0.9999 || norm > 1.0001 {
		t.Errorf("squared length is %v, want 1", norm)
	}
}

func TestDimensionsAreSlicedAndNormalizedAgain(t *testing.T) {
	r := newRig(t, nil)
	r.install("m")
	full, err := r.ask("w7")
	if err != nil {
		t.Fatal(err)
	}
	res, err := r.Embed(t.Context(), embedding.Request{Inputs: []embedding.Input{{Text: "w7"}}, Dimensions: 3})
	if err != nil {
		t.Fatal(err)
	}
	if c := backendtest.Cosine(res.Vectors[0], full.Vectors[0][:3]); len(res.Vectors[0]) != 3 || c < 0.999999 {
		t.Errorf("got %v, want the first three of %v", res.Vectors[0], full.Vectors[0])
	}
	no := false
	res, err = r.Embed(t.Context(), embedding.Request{Inputs: []embedding.Input{{Text: "w7"}}, Normalize: &no})
	if err != nil {
		t.Fatal(err)
	}
	if want := backendtest.Vector([]int32{2, 11, 3}, testDims); res.Vectors[0][0] != want[0] {
		t.Errorf("not normalized: got %v, want %v", res.Vectors[0], want)
	}
}

func TestBadRequests(t *testing.T) {
	r := newRig(t, nil)
	no := false
	r.installVersion("m", "1", infer.Settings{Aliases: []string{"default"}, Prompts: map[string]string{"query": "w1 "}})
	one := []embedding.Input{{Text: "w1"}}
	long := []embedding.Input{{Text: words(300, 1)}}
	for name, c := range map[string]struct {
		req   embedding.Request
		code  embedding.Code
		parts []string
	}{
		"no input":       {embedding.Request{}, embedding.CodeInvalid, nil},
		"unknown model":  {embedding.Request{Model: "x", Inputs: one}, embedding.CodeModelNotFound, []string{`"x"`, "serves m"}},
		"unknown digest": {embedding.Request{Model: "m@aaaaaaaaaaaa", Inputs: one}, embedding.CodeModelNotFound, []string{"aaaaaaaaaaaa", "m@111111111111"}},
		"short digest":   {embedding.Request{Model: "m@11", Inputs: one}, embedding.CodeInvalid, []string{"2 hex digits", "12"}},
		"dimensions":     {embedding.Request{Inputs: one, Dimensions: 9}, embedding.CodeUnprocessable, []string{"9", "1 to 8"}},
		"negative":       {embedding.Request{Inputs: one, Dimensions: -1}, embedding.CodeUnprocessable, []string{"-1"}},
		"prompt":         {embedding.Request{Inputs: one, PromptName: "x"}, embedding.CodeUnprocessable, []string{`"x"`, "query"}},
		"too long":       {embedding.Request{Inputs: long, Truncate: &no}, embedding.CodeUnprocessable, []string{"300", "256"}},
		"no ids":         {embedding.Request{Inputs: []embedding.Input{{Tokens: []int32{}}}}, embedding.CodeUnprocessable, nil},
		"id too large":   {embedding.Request{Inputs: []embedding.Input{{Tokens: []int32{104}}}}, embedding.CodeUnprocessable, []string{"104", "0 to 103"}},
		"negative id":    {embedding.Request{Inputs: []embedding.Input{{Tokens: []int32{-1}}}}, embedding.CodeUnprocessable, []string{"-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.Embed(t.Context(), c.req)
			wantCode(t, err, c.code, c.parts...)
		})
	}
}

func TestTruncation(t *testing.T) {
	r := newRig(t, nil)
	f := r.install("m")
	res, err := r.ask("w1", words(300, 1))
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Truncated) != 2 || res.Truncated[0] != 0 || res.Truncated[1] != 300-testMaxTokens {
		t.Errorf("truncated %v, want [0 %d]", res.Truncated, 300-testMaxTokens)
	}
	for _, b := range f.Batches() {
		for _, row := range b.Rows {
			if len(row) == testMaxTokens && row[testMaxTokens-1] != 3 {
				t.Errorf("a cut row ends with %d, want [SEP]", row[testMaxTokens-1])
			}
		}
	}
}

func TestPromptsAndSettings(t *testing.T) {
	r := newRig(t, nil)
	no := false
	f := r.installVersion("m", "1", infer.Settings{
		Aliases: []string{"default"}, Prompts: map[string]string{"query": "w1 ", "doc": ""}, DefaultPrompt: "query",
		MaxTokens: 10, Truncate: &no, Normalize: &no,
	})
	if _, err := r.ask("w2"); err != nil {
		t.Fatal(err)
	}
	batches := f.Batches()
	if got := batches[len(batches)-1].Rows[0]; len(got) != 4 || got[1] != 5 || got[2] != 6 {
		t.Errorf("ran %v, want the prompt's w1 before w2", got)
	}
	_, err := r.ask(words(10, 1))
	wantCode(t, err, embedding.CodeUnprocessable, "11", "10")
}

// TestAliases: an alias leads to one model only, and "default" answers requests that name none.
func TestAliases(t *testing.T) {
	r := newRig(t, nil)
	r.install("a")
	r.installVersion("b", "2", infer.Settings{Aliases: []string{"bee"}})
	for asked, want := range map[string]string{"": "a", "default": "a", "bee": "b", "b@222222222222": "b", "a@sha256-111111111111": "a"} {
		res, err := r.Embed(t.Context(), embedding.Request{Model: asked, Inputs: []embedding.Input{{Text: "w1"}}})
		if err != nil || res.Model.Name != want {
			t.Errorf("%q: got %v, %v, want %s", asked, res.Model, err, want)
		}
	}
	err := r.Install(t.Context(), embedding.Model{Name: "c"}, r.dir, infer.Settings{Aliases: []string{"bee"}})
	if err == nil || !strings.Contains(err.Error(), "bee") {
		t.Errorf("a taken alias: %v", err)
	}
}

// TestBatching: while both lanes are busy, what waits is grouped by length within the limits.
func TestBatching(t *testing.T) {
	r := newRig(t, func(c *infer.Config) { c.BatchTokens = 60; c.Wide = infer.WideNever })
	f := r.install("m")
	gate := make(chan struct{})
	var held atomic.Int32
	f.Set(backendtest.Knobs{Hold: func(infer.Batch) chan struct{} { held.Add(1); return gate }})

	var wg sync.WaitGroup
	ask := func(text string) {
		wg.Go(func() {
			if _, err := r.ask(text); err != nil {
				t.Error(err)
			}
		})
	}
	ask("w1")
	ask("w2")
	waitFor(t, func() bool { return held.Load() == 2 })
	for i := range 12 {
		ask(words(5+i%2, 100*(i+1)))
		ask(words(40+i%2, 100*(i+1)))
	}
	waitFor(t, func() bool { return r.Loads()["m"].Inputs == 26 })
	close(gate)
	wg.Wait()
	small := 0
	for _, b := range f.Batches() {
		shortest, longest := len(b.Rows[0]), 0
		for _, row := range b.Rows {
			shortest, longest = min(shortest, len(row)), max(longest, len(row))
		}
		if b.PaddedTokens() > 60 || longest-shortest > 1 {
			t.Errorf("a run of %d rows from %d to %d tokens", len(b.Rows), shortest, longest)
		}
		if longest <= 6 && len(b.Rows) > 1 {
			small++
		}
	}
	if small == 0 || small > 3 {
		t.Errorf("the short texts took %d shared runs, want 1 to 3", small)
	}
}

// TestFairness: a request of many texts lets later small ones in between.
func TestFairness(t *testing.T) {
	r := newRig(t, func(c *infer.Config) { c.BatchTokens = 20; c.Options.Threads = 1; c.Wide = infer.WideNever })
	f := r.install("m")
	step := make(chan struct{})
	f.Set(backendtest.Knobs{Hold: func(infer.Batch) chan struct{} { return step }})
	big := make([]string, 50)
	for i := range big {
		big[i] = words(20, 100*(i+1))
	}
	var wg sync.WaitGroup
	bigDone := make(chan struct{})
	wg.Go(func() {
		defer close(bigDone)
		if _, err := r.ask(big...); err != nil {
			t.Error(err)
		}
	})
	waitFor(t, func() bool { return r.Loads()["m"].Inputs == 50 })
	smallDone := make(chan struct{})
	wg.Go(func() {
		defer close(smallDone)
		if _, err := r.ask("w99"); err != nil {
			t.Error(err)
		}
	})
	waitFor(t, func() bool { return r.Loads()["m"].Inputs == 51 })
	for range 3 {
		step <- struct{}{}
	}
	<-smallDone
	select {
	case <-bigDone:
		t.Error("the big request ended before the small one")
	default:
	}
	close(step)
	wg.Wait()
}

func TestIdenticalInputsAreComputedOnce(t *testing.T) {
	r := newRig(t, func(c *infer.Config) { c.Options.Threads = 1; c.Wide = infer.WideNever })
	f := r.install("m")
	gate := make(chan struct{})
	f.Set(backendtest.Knobs{Hold: func(infer.Batch) chan struct{} { return gate }})
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = r.ask("w1") })
	waitFor(t, func() bool { return r.Loads()["m"].Inputs == 1 })
	for range 10 {
		wg.Go(func() {
			if res, err := r.ask("w2", "w2"); err != nil || len(res.Vectors) != 2 {
				t.Errorf("got %v, %v", res, err)
			}
		})
	}
	waitFor(t, func() bool { return r.Loads()["m"].Inputs == 2 })
	time.Sleep(time.Millisecond) // for the calls that are still on their way into the queue
	close(gate)
	wg.Wait()
	n := 0
	for _, b := range f.Batches() {
		for _, row := range b.Rows {
			if len(row) == 3 && row[1] == 6 {
				n++
			}
		}
	}
	if n > 2 {
		t.Errorf("20 equal inputs were computed %d times", n)
	}
}

func TestWide(t *testing.T) {
	for mode, want := range map[infer.WideMode]bool{infer.WideAuto: true, infer.WideAlways: true, infer.WideNever: false} {
		r := newRig(t, func(c *infer.Config) { c.Wide = mode })
		f := r.install("m")
		if _, err := r.ask("w1"); err != nil {
			t.Fatal(err)
		}
		b := f.Batches()
		if got := b[len(b)-1].Wide; got != want {
			t.Errorf("%s: a lone request ran wide: %v, want %v", mode, got, want)
		}
	}
}

func TestOverload(t *testing.T) {
	r := newRig(t, func(c *infer.Config) { c.QueueTokens = 50; c.Options.Threads = 1; c.Wide = infer.WideNever })
	f := r.install("m")
	gate := make(chan struct{})
	f.Set(backendtest.Knobs{Hold: func(infer.Batch) chan struct{} { return gate }})
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			if _, err := r.ask(words(30, 100*(i+1))); err != nil {
				t.Error(err)
			}
		})
		waitFor(t, func() bool { return r.Loads()["m"].Inputs == i+1 })
	}
	_, err := r.ask("w1")
	wantCode(t, err, embedding.CodeOverloaded, "60", "50")
	close(gate)
	wg.Wait()
	if _, err := r.ask("w1"); err != nil {
		t.Errorf("after the queue is empty: %v", err)
	}
}

func TestCancelFreesTheQueue(t *testing.T) {
	r := newRig(t, func(c *infer.Config) { c.Options.Threads = 1; c.Wide = infer.WideNever })
	f := r.install("m")
	gate := make(chan struct{})
	f.Set(backendtest.Knobs{Hold: func(infer.Batch) chan struct{} { return gate }})
	running, stopRunning := context.WithCancel(t.Context())
	queued, stopQueued := context.WithCancel(t.Context())
	errs := make(chan error, 2)
	embed := func(ctx context.Context, text string) {
		_, err := r.Embed(ctx, embedding.Request{Inputs: []embedding.Input{{Text: text}}})
		errs <- err
	}
	go embed(running, "w1")
	waitFor(t, func() bool { return r.Loads()["m"].Inputs == 1 })
	go embed(queued, "w2 w3")
	waitFor(t, func() bool { return r.Loads()["m"].Tokens == 4 })
	stopQueued()
	wantCode(t, <-errs, embedding.CodeCanceled)
	if l := r.Loads()["m"]; l.Tokens != 0 {
		t.Errorf("%d tokens still wait", l.Tokens)
	}
	stopRunning() // the held run ends with its context: nobody waits for it
	wantCode(t, <-errs, embedding.CodeCanceled)
	waitFor(t, func() bool { return r.Loads()["m"].Inputs == 0 })
	close(gate)
}

func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *infer.Config) { c.Options.Threads = 1; c.Wide = infer.WideNever })
		r.caps.RunOverhead = 0
		f := r.install("m")
		f.Set(backendtest.Knobs{PerToken: 10 * time.Millisecond})
		if _, err := r.ask("w1 w2"); err != nil { // the engine learns 10 ms per token
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := r.Embed(ctx, embedding.Request{Inputs: []embedding.Input{{Text: words(30, 1)}}})
		wantCode(t, err, embedding.CodeOverloaded, "300ms", "100ms")
		if time.Since(began) > 0 {
			t.Errorf("the refusal took %v, want none", time.Since(began))
		}
		f.Set(backendtest.Knobs{PerToken: time.Second})
		_, err = r.Embed(ctx, embedding.Request{Inputs: []embedding.Input{{Text: "w1"}}})
		wantCode(t, err, embedding.CodeDeadline)
		if d := time.Since(began); d != 100*time.Millisecond {
			t.Errorf("the deadline of 100ms was noticed after %v", d)
		}
		r.close()
	})
}
