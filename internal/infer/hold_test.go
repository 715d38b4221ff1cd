package infer_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/infer/backendtest"
)

// askAll asks each text at once and gives the errors by text once all are answered.
func (r *rig) askAll(texts ...string) (wait func() map[string]error) {
	type answer struct {
		text string
		err  error
	}
	answers := make(chan answer, len(texts))
	for _, text := range texts {
		go func() {
			_, err := r.ask(text)
			answers <- answer{text, err}
		}()
	}
	return func() map[string]error {
		errs := map[string]error{}
		for range texts {
			a := <-answers
			errs[a.text] = a.err
		}
		return errs
	}
}

// TestHold: what was in flight, what waited and what comes while the model is opened again is answered by the new
// backend, although the first try to open it fails.
func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *infer.Config) { c.Options.Threads = 1; c.Wide = infer.WideNever })
		f := r.install("m")
		f.Set(backendtest.Knobs{Hold: func(infer.Batch) chan struct{} { return make(chan struct{}) }})
		before := r.askAll("w1", "w2 w3", "w4 w5 w6")
		synctest.Wait()
		r.failOpens(errTest)
		f.Lose()
		synctest.Wait()
		if m := r.Models()[0]; m.State != embedding.ModelFailed {
			t.Errorf("meanwhile the model is %s", m.State)
		}
		during := r.askAll("w7", "w8")
		synctest.Wait()
		r.failOpens(nil)
		began := time.Now()
		for _, wait := range []func() map[string]error{before, during} {
			for text, err := range wait() {
				if err != nil {
					t.Errorf("%s: %v", text, err)
				}
			}
		}
		if d := time.Since(began); d > 250*time.Millisecond {
			t.Errorf("answered %v later", d)
		}
		if l := r.Loads()["m"]; l.Inputs != 0 || l.Tokens != 0 {
			t.Errorf("left behind: %+v", l)
		}
		r.close()
	})
}

// TestHoldEnds: a model that cannot be opened is not waited for.
func TestHoldEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		f := r.install("m")
		r.failOpens(errTest)
		f.Lose()
		synctest.Wait()
		began := time.Now()
		_, err := r.ask("w1")
		wantCode(t, err, embedding.CodeUnavailable)
		if d := time.Since(began); d < 200*time.Millisecond || d > 1750*time.Millisecond {
			t.Errorf("refused after %v", d)
		}
		began = time.Now()
		_, err = r.ask("w1")
		wantCode(t, err, embedding.CodeUnavailable)
		if d := time.Since(began); d > 0 {
			t.Errorf("the next one was refused after %v only", d)
		}
		r.close()
	})
}

// TestHoldIsBounded: a model that takes long to open is waited for no longer than Hold.
func TestHoldIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := time.Duration(0)
		var r *rig
		r = newRig(t, func(c *infer.Config) {
			c.Open = func(ctx context.Context, a infer.Artifact, o infer.Options) (infer.Backend, error) {
				time.Sleep(slow)
				return r.open(ctx, a, o)
			}
		})
		f := r.install("m")
		slow = time.Minute
		f.Lose()
		synctest.Wait()
		began := time.Now()
		_, err := r.ask("w1")
		wantCode(t, err, embedding.CodeUnavailable)
		if d := time.Since(began); d < 1500*time.Millisecond || d > 1750*time.Millisecond {
			t.Errorf("refused after %v, hold is 1.5 s", d)
		}
		time.Sleep(time.Minute)
		if _, err := r.ask("w1"); err != nil {
			t.Error(err)
		}
		r.close()
	})
}

// TestDeadlyInput: an input that kills the backend is refused after three deaths, those beside it are answered, and
// the model serves on.
func TestDeadlyInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.knobs = backendtest.Knobs{PerToken: time.Millisecond, Fail: func(b infer.Batch) error {
			if poisoned(b.Rows...) {
				r.newest().Lose()
				return errTest
			}
			return nil
		}}
		r.install("m")
		var texts []string
		for i := range 20 {
			texts = append(texts, fmt.Sprintf("w%d w%d", i, i+1))
		}
		texts = append(texts, "w66 w1")
		for text, err := range r.askAll(texts...)() {
			if text != "w66 w1" && err != nil {
				t.Errorf("%s: %v", text, err)
			}
			if text == "w66 w1" {
				wantCode(t, err, embedding.CodeUnprocessable, "died 3 times", "model m")
			}
		}
		time.Sleep(time.Second)
		opens := r.opens()
		if opens != 4 {
			t.Errorf("%d opens, want 1 and 3 for 3 deaths", opens)
		}
		_, err := r.ask("w5", "w66 w1")
		wantCode(t, err, embedding.CodeUnprocessable)
		if _, err := r.ask("w66x", "w5"); err != nil {
			t.Error(err)
		}
		if m := r.Models()[0]; m.State != embedding.ModelReady || r.opens() != opens {
			t.Errorf("the model is %s after %d opens", m.State, r.opens())
		}
		time.Sleep(time.Hour)
		_, err = r.ask("w66 w1")
		wantCode(t, err, embedding.CodeUnprocessable)
		if r.opens() == opens {
			t.Error("the input was not tried again an hour later")
		}
		r.close()
	})
}

// TestKillsFromOutside: a backend that dies while it works is opened again at once, however often, and no request is
// lost; somebody is told.
func TestKillsFromOutside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.knobs = backendtest.Knobs{PerToken: time.Millisecond}
		r.install("m")
		stop := make(chan struct{})
		failed := make(chan error, 8)
		for c := range 8 {
			go func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						failed <- nil
						return
					default:
					}
					if _, err := r.ask(words(3+(c+i)%20, 100*(1+i%9)+c)); err != nil {
						failed <- err
						return
					}
				}
			}()
		}
		for range 40 {
			time.Sleep(2 * time.Second)
			r.newest().Lose()
		}
		if why := r.Unsteady(); !strings.Contains(why, "model m") {
			t.Errorf("nobody is told: %q", why)
		}
		close(stop)
		for range 8 {
			if err := <-failed; err != nil {
				t.Error(err)
			}
		}
		if n := r.opens(); n != 41 {
			t.Errorf("%d opens, want 41", n)
		}
		time.Sleep(2 * time.Minute)
		if why := r.Unsteady(); why != "" {
			t.Errorf("two minutes later: %s", why)
		}
		r.close()
	})
}

// TestLostAfterItWasReplaced: requests of a retired version that dies are answered by the one that took its place.
func TestLostAfterItWasReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		old := r.install("m")
		old.Set(backendtest.Knobs{Hold: func(b infer.Batch) chan struct{} { return make(chan struct{}) }})
		wait := r.askAll("w1", "w2 w3", "w4 w5 w6 w7 w8")
		synctest.Wait()
		r.installVersion("m", "2", infer.Settings{Aliases: []string{"default"}})
		old.Lose()
		for text, err := range wait() {
			if err != nil {
				t.Errorf("%s: %v", text, err)
			}
		}
		r.close()
	})
}

// TestOneVersionLingers: however fast versions follow each other, two are open.
func TestOneVersionLingers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		open := func() (n int) {
			for _, f := range r.fakes {
				select {
				case <-f.Done():
				default:
					n++
				}
			}
			return n
		}
		for i := range 8 {
			r.installVersion("m", string(rune('1'+i)), infer.Settings{})
			synctest.Wait()
		}
		if n := open(); n != 2 {
			t.Errorf("%d versions are open, want 2", n)
		}
		for range 3 { // the same digest with other settings
			r.installVersion("m", "8", infer.Settings{})
			synctest.Wait()
		}
		if n := open(); n != 1 {
			t.Errorf("%d versions are open, want 1", n)
		}
		r.close()
	})
}

// TestUnload: the old version has ended before the new one is opened; requests meanwhile are answered, by the version
// before when the new one fails.
func TestUnload(t *testing.T) {
	for _, broken := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var r *rig
			opened := 0
			r = newRig(t, func(c *infer.Config) {
				c.Unload = true
				c.Open = func(ctx context.Context, a infer.Artifact, o infer.Options) (infer.Backend, error) {
					for i, f := range r.fakes {
						select {
						case <-f.Done():
						default:
							t.Errorf("open %d while %d is open", opened, i)
						}
					}
					opened++
					time.Sleep(500 * time.Millisecond)
					if broken && opened == 2 {
						return nil, errTest
					}
					return r.open(ctx, a, o)
				}
			})
			f := r.install("m")
			f.Set(backendtest.Knobs{PerToken: 20 * time.Millisecond})
			before := r.askAll("w1", "w2 w3")
			synctest.Wait()
			asked := make(chan func() map[string]error, 1)
			time.AfterFunc(250*time.Millisecond, func() { asked <- r.askAll("w4", "w5 w6") })
			err := r.Install(t.Context(), embedding.Model{Name: "m", Digest: "sha256-" + strings.Repeat("2", 64)}, r.dir, infer.Settings{Aliases: []string{"default"}})
			if (err != nil) != broken {
				t.Fatalf("install: %v", err)
			}
			for _, wait := range []func() map[string]error{before, <-asked} {
				for text, err := range wait() {
					if err != nil {
						t.Errorf("broken %v: %s: %v", broken, text, err)
					}
				}
			}
			want := "2"
			if broken {
				want = "1"
			}
			res, err := r.ask("w9")
			if err != nil || res.Model.ShortDigest() != strings.Repeat(want, 12) {
				t.Errorf("broken %v: answered by %v, %v", broken, res.Model, err)
			}
			r.close()
		})
	}
}
