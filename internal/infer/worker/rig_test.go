package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/infer/backendtest"
	"github.com/akidb/akidbd/internal/infer/modeldir"
	"github.com/akidb/akidbd/internal/testlog"
)

const (
	testTokens = 64
	testVocab  = 1000
	asWorker   = "AKIDB_TEST_AS_WORKER"
)

// What a row that begins with these ids does to a fake worker, in place of being computed.
const (
	idSegv = testVocab + iota
	idPanicElsewhere
	idExit
	idKill
	idStop
	idMute
	idHangUp
	idFail
	idPanic
	idDeaf  // never ends, whatever is asked
	idSleep // ends when it is aborted
	idChat
	idNoise
	idDial
	idLose
)

// TestMain is a worker with a fake backend when a Host of these tests starts it.
func TestMain(m *testing.M) {
	if os.Getenv(asWorker) != "" {
		if err := Main(loadFake); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func loadFake(library string, log *slog.Logger) (string, infer.Open, error) {
	switch library {
	case "":
	case "dies":
		panic("planted in the library")
	default:
		return "", nil, fmt.Errorf("library %s: version 1.16.3 found, 1.22 or newer is needed", library)
	}
	return "1.99.0", func(_ context.Context, a infer.Artifact, opt infer.Options) (infer.Backend, error) {
		switch a.Model.Name {
		case "broken":
			return nil, errors.New("planted refusal")
		case "dies":
			panic("planted in the opening")
		case "slow":
			time.Sleep(time.Minute)
		}
		log.Info("opened", "model", a.Model, "threads", opt.Threads)
		f := backendtest.NewFake(infer.Caps{Provider: "cpu", Lanes: 2, MaxTokens: 256, Dimensions: 8, Wide: true}, testTokens)
		f.Set(backendtest.Knobs{Fail: func(b infer.Batch) error { return misbehave(f, b, log) }, Hold: hold})
		return &deaf{f}, nil
	}, nil
}

// deaf never ends a run that begins with idDeaf, although the Fake would.
type deaf struct{ *backendtest.Fake }

func (d *deaf) Run(ctx context.Context, b infer.Batch) (infer.Output, error) {
	if len(b.Rows) > 0 && len(b.Rows[0]) > 0 && b.Rows[0][0] == idDeaf {
		select {}
	}
	return d.Fake.Run(ctx, b)
}

func hold(b infer.Batch) chan struct{} {
	if b.Rows[0][0] == idSleep {
		return make(chan struct{})
	}
	return nil
}

func misbehave(f *backendtest.Fake, b infer.Batch, log *slog.Logger) error {
	switch b.Rows[0][0] {
	case idSegv:
		_ = syscall.Kill(os.Getpid(), syscall.SIGSEGV)
		select {}
	case idPanicElsewhere:
		go func() { panic("planted elsewhere") }()
		select {}
	case idExit:
		os.Exit(7)
	case idKill:
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case idStop:
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		select {}
	case idMute, idHangUp: // its words go nowhere; the mute one's socket stays open
		socket := socketOf()
		null, err := syscall.Open("/dev/null", syscall.O_RDWR, 0)
		if err != nil {
			return err
		}
		if b.Rows[0][0] == idMute {
			if _, err := syscall.Dup(socket); err != nil {
				return err
			}
		}
		if err := syscall.Dup3(null, socket, 0); err != nil {
			return err
		}
		select {}
	case idFail:
		return errors.New("planted failure")
	case idPanic:
		panic("planted in the run")
	case idChat:
		log.Error("a word of the worker", "number", 7)
		fmt.Fprintln(os.Stderr, "a bare line")
		fmt.Fprintln(os.Stderr, strings.Repeat("x", 3*maxLine))
		for i := range 1000 {
			fmt.Fprintln(os.Stderr, "flood", i)
		}
	case idNoise:
		_, _ = syscall.Write(socketOf(), []byte(strings.Repeat("\xff", 64)))
	case idDial:
		if fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0); err == nil {
			_ = syscall.Close(fd)
			return errors.New("made an internet socket")
		} else if err != syscall.EACCES {
			return err
		}
		fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
		if err != nil {
			return fmt.Errorf("unix socket: %w", err)
		}
		_ = syscall.Close(fd)
	case idLose:
		f.Lose()
	}
	return nil
}

// socketOf finds the descriptor of the worker's socket.
func socketOf() int {
	for fd := 3; fd < 64; fd++ {
		if target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil && strings.HasPrefix(target, "socket:") {
			return fd
		}
	}
	return -1
}

type rig struct {
	*Host
	log *testlog.Buffer
	reg *prometheus.Registry
}

func newRig(t *testing.T, library string) *rig {
	t.Helper()
	r := &rig{log: &testlog.Buffer{}, reg: prometheus.NewRegistry()}
	r.Host = NewHost(Config{
		Command: []string{"/proc/self/exe", "worker"}, Environment: []string{asWorker + "=1"}, Library: library,
		Logger: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Registerer: r.reg,
	})
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func artifact(name string) infer.Artifact {
	return infer.Artifact{Dir: "/nowhere", Graph: "/nowhere/g", Spec: modeldir.Spec{MaxTokens: testTokens, Hidden: 8, Vocab: testVocab}, Model: embedding.Model{Name: name}}
}

func (r *rig) mustOpen(t *testing.T) *backend {
	t.Helper()
	b, err := r.Open(t.Context(), artifact("m"), infer.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b.(*backend)
}

func row(ids ...int32) infer.Batch { return infer.Batch{Rows: [][]int32{ids}} }
