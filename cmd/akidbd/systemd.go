package main

import (
	"fmt"

	"github.com/coreos/go-systemd/v22/activation"
	systemd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/akidb/akidbd/internal/daemon"
)

// underSystemd takes what systemd gives this process: the socket that it wants to be told things on, its watchdog and
// the sockets that it holds. Without systemd it changes nothing.
func underSystemd(opt *daemon.Options) error {
	told, err := systemd.SdNotify(false, "STATUS=starting")
	if err != nil {
		return fmt.Errorf("$NOTIFY_SOCKET: %w", err)
	}
	if told {
		opt.Notify = func(state string) error {
			_, err := systemd.SdNotify(false, state)
			return err
		}
	}
	if opt.Watchdog, err = systemd.SdWatchdogEnabled(false); err != nil {
		return fmt.Errorf("$WATCHDOG_USEC: %w", err)
	}
	listeners, err := activation.Listeners()
	if err != nil {
		return fmt.Errorf("$LISTEN_FDS: %w", err)
	}
	for i, ln := range listeners {
		if ln == nil {
			return fmt.Errorf("socket %d of systemd is no stream socket: akidbd.socket takes ListenStream= only", i)
		}
	}
	opt.Listeners = listeners
	return nil
}
