//go:build faults

package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/akidb/akidbd/internal/infer"
)

// withFaults lets a model directory plant a fault into its worker, by a file fault.txt: "load" crashes while the model
// is opened, "warmup" at its first run, "hang" stops the process there, "input N" crashes at runs that hold token N,
// "eat N" takes all memory there.
func withFaults(open infer.Open) infer.Open {
	return func(ctx context.Context, a infer.Artifact, opt infer.Options) (infer.Backend, error) {
		data, err := os.ReadFile(filepath.Join(a.Dir, "fault.txt"))
		if errors.Is(err, fs.ErrNotExist) {
			return open(ctx, a, opt)
		}
		if err != nil {
			return nil, err
		}
		what, arg, _ := strings.Cut(strings.TrimSpace(string(data)), " ")
		if what == "load" {
			crash(syscall.SIGSEGV)
		}
		b, err := open(ctx, a, opt)
		if err != nil {
			return nil, err
		}
		token, _ := strconv.Atoi(arg)
		return &faulty{b, what, int32(token)}, nil
	}
}

func crash(sig syscall.Signal) {
	_ = syscall.Kill(os.Getpid(), sig)
	select {}
}

type faulty struct {
	infer.Backend
	what  string
	token int32
}

func (f *faulty) Run(ctx context.Context, b infer.Batch) (infer.Output, error) {
	switch f.what {
	case "warmup":
		crash(syscall.SIGSEGV)
	case "hang":
		crash(syscall.SIGSTOP)
	case "input":
		if f.holds(b) {
			crash(syscall.SIGSEGV)
		}
	case "eat":
		if f.holds(b) {
			eat()
		}
	}
	return f.Backend.Run(ctx, b)
}

func (f *faulty) holds(b infer.Batch) bool {
	return slices.ContainsFunc(b.Rows, func(row []int32) bool { return slices.Contains(row, f.token) })
}

// eat takes memory until the kernel ends somebody.
func eat() {
	var all [][]byte
	for {
		piece := make([]byte, 16<<20)
		for i := 0; i < len(piece); i += 4096 {
			piece[i] = 1
		}
		all = append(all, piece)
	}
}

// withEngineFaults lets a file named hang in the runtime directory hang the whole engine of the daemon: the first who
// then asks for the worker processes (akidbd status) never comes back, and holds the engine's lock.
func withEngineFaults(open infer.Open) infer.Open {
	return func(ctx context.Context, a infer.Artifact, opt infer.Options) (infer.Backend, error) {
		b, err := open(ctx, a, opt)
		if h, ok := b.(infer.Hosted); ok && err == nil {
			return &hanging{h}, nil
		}
		return b, err
	}
}

type hanging struct{ infer.Hosted }

func (h *hanging) Process() infer.Process {
	if _, err := os.Stat(filepath.Join(os.Getenv("RUNTIME_DIRECTORY"), "hang")); err == nil {
		select {}
	}
	return h.Hosted.Process()
}
