package pki

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestRenewalSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newCA(t, "akidb.local")
		r := open(t, ca.issue(t, "a", "eu"), "https://127.0.0.1:1")
		start := time.Now()
		var fail atomic.Bool
		calls := make(chan time.Duration, 100)
		r.renewer.renew = func(context.Context) error {
			defer func() { calls <- time.Since(start) }()
			if fail.Load() {
				return errors.New("no answer")
			}
			reissue(t, ca, r)
			r.reload()
			return nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); r.renewer.run(ctx) }()
		at := []time.Duration{<-calls}
		if lo, hi := LeafLife*44/100, LeafLife*56/100; at[0] < lo || at[0] > hi {
			t.Errorf("renewed after %v, want between %v and %v", at[0], lo, hi)
		}
		fail.Store(true)
		for range 12 {
			at = append(at, <-calls)
		}
		synctest.Wait()
		if from := at[1] - at[0]; from < LeafLife*44/100 {
			t.Errorf("the second renewal came after %v", from)
		}
		for n := 2; n < len(at); n++ {
			pause := at[n] - at[n-1]
			most := min(renewRetry<<(n-2), renewRetryMax)
			if pause < most/2 || pause > most {
				t.Errorf("pause %d is %v, want %v to %v", n-1, pause, most/2, most)
			}
		}
		if got := testutil.ToFloat64(r.metrics.renewFailures); got != 12 {
			t.Errorf("%v failures", got)
		}
		if left := time.Until(r.notAfter()); left < LeafLife/3 || strings.Count(r.logs.String(), "was not renewed") != 12 {
			t.Errorf("%v before the end: %s", left, r.logs)
		}
		if n := strings.Count(r.logs.String(), `err="no answer"`); n != 12 {
			t.Errorf("the reason is told %d times: %s", n, r.logs)
		}
		// Somebody else replaces it: nothing is asked for half a life.
		fail.Store(false)
		reissue(t, ca, r)
		r.reloadOK(t)
		time.Sleep(LeafLife * 4 / 10)
		synctest.Wait()
		if got, want := testutil.ToFloat64(r.metrics.notAfter), float64(r.notAfter().Unix()); got != want {
			t.Errorf("not after %v, want %v", got, want)
		}
		if len(calls) != 0 {
			t.Errorf("asked %d times for one that is new", len(calls))
		}
		// The failures before it are over: the next one is the first again.
		fail.Store(true)
		<-calls
		synctest.Wait()
		if n := strings.Count(r.logs.String(), "failures=1 retry_in="); n != 2 {
			t.Errorf("%d first failures, want 2: %s", n, r.logs)
		}
		cancel()
		<-ended
	})
}

func TestRenewURL(t *testing.T) {
	ca := newCA(t, "akidb.local")
	dir := ca.issue(t, "a", "eu")
	for _, url := range []string{"http://ca:1", "ca:1", "https://ca/x"} {
		if _, err := Open(Config{Dir: dir, RenewURL: url}); err == nil || !strings.Contains(err.Error(), "https://host:port") {
			t.Errorf("%s: %v", url, err)
		}
	}
}
