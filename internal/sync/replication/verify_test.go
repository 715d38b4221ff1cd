package replication

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/sync/bucket"
	"github.com/akidb/akidbd/internal/sync/bucket/buckettest"
)

// replicating is a bucket whose writes and deletions reach another one after a while, like S3's.
type replicating struct {
	*buckettest.Fake
	other *buckettest.Fake
	delay time.Duration // negative: never
	wg    sync.WaitGroup

	mu   sync.Mutex
	last chan struct{} // closed when what came before is done: in the order of the versions
}

func (r *replicating) after(f func()) {
	if r.delay < 0 {
		return
	}
	r.mu.Lock()
	before, done := r.last, make(chan struct{})
	r.last = done
	r.mu.Unlock()
	r.wg.Go(func() {
		defer close(done)
		time.Sleep(r.delay)
		if before != nil {
			<-before
		}
		f()
	})
}

func (r *replicating) Put(ctx context.Context, key string, body io.ReaderAt, size int64, progress func(int64)) error {
	data, err := io.ReadAll(io.NewSectionReader(body, 0, size))
	if err != nil {
		return err
	}
	err = r.Fake.Put(ctx, key, body, size, progress)
	if !errors.Is(err, bucket.ErrDenied) {
		r.after(func() { r.other.Set(key, data) })
	}
	return err
}

func (r *replicating) Delete(ctx context.Context, key string) error {
	r.after(func() { _ = r.other.Delete(context.WithoutCancel(ctx), key) })
	return r.Fake.Delete(ctx, key)
}

// pair makes two buckets that replicate to each other after the delays.
func pair(ab, ba time.Duration) (a, b *replicating) {
	a, b = &replicating{Fake: &buckettest.Fake{}, delay: ab}, &replicating{Fake: &buckettest.Fake{}, delay: ba}
	a.other, b.other = b.Fake, a.Fake
	return a, b
}

func verify(t *testing.T, a, b *replicating, o VerifyOptions) Report {
	t.Helper()
	r, err := Verify(t.Context(), End{"us", a}, End{"eu", b}, o)
	if err != nil {
		t.Fatal(err)
	}
	a.wg.Wait()
	b.wg.Wait()
	if len(a.Keys())+len(b.Keys()) > 0 {
		t.Errorf("left: %v, %v", a.Keys(), b.Keys())
	}
	for _, p := range r.Probes {
		if !p.Removed {
			t.Errorf("not removed: %+v", p)
		}
	}
	return r
}

func TestVerify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(3500*time.Millisecond, 10*time.Second)
		r := verify(t, a, b, VerifyOptions{})
		if !r.OK() || r.Probes[0].Seconds != 4 || r.Probes[1].Seconds < 10 || r.Probes[1].Seconds > 11 {
			t.Errorf("%+v", r)
		}
		if p := r.Probes[0]; p.From != "us" || p.To != "eu" || !strings.HasPrefix(p.Key, "models/.akidb-probe/") || p.Key == r.Probes[1].Key || p.Error != "" {
			t.Errorf("%+v", p)
		}
	})
}

func TestVerifyNever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(time.Second, -1)
		start := time.Now()
		r := verify(t, a, b, VerifyOptions{Timeout: time.Minute})
		if r.OK() || !r.Probes[0].Arrived || r.Probes[1].Arrived || !strings.Contains(r.Probes[1].Error, "not there after 1m0s") {
			t.Errorf("%+v", r)
		}
		if took := time.Since(start); took > 61*time.Second+removeTime {
			t.Errorf("took %s", took)
		}
	})
}

// A replica that comes after nobody waits for it any more goes away like the object did.
func TestVerifyLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(90*time.Second, 90*time.Second)
		if r := verify(t, a, b, VerifyOptions{Timeout: time.Minute}); r.OK() {
			t.Errorf("%+v", r)
		}
	})
}

// A replica that comes between the removal here and the look there is removed too.
func TestVerifyArrivesWhileRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(-1, -1)
		var once sync.Once
		b.SetFault(func(op buckettest.Op, key string) *buckettest.Fault {
			if op == buckettest.Head && !strings.Contains(key, "none") {
				once.Do(func() { b.Set(key, []byte("late")) })
			}
			return nil
		})
		if r := verify(t, a, b, VerifyOptions{Timeout: time.Minute}); r.OK() {
			t.Errorf("%+v", r)
		}
	})
}

func TestVerifyFaults(t *testing.T) {
	down := errors.New("503 slow down")
	fault := func(op buckettest.Op, f buckettest.Fault, times int) func(buckettest.Op, string) *buckettest.Fault {
		var mu sync.Mutex
		return func(o buckettest.Op, _ string) *buckettest.Fault {
			mu.Lock()
			defer mu.Unlock()
			if o != op || times == 0 {
				return nil
			}
			times--
			return &f
		}
	}
	tests := []struct {
		name    string
		fault   func(buckettest.Op, string) *buckettest.Fault
		arrives bool // from a to b, where the fault is
		text    string
	}{
		{"a few looks fail", fault(buckettest.Get, buckettest.Fault{Err: down}, 3), true, ""},
		{"all looks fail", fault(buckettest.Get, buckettest.Fault{Err: down}, -1), false, "503 slow down"},
		{"a look hangs", fault(buckettest.Get, buckettest.Fault{Hang: true}, -1), false, "not there after 1m0s"},
		{"denied", fault(buckettest.Get, buckettest.Fault{Err: bucket.ErrDenied}, -1), false, "access denied"},
		{"other content", fault(buckettest.Get, buckettest.Fault{Flip: true}, -1), false, "other content"},
		{"removal fails at first", fault(buckettest.Delete, buckettest.Fault{Err: down}, 5), true, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := pair(time.Second, time.Second)
				b.SetFault(test.fault)
				r := verify(t, a, b, VerifyOptions{Timeout: time.Minute})
				if p := r.Probes[0]; p.Arrived != test.arrives || !strings.Contains(p.Error, test.text) || (test.text == "") != (p.Error == "") {
					t.Errorf("%+v", p)
				}
				if !r.Probes[1].Arrived {
					t.Errorf("the other way: %+v", r.Probes[1])
				}
			})
		})
	}
}

// A write that failed and happened leaves nothing.
func TestVerifyWriteFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(time.Second, time.Second)
		down := errors.New("503 slow down")
		a.SetFault(func(op buckettest.Op, _ string) *buckettest.Fault {
			if op == buckettest.Put {
				return &buckettest.Fault{Err: down, Happened: true}
			}
			return nil
		})
		if r := verify(t, a, b, VerifyOptions{}); r.OK() || !strings.Contains(r.Probes[0].Error, "503") || !r.Probes[1].Arrived {
			t.Errorf("%+v", r)
		}
	})
}

func TestVerifyCannotRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(time.Second, time.Second)
		b.SetFault(func(op buckettest.Op, _ string) *buckettest.Fault {
			if op == buckettest.Delete {
				return &buckettest.Fault{Err: bucket.ErrDenied}
			}
			return nil
		})
		r, err := Verify(t.Context(), End{"us", a}, End{"eu", b}, VerifyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		a.wg.Wait()
		b.wg.Wait()
		if p := r.Probes[0]; !r.OK() || p.Removed || !strings.Contains(p.Error, "may be left in eu, remove it by hand") {
			t.Errorf("%+v", r)
		}
	})
}

func TestVerifyInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(-1, -1)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(5*time.Second, cancel)
		start := time.Now()
		r, err := Verify(ctx, End{"us", a}, End{"eu", b}, VerifyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("took %s", took)
		}
		if r.OK() || !strings.Contains(r.Probes[0].Error, "canceled") || !r.Probes[0].Removed || len(a.Keys())+len(b.Keys()) > 0 {
			t.Errorf("%+v, left: %v, %v", r, a.Keys(), b.Keys())
		}
	})
}

func TestVerifySweeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := pair(time.Second, time.Second)
		a.Set(ProbePrefix+"OLD", nil)
		b.Set("models/m/versions/x.json", nil)
		time.Sleep(abandoned)
		b.Set(ProbePrefix+"OFANOTHER", nil)
		r, err := Verify(t.Context(), End{"us", a}, End{"eu", b}, VerifyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		a.wg.Wait()
		b.wg.Wait()
		if !r.OK() || r.Leftovers != 1 || len(a.Keys()) != 0 || len(b.Keys()) != 2 {
			t.Errorf("%+v, left: %v, %v", r, a.Keys(), b.Keys())
		}
	})
}

// Nothing is written where a side cannot be listed, or where writing is denied.
func TestVerifyDenied(t *testing.T) {
	for _, denied := range []buckettest.Op{buckettest.List, buckettest.Put} {
		t.Run(string(denied), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := pair(time.Second, time.Second)
				deny := func(op buckettest.Op, _ string) *buckettest.Fault {
					if op == denied {
						return &buckettest.Fault{Err: bucket.ErrDenied}
					}
					return nil
				}
				a.SetFault(deny)
				b.SetFault(deny)
				r, err := Verify(t.Context(), End{"us", a}, End{"eu", b}, VerifyOptions{})
				if denied == buckettest.List && (!errors.Is(err, bucket.ErrDenied) || a.Calls(buckettest.Put)+b.Calls(buckettest.Put) > 0) {
					t.Errorf("%+v, %v", r, err)
				}
				if denied == buckettest.Put && (err != nil || r.OK() || !strings.Contains(r.Probes[1].Error, "access denied") || a.Calls(buckettest.Delete) > 0) {
					t.Errorf("%+v, %v", r, err)
				}
				a.wg.Wait()
				b.wg.Wait()
			})
		})
	}
}
