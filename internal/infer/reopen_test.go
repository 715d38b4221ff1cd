package infer_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/infer/backendtest"
)

func (r *rig) opens() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.fakes)
}

func (r *rig) failOpens(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = err
}

// TestReopenYields: a lost model that is opened again does not come back over its removal or a newer version.
func TestReopenYields(t *testing.T) {
	for name, change := range map[string]func(*rig){
		"removed": func(r *rig) { r.Remove("m") },
		"replaced": func(r *rig) {
			r.failOpens(nil)
			r.installVersion("m", "2", infer.Settings{Aliases: []string{"other"}})
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, nil)
			f := r.install("m")
			r.failOpens(errTest)
			f.Lose()
			time.Sleep(5 * time.Second)
			change(r)
			r.failOpens(nil)
			time.Sleep(2 * time.Minute)
			models := r.Models()
			switch name {
			case "removed":
				if len(models) != 0 {
					t.Errorf("the removed model is back: %+v", models)
				}
			case "replaced":
				if len(models) != 1 || models[0].Model.ShortDigest() != "222222222222" || models[0].Aliases[0] != "other" {
					t.Errorf("version 2 was replaced: %+v", models)
				}
			}
			r.close()
		})
	}
}

// TestCrashLoop: a backend that is lost again and again is opened with growing pauses.
func TestCrashLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.install("m")
		for range 4 * 60 * 60 { // an hour
			r.newest().Lose()
			time.Sleep(250 * time.Millisecond)
		}
		if n := r.opens(); n < 60 || n > 160 {
			t.Errorf("%d opens in an hour, want one every 30 s or so", n)
		}
		r.close()
	})
}

// TestAllLanesHang: the backend is lost once, and its digest can still be pinned afterwards.
func TestAllLanesHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *infer.Config) { c.RunTimeout = 2 * time.Second; c.Wide = infer.WideNever })
		f := r.install("m")
		never := make(chan struct{})
		f.Set(backendtest.Knobs{Deaf: true, Hold: func(infer.Batch) chan struct{} { return never }})
		for _, text := range []string{"w1", "w2 w3 w4"} {
			go func() { _, _ = r.ask(text) }()
		}
		time.Sleep(10 * time.Second)
		if n := r.opens(); n != 2 {
			t.Errorf("%d opens, want 2", n)
		}
		req := embedding.Request{Model: "m@111111111111", Inputs: []embedding.Input{{Text: "w5"}}}
		if _, err := r.Embed(t.Context(), req); err != nil {
			t.Errorf("pinned: %v", err)
		}
		close(never)
		r.close()
	})
}

// TestCanaryHangs: a canary that never comes back is a failed one.
func TestCanaryHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		f := r.install("m")
		never := make(chan struct{})
		f.Set(backendtest.Knobs{Deaf: true, Hold: func(infer.Batch) chan struct{} { return never }})
		r.failOpens(errTest)
		time.Sleep(15 * time.Second)
		if m := r.Models()[0]; m.State != embedding.ModelFailed {
			t.Errorf("the model is %s", m.State)
		}
		close(never)
		r.close()
	})
}

// TestNaNForEverything makes the model unready although no run fails.
func TestNaNForEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		f := r.install("m")
		f.Set(backendtest.Knobs{NaN: func([]int32) bool { return true }})
		r.failOpens(errTest)
		_, err := r.ask("w1")
		wantCode(t, err, embedding.CodeInternal)
		time.Sleep(time.Second)
		if m := r.Models()[0]; m.State != embedding.ModelFailed {
			t.Errorf("a second later the model is %s", m.State)
		}
		r.close()
	})
}

// TestRunsHealToo: a model whose canary failed once is ready again as soon as it answers a request.
func TestRunsHealToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		f := r.install("m")
		f.Set(backendtest.Knobs{Fail: func(infer.Batch) error { return errTest }})
		_, _ = r.ask("w1")
		synctest.Wait() // the canary failed too
		if m := r.Models()[0]; m.State != embedding.ModelFailed {
			t.Fatalf("the model is %s", m.State)
		}
		f.Set(backendtest.Knobs{})
		if _, err := r.ask("w1"); err != nil {
			t.Fatal(err)
		}
		if m := r.Models()[0]; m.State != embedding.ModelReady {
			t.Errorf("the model answers and is %s", m.State)
		}
		r.close()
	})
}

// TestConfigure: an alias moves from one model to another in one step.
func TestConfigure(t *testing.T) {
	r := newRig(t, nil)
	r.install("a")
	r.installVersion("b", "2", infer.Settings{})
	if err := r.Configure(map[string]infer.Settings{"a": {}, "b": {Aliases: []string{"default"}}}); err != nil {
		t.Fatal(err)
	}
	if res, err := r.ask("w1"); err != nil || res.Model.Name != "b" {
		t.Errorf("default leads to %v, %v", res.Model, err)
	}
	err := r.Configure(map[string]infer.Settings{"a": {Aliases: []string{"x"}}, "b": {Aliases: []string{"x"}}})
	if err == nil {
		t.Error("one alias for two models was taken")
	}
	if err := r.Configure(map[string]infer.Settings{"a": {Aliases: []string{"b"}}, "b": {}}); err == nil {
		t.Error("an alias with the name of another model was taken")
	}
	if res, err := r.ask("w1"); err != nil || res.Model.Name != "b" {
		t.Errorf("after the refusals default leads to %v, %v", res.Model, err)
	}
}
