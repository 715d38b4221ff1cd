package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/infer/backendtest"
)

func TestConformance(t *testing.T) {
	r := newRig(t, "")
	backendtest.Conformance(t, func(t *testing.T) backendtest.Subject {
		b, err := r.Open(t.Context(), artifact("m"), infer.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return backendtest.Subject{Backend: b, MaxTokens: testTokens, Vocab: testVocab}
	})
}

// TestSparedWorkerTakesTheFirstModel and tells the version of the library.
func TestSparedWorkerTakesTheFirstModel(t *testing.T) {
	r := newRig(t, "")
	version, err := r.Start(t.Context())
	if err != nil || version != "1.99.0" {
		t.Fatalf("got %q, %v", version, err)
	}
	pid := r.spare.pid()
	a, b := r.mustOpen(t), r.mustOpen(t)
	if a.Process().PID != pid || b.Process().PID == pid {
		t.Errorf("started %d, the models have %d and %d", pid, a.Process().PID, b.Process().PID)
	}
}

// TestStartSaysWhatIsWrong with the library, and when it kills the process.
func TestStartSaysWhatIsWrong(t *testing.T) {
	for library, want := range map[string]string{
		"/old.so": "library /old.so: version 1.16.3 found, 1.22 or newer is needed",
		"dies":    "panic: planted in the library",
	} {
		r := newRig(t, library)
		if _, err := r.Start(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", library, err)
		}
	}
}

// TestOpenFails cleanly, however it fails.
func TestOpenFails(t *testing.T) {
	r := newRig(t, "")
	for model, want := range map[string]string{"broken": "planted refusal", "dies": "panic: planted in the opening"} {
		if _, err := r.Open(t.Context(), artifact(model), infer.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", model, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := r.Open(ctx, artifact("slow"), infer.Options{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("slow: got %v", err)
	}
	if len(r.all) != 0 {
		t.Errorf("%d workers are left", len(r.all))
	}
}

// TestDeath: whatever kills a worker, its runs fail with the cause, Done is closed and the reason is counted.
func TestDeath(t *testing.T) {
	for name, c := range map[string]struct {
		id     int32
		reason string
		want   string
	}{
		"segv":     {idSegv, reasonCrash, "SIGSEGV"},
		"panic":    {idPanicElsewhere, reasonCrash, "panic: planted elsewhere"},
		"exit":     {idExit, reasonCrash, "exit status 7"},
		"kill":     {idKill, reasonKilled, "signal: killed"},
		"stop":     {idStop, reasonHang, "was stopped by a signal"},
		"mute":     {idMute, reasonHang, "did not beat"},
		"hang up":  {idHangUp, reasonHang, "did not beat"},
		"nonsense": {idNoise, reasonProtocol, "broke the protocol"},
		"lost":     {idLose, reasonCrash, "the backend was lost"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "")
			b := r.mustOpen(t)
			other := make(chan error, 1)
			go func() {
				_, err := b.Run(context.Background(), row(idSleep))
				other <- err
			}()
			for waiting := 0; waiting == 0; time.Sleep(time.Millisecond) {
				b.process.mu.Lock()
				waiting = len(b.process.calls)
				b.process.mu.Unlock()
			}
			began := time.Now()
			_, err := b.Run(context.Background(), row(c.id))
			if c.id == idNoise && err == nil {
				<-b.Done()
				err = b.Err()
			}
			took := time.Since(began)
			if c.id != idLose && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v", err)
			}
			if c.id == idLose {
				<-b.Done()
			}
			select {
			case <-b.Done():
			default:
				t.Error("a run failed before Done was closed")
			}
			if err := <-other; err == nil {
				t.Error("the other run did not fail")
			}
			if b.Err() == nil || !strings.Contains(r.log.String()+b.Err().Error(), c.want) {
				t.Errorf("cause: %v", b.Err())
			}
			if took > 3*time.Second {
				t.Errorf("noticed after %v", took)
			}
			if n := r.counted(t, c.reason); n != 1 {
				t.Errorf("restarts for %s: %v", c.reason, n)
			}
			if _, err := b.Run(context.Background(), row(1)); err == nil {
				t.Error("a run after the death gave no error")
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func (r *rig) counted(t *testing.T, reason string) float64 {
	t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "akidb_engine_worker_restarts_total" && m.GetLabel()[0].GetValue() == reason {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// TestFailuresOfARun hit nothing else.
func TestFailuresOfARun(t *testing.T) {
	b := newRig(t, "").mustOpen(t)
	for id, want := range map[int32]string{idFail: "planted failure", idPanic: "panic in the backend: planted in the run"} {
		if _, err := b.Run(t.Context(), row(id)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v", err)
		}
	}
	if _, err := b.Run(t.Context(), row(1, 2)); err != nil {
		t.Error(err)
	}
}

// TestAbort: a run ends with its context and its cause; one that is deaf costs the worker.
func TestAbort(t *testing.T) {
	b := newRig(t, "").mustOpen(t)
	cause := errors.New("the reason")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(cause) })
	if _, err := b.Run(ctx, row(idSleep)); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
	if _, err := b.Run(t.Context(), row(3)); err != nil {
		t.Error(err)
	}
	short, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	began := time.Now()
	if _, err := b.Run(short, row(idDeaf)); err == nil {
		t.Error("a deaf run gave no error")
	}
	if d := time.Since(began); d > abortGrace+3*time.Second {
		t.Errorf("given up after %v", d)
	}
	<-b.Done()
}

// TestKill ends what runs.
func TestKill(t *testing.T) {
	b := newRig(t, "").mustOpen(t)
	time.AfterFunc(50*time.Millisecond, func() { b.Kill("planted") })
	if _, err := b.Run(t.Context(), row(idDeaf)); err == nil || !strings.Contains(err.Error(), "planted") {
		t.Errorf("got %v", err)
	}
}

// TestBeatsWhileItComputes: a long run is no hang.
func TestBeatsWhileItComputes(t *testing.T) {
	b := newRig(t, "").mustOpen(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*missedLooks*lookEvery)
	defer cancel()
	if _, err := b.Run(ctx, row(idSleep)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if b.Process().RSS == 0 {
		t.Error("no resident memory was told")
	}
}

// TestLog: what a worker says is logged, with its level when it has one, and a flood is cut.
func TestLog(t *testing.T) {
	r := newRig(t, "")
	b := r.mustOpen(t)
	if _, err := b.Run(t.Context(), row(idChat)); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	log := r.log.String()
	for _, part := range []string{`level=INFO msg=opened`, `level=ERROR msg="a word of the worker"`, "number=7", `line="a bare line"`, "worker_pid=", "were left out"} {
		if !strings.Contains(log, part) {
			t.Errorf("the log does not say %q", part)
		}
	}
	if n := strings.Count(log, "flood"); n > lineBurst+lineRate*5 {
		t.Errorf("%d lines of a flood were logged", n)
	}
	if strings.Count(log, "x") > 2*maxLine {
		t.Error("a huge line was logged whole")
	}
}

// TestNoNetwork: a worker can make no socket to anywhere but this machine.
func TestNoNetwork(t *testing.T) {
	r := newRig(t, "")
	b := r.mustOpen(t)
	if _, err := b.Run(t.Context(), row(idDial)); err != nil {
		if strings.Contains(r.log.String(), "not kept from the network") {
			t.Skip("system call filters are not permitted here")
		}
		t.Error(err)
	}
}

// TestProcess: what the system sees of a worker.
func TestProcess(t *testing.T) {
	t.Setenv("AKIDB_SECRET", "hush")
	b := newRig(t, "").mustOpen(t)
	proc := filepath.Join("/proc", fmt.Sprint(b.Process().PID))
	env, err := os.ReadFile(filepath.Join(proc, "environ"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(env), "hush") {
		t.Error("the worker has a variable that it does not need")
	}
	if got := oomScore(b.Process().PID); got != min(1000, oomScore(os.Getpid())+oomAbove) {
		t.Errorf("oom_score_adj is %d", got)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		if err := syscall.Kill(b.Process().PID, sig); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Run(t.Context(), row(1)); err != nil {
		t.Errorf("after the signals of a service manager: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(proc); err == nil {
		t.Error("the process is still there after Close")
	}
}

// TestCloseOfAStoppedWorker does not wait for ever.
func TestCloseOfAStoppedWorker(t *testing.T) {
	b := newRig(t, "").mustOpen(t)
	if err := syscall.Kill(b.Process().PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if d := time.Since(began); d > 4*time.Second {
		t.Errorf("closed after %v", d)
	}
}
