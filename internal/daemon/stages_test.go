package daemon

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// diary notes what stages do, in order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) note(s string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, s)
}

func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.lines, " ")
}

// stage gives one that is ready after start, and takes stop to stop.
func (d *diary) stage(name string, start, stop time.Duration, err error) stage {
	return stage{name, func(ctx context.Context, ready func()) error {
		time.Sleep(start)
		d.note("+" + name)
		ready()
		if err != nil {
			return err
		}
		<-ctx.Done()
		time.Sleep(stop)
		d.note("-" + name)
		return nil
	}}
}

func grace(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

func TestStagesStartInOrderAndStopInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		ctx, cancel := context.WithCancel(t.Context())
		go func() { time.Sleep(10 * time.Second); cancel() }()
		err := runStages(ctx, slog.New(slog.DiscardHandler), grace(time.Minute),
			d.stage("a", 2*time.Second, time.Second, nil), d.stage("b", 0, 3*time.Second, nil), d.stage("c", time.Second, 0, nil))
		if err != nil || d.String() != "+a +b +c -c -b -a" {
			t.Errorf("%s, %v", d.String(), err)
		}
	})
}

func TestStageThatFailsStopsTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		broken := errors.New("broken")
		err := runStages(t.Context(), slog.New(slog.DiscardHandler), grace(time.Minute),
			d.stage("a", 0, 0, nil), d.stage("b", 0, 0, broken), d.stage("c", 0, 0, nil))
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), "b: broken") || !strings.HasSuffix(d.String(), "-a") {
			t.Errorf("%s, %v", d.String(), err)
		}
	})
}

func TestStageThatNeverGetsReadyCanBeStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		never := stage{"never", func(ctx context.Context, _ func()) error { <-ctx.Done(); return nil }}
		err := runStages(ctx, slog.New(slog.DiscardHandler), grace(time.Minute), d.stage("a", 0, 0, nil), never, d.stage("c", 0, 0, nil))
		if err != nil || d.String() != "+a -a" {
			t.Errorf("%s, %v", d.String(), err)
		}
	})
}

func TestStageThatOverrunsIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		err := runStages(ctx, slog.New(slog.DiscardHandler), grace(5*time.Second),
			d.stage("a", 0, 0, nil), d.stage("slow", 0, time.Minute, nil))
		if err == nil || !strings.Contains(err.Error(), "slow: did not stop in time") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took != 6*time.Second {
			t.Errorf("stopped after %v, want 1 s and the grace of 5 s", took)
		}
		time.Sleep(2 * time.Minute) // for the stage that was left behind
	})
}
