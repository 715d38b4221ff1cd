//go:build faults

package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/akidb/akidbd/internal/infer"
)

// withFaults lets a model directory plant a fault into its worker, by a file fault.txt: "load" crashes while the model
// is opened, "warmup" at its first run, "hang" stops the process there, "input N" crashes at runs that hold token N.
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
		for _, row := range b.Rows {
			for _, id := range row {
				if id == f.token {
					crash(syscall.SIGSEGV)
				}
			}
		}
	}
	return f.Backend.Run(ctx, b)
}
