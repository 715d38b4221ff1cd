package loadgen

import (
	"context"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// sendFunc is a Sender.
type sendFunc func(ctx context.Context, n uint64, texts []string) Outcome

func (f sendFunc) Send(ctx context.Context, n uint64, texts []string) Outcome {
	return f(ctx, n, texts)
}

// after answers after a while, with so many tokens for each text.
func after(d time.Duration) sendFunc {
	return func(ctx context.Context, _ uint64, texts []string) Outcome {
		if !sleepUntil(ctx, time.Now().Add(d)) {
			return Outcome{Code: "canceled"}
		}
		return Outcome{Tokens: int64(10 * len(texts)), Sent: 100, Received: 1000}
	}
}

func do(t *testing.T, ctx context.Context, plan Plan, s Sender) Summary {
	t.Helper()
	load, err := New(plan, newTexts(t, TextsConfig{Lengths: "short"}), s, []string{"http://a"})
	if err != nil {
		t.Fatal(err)
	}
	return load.Do(ctx)
}

func wantNear(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if math.Abs(float64(got-want)) > 0.002*float64(want) { // three digits of the histogram
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

func TestClosedLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		s := do(t, t.Context(), Plan{
			Clients: 4, Duration: 10 * time.Second, Warmup: 2050 * time.Millisecond, TextsPerRequest: 3,
		}, after(100*time.Millisecond))
		// Each client starts at 2.0 s (warm-up, answered in the window), then at 2.1, 2.2, ... 12.0 s.
		if s.Total.Requests != 4*100 || s.WarmupRequests != 4*21 || s.Total.Failed != 0 {
			t.Errorf("%d requests, %d of the warm-up, %d failed, want 400, 84 and 0",
				s.Total.Requests, s.WarmupRequests, s.Total.Failed)
		}
		if s.Total.Texts != 1200 || s.Total.Tokens != 12_000 || s.Total.Sent != 40_000 || s.Total.Received != 400_000 {
			t.Errorf("total %+v", s.Total)
		}
		if s.Window != 10*time.Second || s.Total.WindowTexts != 4*100*3 || s.Total.WindowTokens != 12_000 {
			t.Errorf("window %v with %d texts and %d tokens, want 10 s with 1200 and 12,000",
				s.Window, s.Total.WindowTexts, s.Total.WindowTokens)
		}
		if s.MostInFlight != 4 || s.Late != 0 || s.Interrupted {
			t.Errorf("%d in flight, %d late, interrupted %t", s.MostInFlight, s.Late, s.Interrupted)
		}
		wantNear(t, "p50", s.Total.Quantile(50), 100*time.Millisecond)
		if took := time.Since(start); took != 12100*time.Millisecond {
			t.Errorf("the run took %v, want 12.1 s: warm-up, 10 s and the last answer", took)
		}
	})
}

func TestClosedLoopByRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		numbers := make(map[uint64]bool)
		s := do(t, t.Context(), Plan{Clients: 3, Requests: 100, TextsPerRequest: 1},
			sendFunc(func(ctx context.Context, n uint64, texts []string) Outcome {
				mu.Lock()
				numbers[n] = true
				mu.Unlock()
				return after(10*time.Millisecond)(ctx, n, texts)
			}))
		if s.Total.Requests != 100 || len(numbers) != 100 {
			t.Errorf("%d requests with %d numbers, want 100", s.Total.Requests, len(numbers))
		}
		if s.Window != 340*time.Millisecond { // 33 rounds of 3 and one of 1
			t.Errorf("window %v, want 340 ms", s.Window)
		}
	})
}

func TestClosedLoopPausesAfterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := do(t, t.Context(), Plan{Clients: 2, Duration: time.Second, TextsPerRequest: 1},
			sendFunc(func(context.Context, uint64, []string) Outcome {
				return Outcome{Code: "connection_refused", Message: "refused"}
			}))
		if want := 2 * int64(time.Second/failurePause); s.Total.Requests != want || s.Total.Failed != want {
			t.Errorf("%d requests, %d failed, want %d", s.Total.Requests, s.Total.Failed, want)
		}
		if s.Codes["connection_refused"] != s.Total.Failed || s.Errors["connection_refused"] != "refused" {
			t.Errorf("codes %v, messages %v", s.Codes, s.Errors)
		}
		if s.Total.Latency.TotalCount() != 0 {
			t.Error("failures have a latency")
		}
	})
}

func TestOpenLoopArrivals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var mu sync.Mutex
		var at []time.Duration
		s := do(t, t.Context(), Plan{
			Clients: 64, Rate: 100, Duration: 100 * time.Second, Warmup: time.Second, TextsPerRequest: 1, Seed: 5,
		}, sendFunc(func(ctx context.Context, n uint64, texts []string) Outcome {
			mu.Lock()
			at = append(at, time.Since(start))
			mu.Unlock()
			return after(20*time.Millisecond)(ctx, n, texts)
		}))
		// 10,000 expected, with a standard deviation of 100.
		if s.Total.Requests < 9_600 || s.Total.Requests > 10_400 {
			t.Errorf("%d requests in 100 s at 100/s", s.Total.Requests)
		}
		var sum, squares float64
		for i := 1; i < len(at); i++ {
			gap := (at[i] - at[i-1]).Seconds()
			sum += gap
			squares += gap * gap
		}
		n := float64(len(at) - 1)
		mean := sum / n
		// The gaps of a Poisson process have a standard deviation as large as their mean.
		if deviation := math.Sqrt(squares/n - mean*mean); math.Abs(deviation/mean-1) > 0.05 {
			t.Errorf("gaps of %.4f s on average deviate by %.4f s, want about as much", mean, deviation)
		}
		wantNear(t, "the longest latency", s.Total.Max(), 20*time.Millisecond)
		if s.Late != 0 || s.WarmupRequests < 60 {
			t.Errorf("%d late, %d in the warm-up", s.Late, s.WarmupRequests)
		}
	})
}

// A server that stands still for 5 of 10 seconds keeps everybody waiting who comes meanwhile: a loop that only
// measured from when it could send would show a handful of slow requests.
func TestOpenLoopCountsThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		stall := start.Add(5 * time.Second)
		s := do(t, t.Context(), Plan{Clients: 2, Rate: 100, Duration: 10 * time.Second, TextsPerRequest: 1},
			sendFunc(func(ctx context.Context, n uint64, texts []string) Outcome {
				sleepUntil(ctx, stall)
				return after(time.Millisecond)(ctx, n, texts)
			}))
		waited := s.Total.Latency.TotalCount()
		for _, b := range s.Total.Latency.Distribution() {
			if b.To < time.Second.Microseconds() {
				waited -= b.Count
			}
		}
		// Those who came in the first 4 seconds wait over 1 s: 400 are expected, +- 20.
		if waited < 320 || waited > 480 {
			t.Errorf("%d requests waited over a second, want about 400", waited)
		}
		if max := s.Total.Max(); max < 4900*time.Millisecond || max > 6*time.Second {
			t.Errorf("the longest latency is %v, want about 5 s", max)
		}
		if s.Late < 450 || s.MostInFlight != 2 {
			t.Errorf("%d late, %d in flight, want most of the first half and 2", s.Late, s.MostInFlight)
		}
	})
}

func TestOpenLoopByRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := do(t, t.Context(), Plan{Clients: 8, Rate: 50, Requests: 30, TextsPerRequest: 1}, after(time.Millisecond))
		if s.Total.Requests != 30 {
			t.Errorf("%d requests, want 30", s.Total.Requests)
		}
	})
}

func TestInterrupt(t *testing.T) {
	for _, rate := range []float64{0, 20} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3050*time.Millisecond)
			defer cancel()
			start := time.Now()
			s := do(t, ctx, Plan{Clients: 2, Rate: rate, Duration: time.Hour, TextsPerRequest: 1}, after(100*time.Millisecond))
			if !s.Interrupted || s.Total.Failed != 0 || s.Total.Requests < 30 {
				t.Errorf("rate %g: interrupted %t, %d requests, %d failed", rate, s.Interrupted, s.Total.Requests, s.Total.Failed)
			}
			if took := time.Since(start); took != 3050*time.Millisecond {
				t.Errorf("rate %g: it ended after %v, want at once", rate, took)
			}
			if s.Window != 3050*time.Millisecond {
				t.Errorf("rate %g: window %v", rate, s.Window)
			}
		})
	}
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		load, err := New(Plan{Clients: 2, Duration: 10 * time.Second, Warmup: time.Second, TextsPerRequest: 5},
			newTexts(t, TextsConfig{}), after(100*time.Millisecond), []string{"http://a"})
		if err != nil {
			t.Fatal(err)
		}
		if p := load.Progress(); p.Requests != 0 || p.Elapsed != 0 {
			t.Errorf("before the start: %+v", p)
		}
		var run sync.WaitGroup
		run.Go(func() { load.Do(t.Context()) })
		time.Sleep(550 * time.Millisecond)
		if p := load.Progress(); p.Elapsed != -450*time.Millisecond || p.InFlight != 2 || p.Requests != 0 || p.P50 != 0 {
			t.Errorf("in the warm-up: %+v", p)
		}
		time.Sleep(5500 * time.Millisecond)
		p := load.Progress()
		// The answers at 1.0 s belong to the warm-up, those at 1.1 to 6.0 s are counted: 50 of each client.
		if p.Requests != 100 || math.Abs(p.TextRate-500/5.05) > 1 {
			t.Errorf("half way: %+v, want 100 requests and 99 texts/s", p)
		}
		wantNear(t, "p99 so far", p.P99, 100*time.Millisecond)
		run.Wait()
	})
}

func TestGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent atomic.Int64
		load, err := New(Plan{Clients: 1, Requests: 400, TextsPerRequest: 1}, newTexts(t, TextsConfig{}),
			sendFunc(func(_ context.Context, n uint64, _ []string) Outcome {
				sent.Add(1)
				switch n % 4 {
				case 0:
					return Outcome{URL: 0, Region: "us", Route: "local", Tokens: 5}
				case 1:
					return Outcome{URL: 1, Region: "place " + strconv.FormatUint(n, 10), Retried: []int{0}}
				case 2:
					return Outcome{URL: 1, Code: "timeout", Message: "first"}
				}
				return Outcome{URL: 0}
			}), []string{"a", "b"})
		if err != nil {
			t.Fatal(err)
		}
		s := load.Do(t.Context())
		a, b := s.URLs[0], s.URLs[1]
		if a.Requests != 200 || a.Failed != 0 || a.Retried != 100 || b.Requests != 200 || b.Failed != 100 || b.Retried != 0 {
			t.Errorf("by target: %+v and %+v", a, b)
		}
		if s.Total.Retried != 100 || s.Total.Tokens != 500 {
			t.Errorf("total: %+v", s.Total)
		}
		if len(s.Places) != maxPlaces+1 || s.Places[0].Name != otherPlace || s.Places[0].Requests != 100-(maxPlaces-1) {
			t.Errorf("%d places, the first is %q with %d requests", len(s.Places), s.Places[0].Name, s.Places[0].Requests)
		}
	})
}

func TestVeryLongLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := do(t, t.Context(), Plan{Clients: 1, Requests: 1, TextsPerRequest: 1}, after(3*time.Hour))
		if s.LatencyCapped != 1 || s.Total.Requests != 1 {
			t.Errorf("%d capped of %d", s.LatencyCapped, s.Total.Requests)
		}
		wantNear(t, "the longest latency", s.Total.Max(), time.Hour)
	})
}

func TestPlanErrors(t *testing.T) {
	good := Plan{Clients: 1, Requests: 1, TextsPerRequest: 1}
	for _, tc := range []struct {
		change func(*Plan)
		want   string
	}{
		{func(p *Plan) { p.Clients = 0 }, "at least 1 client is needed, not 0"},
		{func(p *Plan) { p.Rate = -1 }, "not -1"},
		{func(p *Plan) { p.Requests = 0 }, "a duration or a number of requests"},
		{func(p *Plan) { p.Duration, p.Requests = time.Second, -1 }, "cannot be negative"},
		{func(p *Plan) { p.Warmup = -1 }, "cannot be negative"},
		{func(p *Plan) { p.TextsPerRequest = 0 }, "at least 1 text per request"},
	} {
		p := good
		tc.change(&p)
		if _, err := New(p, newTexts(t, TextsConfig{}), after(0), nil); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want an error with %q", p, err, tc.want)
		}
	}
}
