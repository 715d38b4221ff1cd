package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

// signals are what the machine tells the daemon: SIGTERM and SIGINT end it, the second one at once; SIGHUP reads
// the configuration again.
type signals struct {
	log     *slog.Logger
	caught  chan os.Signal
	reloads chan struct{} // one waits at most: a reload reads the newest file
}

// listenForSignals catches signals from now on, also those that come before they are handled.
func listenForSignals(log *slog.Logger) *signals {
	s := &signals{log: log, caught: make(chan os.Signal, 8), reloads: make(chan struct{}, 1)}
	signal.Notify(s.caught, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	return s
}

func (s *signals) stop() {
	signal.Stop(s.caught)
	close(s.caught)
}

// handle calls end at the first SIGTERM or SIGINT, and leaves behind who ends the process at the second. It
// returns with ctx.
func (s *signals) handle(ctx context.Context, end func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case sig, ok := <-s.caught:
			if !ok {
				return
			}
			if sig == syscall.SIGHUP {
				select {
				case s.reloads <- struct{}{}:
				default:
				}
				continue
			}
			s.log.Info("stopping", "signal", sig.String())
			end()
			go s.impatient() // lives as long as the process
			return
		}
	}
}

func (s *signals) impatient() {
	for sig := range s.caught {
		if sig != syscall.SIGHUP {
			s.log.Warn("second signal: ending without a drain", "signal", sig.String())
			os.Exit(exitFailure)
		}
	}
}

// reload calls f for SIGHUPs, one after the other, until ctx ends.
func (s *signals) reload(ctx context.Context, f func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.reloads:
			f()
		}
	}
}
