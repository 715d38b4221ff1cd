//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/akidb/akidbd/internal/config"
	"github.com/akidb/akidbd/internal/daemon"
	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/infer/backendtest"
	"github.com/akidb/akidbd/internal/telemetry"
)

const fakeNodeCommand = "fakenode"

// What a run of the fake engine takes: 5 ms for a short text, half of it for its tokens, so that a node that
// gets all requests of the load is half busy.
const (
	fakeRun   = 2500 * time.Microsecond
	fakeToken = 100 * time.Microsecond
)

// fakeNode is akidbd with an engine that waits instead of computing: everything but the vectors is real. SIGUSR1
// makes the engine fail every run, SIGWINCH makes it ten times slower, SIGUSR2 mends it.
func fakeNode(args []string) error {
	if len(args) != 1 {
		return errors.New("one argument, the configuration file, is needed")
	}
	load := func() (*config.Config, error) { return config.Load(args[0], nil) }
	cfg, err := load()
	if err != nil {
		return err
	}
	tel := telemetry.New(telemetry.Config{Level: cfg.Log.SlogLevel(), Format: cfg.Log.Format, Build: telemetry.ReadBuild("lab")}, os.Stderr)
	var failing, slow atomic.Bool
	open := func(_ context.Context, a infer.Artifact, _ infer.Options) (infer.Backend, error) {
		caps := infer.Caps{Provider: "cpu", Lanes: 4, MaxTokens: 512, Dimensions: a.Spec.Hidden, RunOverhead: int(fakeRun / fakeToken)}
		fake := backendtest.NewFake(caps, a.Spec.MaxTokens)
		fake.Set(backendtest.Knobs{
			Cost: func(b infer.Batch) time.Duration {
				took := fakeRun + time.Duration(b.PaddedTokens())*fakeToken
				if slow.Load() {
					took *= 10
				}
				return took
			},
			Fail: func(infer.Batch) error {
				if failing.Load() {
					return errors.New("the lab makes this engine fail")
				}
				return nil
			},
		})
		return fake, nil
	}
	d, err := daemon.New(daemon.Options{Config: cfg, ConfigFile: args[0], Load: load, Open: open, Telemetry: tel, Version: "lab"})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	knobs := make(chan os.Signal, 4)
	signal.Notify(knobs, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH)
	go func() {
		for s := range knobs {
			failing.Store(s == syscall.SIGUSR1)
			slow.Store(s == syscall.SIGWINCH)
		}
	}()
	if err := d.Run(ctx); err != nil {
		return fmt.Errorf("run: %w", err)
	}
	return nil
}
