package infer_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/infer/backendtest"
)

const poisonID = 4 + 66 // w66

func poisoned(rows ...[]int32) bool {
	for _, row := range rows {
		for _, id := range row {
			if id == poisonID {
				return true
			}
		}
	}
	return false
}

// TestPoison: whatever way an input fails, it fails alone.
func TestPoison(t *testing.T) {
	for name, knobs := range map[string]backendtest.Knobs{
		"error": {Fail: func(b infer.Batch) error {
			if poisoned(b.Rows...) {
				return errTest
			}
			return nil
		}},
		"error although computed": {After: func(b infer.Batch) error {
			if poisoned(b.Rows...) {
				return errTest
			}
			return nil
		}},
		"panic": {Panic: func(b infer.Batch) bool { return poisoned(b.Rows...) }},
		"NaN":   {NaN: func(row []int32) bool { return poisoned(row) }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(c *infer.Config) { c.Options.Threads = 1; c.Wide = infer.WideNever })
			f := r.install("m")
			gate := make(chan struct{})
			knobs.Hold = func(infer.Batch) chan struct{} { return gate }
			f.Set(knobs)
			var wg sync.WaitGroup
			ask := func(text string, want embedding.Code) {
				wg.Go(func() {
					_, err := r.ask(text)
					if code(err) != want {
						t.Errorf("%q: got %v, want code %q", text, err, want)
					}
					if want != "" && strings.Contains(embedding.AsError(err).Message, "planted") {
						t.Errorf("the message shows the cause: %v", embedding.AsError(err).Message)
					}
				})
			}
			ask("w1", "")
			waitFor(t, func() bool { return r.Loads()["m"].Inputs == 1 })
			for _, text := range []string{"w2 w3", "w4 w5", "w66 w6", "w7 w8"} {
				want := embedding.Code("")
				if strings.Contains(text, "w66") {
					want = embedding.CodeInternal
				}
				ask(text, want)
			}
			waitFor(t, func() bool { return r.Loads()["m"].Inputs == 5 })
			close(gate)
			wg.Wait()
			if m := r.Models()[0]; m.State != embedding.ModelReady {
				t.Errorf("one bad input made the model %s: %s", m.State, m.Reason)
			}
		})
	}
}

// TestBrokenBackendIsNotReady: a backend that fails everything is found by its canary within a second, given up
// and opened again.
func TestBrokenBackendIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		f := r.install("m")
		f.Set(backendtest.Knobs{Fail: func(infer.Batch) error { return errTest }})
		_, err := r.ask("w1")
		wantCode(t, err, embedding.CodeInternal)
		r.mu.Lock()
		r.fail = errors.New("no device")
		r.mu.Unlock()
		time.Sleep(time.Second)
		if m := r.Models()[0]; m.State != embedding.ModelFailed || m.Reason == "" {
			t.Errorf("a second after it broke the model is %s, reason %q", m.State, m.Reason)
		}
		_, err = r.ask("w1")
		wantCode(t, err, embedding.CodeUnavailable)
		time.Sleep(time.Minute) // the back-off grows to 30 s
		r.mu.Lock()
		r.fail = nil
		r.mu.Unlock()
		time.Sleep(time.Minute)
		if m := r.Models()[0]; m.State != embedding.ModelReady {
			t.Errorf("after the device is back the model is %s: %s", m.State, m.Reason)
		}
		if _, err := r.ask("w1"); err != nil {
			t.Error(err)
		}
		r.close()
	})
}

// TestLostBackend: without a hold, what is in flight and waits fails as unavailable, and the model is opened again at
// once.
func TestLostBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *infer.Config) { c.Options.Threads = 1; c.Wide = infer.WideNever; c.Hold = -1 })
		f := r.install("m")
		f.Set(backendtest.Knobs{Hold: func(infer.Batch) chan struct{} { return make(chan struct{}) }})
		errs := make(chan error, 2)
		for _, text := range []string{"w1", "w2 w3 w4"} {
			go func() { _, err := r.ask(text); errs <- err }()
		}
		synctest.Wait()
		f.Lose()
		for range 2 {
			wantCode(t, <-errs, embedding.CodeUnavailable)
		}
		synctest.Wait()
		if f == r.newest() {
			t.Fatal("the model was not opened again")
		}
		if _, err := r.ask("w1"); err != nil {
			t.Error(err)
		}
		r.close()
	})
}

// TestIdleBackendIsProbed: nobody has to ask to find out that an idle backend is broken.
func TestIdleBackendIsProbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		f := r.install("m")
		time.Sleep(time.Minute)
		if n := len(f.Batches()); n < 5 || n > 10 {
			t.Errorf("%d runs in an idle minute, want a canary every 10 s", n)
		}
		f.Set(backendtest.Knobs{NaN: func([]int32) bool { return true }})
		r.mu.Lock()
		r.fail = errTest
		r.mu.Unlock()
		time.Sleep(11 * time.Second)
		if m := r.Models()[0]; m.State != embedding.ModelFailed {
			t.Errorf("the model is %s", m.State)
		}
		r.close()
	})
}

// TestHang: a run that ends when it is aborted costs its batch; one that does not costs the backend.
func TestHang(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, func(c *infer.Config) { c.RunTimeout = 2 * time.Second })
			f := r.install("m")
			never := make(chan struct{})
			f.Set(backendtest.Knobs{Deaf: deaf, Hold: func(b infer.Batch) chan struct{} {
				if poisoned(b.Rows...) {
					return never
				}
				return nil
			}})
			began := time.Now()
			_, err := r.ask("w66")
			wantCode(t, err, embedding.CodeUnavailable, "2s")
			if d := time.Since(began); d > 3500*time.Millisecond {
				t.Errorf("answered after %v", d)
			}
			time.Sleep(3 * time.Second)
			if _, err := r.ask("w1"); err != nil {
				t.Errorf("deaf %v: the next request: %v", deaf, err)
			}
			if replaced := f != r.newest(); replaced != deaf {
				t.Errorf("deaf %v: backend replaced: %v", deaf, replaced)
			}
			close(never)
			r.close()
		})
	}
}

// TestSwapDropsNothing: requests before, during and after a swap are answered, each by one version, and the old
// version closes when its last request has ended and its digest lingered.
func TestSwapDropsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *infer.Config) { c.Linger = 5 * time.Second })
		old := r.install("m")
		old.Set(backendtest.Knobs{PerToken: 100 * time.Millisecond})
		var wg sync.WaitGroup
		digests := make([]string, 40)
		for i := range digests {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 50 * time.Millisecond)
				res, err := r.ask(words(5+i, 100*(i+1)))
				if err != nil {
					t.Errorf("request %d: %v", i, err)
					return
				}
				digests[i] = res.Model.Digest[7:8]
			})
		}
		time.Sleep(time.Second)
		r.installVersion("m", "2", infer.Settings{Aliases: []string{"default"}})
		pinned := embedding.Request{Model: "m@111111111111", Inputs: []embedding.Input{{Text: "w1"}}}
		if _, err := r.Embed(t.Context(), pinned); err != nil {
			t.Errorf("the pinned old version just after the swap: %v", err)
		}
		wg.Wait()
		if all := strings.Join(digests, ""); !strings.HasPrefix(all, "1") || !strings.HasSuffix(all, "2") {
			t.Errorf("answered by versions %s", all)
		}
		time.Sleep(6 * time.Second)
		select {
		case <-old.Done():
		default:
			t.Error("the old version is still open")
		}
		_, err := r.Embed(t.Context(), pinned)
		wantCode(t, err, embedding.CodeModelNotFound)
		r.close()
	})
}

// TestInstallThatFailsLeavesTheOldVersion also covers a warm-up that fails.
func TestInstallThatFailsLeavesTheOldVersion(t *testing.T) {
	r := newRig(t, nil)
	r.install("m")
	for name, breakIt := range map[string]func(){
		"open":    func() { r.fail = errTest },
		"warm-up": func() { r.fail, r.knobs = nil, backendtest.Knobs{Fail: func(infer.Batch) error { return errTest }} },
		"NaN":     func() { r.knobs = backendtest.Knobs{NaN: func([]int32) bool { return true }} },
		"panic":   func() { r.knobs = backendtest.Knobs{Panic: func(infer.Batch) bool { return true }} },
	} {
		r.mu.Lock()
		breakIt()
		r.mu.Unlock()
		err := r.Install(t.Context(), embedding.Model{Name: "m", Digest: "sha256-" + strings.Repeat("9", 64)}, r.dir, infer.Settings{Aliases: []string{"default"}})
		if err == nil {
			t.Errorf("%s: the install succeeded", name)
		}
		res, err := r.ask("w1")
		if err != nil || res.Model.ShortDigest() != strings.Repeat("1", 12) {
			t.Errorf("%s: answered by %v, %v", name, res.Model, err)
		}
	}
}

func TestFailedModelSaysWhy(t *testing.T) {
	r := newRig(t, nil)
	r.fail = errTest
	if err := r.Configure(map[string]infer.Settings{"m": {Aliases: []string{"default"}}}); err != nil {
		t.Fatal(err)
	}
	_, err := r.ask("w1")
	wantCode(t, err, embedding.CodeUnavailable, "loading")
	if err := r.Install(t.Context(), embedding.Model{Name: "m"}, r.dir, infer.Settings{Aliases: []string{"default"}}); !errors.Is(err, errTest) {
		t.Fatal(err)
	}
	if m := r.Models()[0]; m.State != embedding.ModelFailed || m.Reason != "planted" {
		t.Errorf("got %+v", m)
	}
	_, err = r.ask("w1")
	wantCode(t, err, embedding.CodeUnavailable, "could not be loaded")
	if m := embedding.AsError(err).Message; strings.Contains(m, "planted") {
		t.Errorf("the message tells a client the cause: %q", m)
	}
}

// TestShutdown: what waits and what runs is told that the node goes.
func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *infer.Config) { c.Options.Threads = 1; c.Wide = infer.WideNever })
		f := r.install("m")
		f.Set(backendtest.Knobs{Hold: func(infer.Batch) chan struct{} { return make(chan struct{}) }})
		errs := make(chan error, 2)
		for _, text := range []string{"w1", "w2 w3 w4"} {
			go func() { _, err := r.ask(text); errs <- err }()
		}
		synctest.Wait()
		r.close()
		for range 2 {
			wantCode(t, <-errs, embedding.CodeUnavailable)
		}
		_, err := r.ask("w1")
		wantCode(t, err, embedding.CodeUnavailable)
	})
}

// TestCancelStorm: clients that leave at any moment leave nothing behind.
func TestCancelStorm(t *testing.T) {
	r := newRig(t, func(c *infer.Config) { c.Linger = time.Nanosecond })
	f := r.install("m")
	f.Set(backendtest.Knobs{PerToken: time.Microsecond, Fail: func(b infer.Batch) error {
		if poisoned(b.Rows...) {
			return errTest
		}
		return nil
	}})
	var wg sync.WaitGroup
	for c := range 16 {
		wg.Go(func() {
			for i := range 60 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration((c*i)%7)*100*time.Microsecond)
				texts := []embedding.Input{{Text: words(3+(c+i)%40, 100*(i%9)+c)}, {Text: "w1"}, {Text: words(5, 100+i)}}
				_, err := r.Embed(ctx, embedding.Request{Inputs: texts})
				cancel()
				if c := code(err); err != nil && c != embedding.CodeDeadline && c != embedding.CodeOverloaded && c != embedding.CodeInternal {
					t.Errorf("got %v", err)
				}
			}
		})
	}
	for i := range 5 {
		r.installVersion("m", string(rune('2'+i)), infer.Settings{Aliases: []string{"default"}})
	}
	wg.Wait()
	waitFor(t, func() bool { l := r.Loads()["m"]; return l.Inputs == 0 && l.Tokens == 0 })
}
