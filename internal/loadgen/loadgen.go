// Package loadgen sends embedding requests at a set pace and measures the answers. It holds the three parts of
// a load test: texts that are the same for the same seed (Texts), the closed and the open loop (Load) and a
// sender that speaks HTTP and spends little of the machine it shares with the server (HTTP).
//
// Latency is measured the way a user feels it: from the moment a request was due, in the open loop, until its
// whole answer was read. A slow server therefore does not slow down the measurement of its own slowness.
package loadgen

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// Sender sends one request with texts and says how it went. n is the number of the request, from 0, each used
// once. It is called from many goroutines and returns soon after ctx ends.
type Sender interface {
	Send(ctx context.Context, n uint64, texts []string) Outcome
}

// Plan is the shape of a load.
type Plan struct {
	// Clients is how many requests may be in flight at once, 1 or more. In the closed loop each client sends
	// its next request when the last one is answered.
	Clients int
	// Rate, in requests per second, makes the loop an open one: requests are due at random times (a Poisson
	// process) that do not depend on the answers. 0 means a closed loop.
	Rate float64
	// Duration is how long requests are measured, after Warmup. 0 means until Requests are sent.
	Duration time.Duration
	// Requests is how many requests are measured. 0 means as many as Duration lets through.
	Requests int
	// Warmup is how long requests are sent before they are measured.
	Warmup time.Duration
	// TextsPerRequest is how many texts each request carries, 1 or more.
	TextsPerRequest int
	// Seed fixes the arrival times of the open loop.
	Seed uint64
}

// lateAfter is how long after it was due a request of the open loop may start without being counted as late:
// well above what the scheduler of a busy two-core machine costs, below what a user would notice.
const lateAfter = 10 * time.Millisecond

// failurePause is how long a client of the closed loop waits after a failure, so that a dead server is not
// asked as fast as a loop can turn.
const failurePause = 50 * time.Millisecond

func (p Plan) validate() error {
	switch {
	case p.Clients < 1:
		return fmt.Errorf("at least 1 client is needed, not %d", p.Clients)
	case p.Rate < 0 || p.Rate > 1e6:
		return fmt.Errorf("the rate must be between 0 and 1,000,000 requests per second, not %g", p.Rate)
	case p.Duration <= 0 && p.Requests <= 0:
		return errors.New("a duration or a number of requests is needed")
	case p.Duration < 0 || p.Requests < 0 || p.Warmup < 0:
		return errors.New("duration, requests and warm-up cannot be negative")
	case p.TextsPerRequest < 1:
		return fmt.Errorf("at least 1 text per request is needed, not %d", p.TextsPerRequest)
	}
	return nil
}

// Load is one run of a Plan. Make it with New; Do runs it once, Progress may be called meanwhile.
type Load struct {
	plan   Plan
	texts  *Texts
	sender Sender
	rec    *recorder

	mu       sync.Mutex
	arrivals *rand.Rand    // open loop only
	due      time.Duration // last arrival, since the start
	taken    uint64        // requests handed out, warm-up included
	measured int           // requests handed out after the warm-up
	start    time.Time
}

// New makes a Load. urls names the targets of the sender, for the rows of the summary, in the order that
// Outcome.URL counts them.
func New(plan Plan, texts *Texts, sender Sender, urls []string) (*Load, error) {
	if err := plan.validate(); err != nil {
		return nil, err
	}
	return &Load{
		plan:     plan,
		texts:    texts,
		sender:   sender,
		rec:      newRecorder(urls),
		arrivals: rand.New(rand.NewPCG(plan.Seed, 0x6172726976616c73)),
	}, nil
}

// Do sends the load and returns when every request was answered, or soon after ctx ended: requests in flight
// are then given up and not counted, and the Summary says Interrupted.
func (l *Load) Do(ctx context.Context) Summary {
	l.start = time.Now()
	begin := l.start.Add(l.plan.Warmup)
	var end time.Time
	if l.plan.Duration > 0 {
		end = begin.Add(l.plan.Duration)
	}
	l.rec.open(begin, end)

	var clients sync.WaitGroup
	for range l.plan.Clients {
		clients.Go(func() { l.client(ctx) })
	}
	clients.Wait()
	return l.rec.summary(time.Now(), ctx.Err() != nil)
}

// Progress tells how far the run is. It may be called while Do runs.
func (l *Load) Progress() Progress { return l.rec.progress(time.Now()) }

// client is one client of the closed loop, or one of the requests that may be in flight in the open loop.
func (l *Load) client(ctx context.Context) {
	for ctx.Err() == nil {
		t, ok := l.take(time.Now())
		if !ok {
			return
		}
		texts := l.texts.Batch(t.n*uint64(l.plan.TextsPerRequest), l.plan.TextsPerRequest)
		if !sleepUntil(ctx, t.due) {
			return
		}
		started := time.Now()
		late := false
		if t.due.IsZero() {
			t.due = started
		} else {
			late = started.Sub(t.due) > lateAfter
		}
		l.rec.started()
		out := l.sender.Send(ctx, t.n, texts)
		l.rec.finished(sample{
			due: t.due, done: time.Now(), measured: t.measured, late: late, texts: len(texts),
			canceled: ctx.Err() != nil, Outcome: out,
		})
		if out.Code != "" && l.plan.Rate == 0 {
			sleepUntil(ctx, time.Now().Add(failurePause))
		}
	}
}

// ticket is one request to send.
type ticket struct {
	n        uint64
	due      time.Time // zero: now
	measured bool      // false: warm-up
}

// take hands out the next request. It says false when the plan has no more.
func (l *Load) take(now time.Time) (ticket, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var t ticket
	at := now
	if l.plan.Rate > 0 {
		l.due += time.Duration(l.arrivals.ExpFloat64() / l.plan.Rate * float64(time.Second))
		t.due = l.start.Add(l.due)
		at = t.due
	}
	begin := l.start.Add(l.plan.Warmup)
	if l.plan.Duration > 0 && !at.Before(begin.Add(l.plan.Duration)) {
		return t, false
	}
	if t.measured = !at.Before(begin); t.measured {
		if l.plan.Requests > 0 && l.measured >= l.plan.Requests {
			return t, false
		}
		l.measured++
	}
	t.n = l.taken
	l.taken++
	return t, true
}

// sleepUntil waits until t, not at all when t is zero or past. It says false when ctx ended first.
func sleepUntil(ctx context.Context, t time.Time) bool {
	d := time.Until(t)
	if t.IsZero() || d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
