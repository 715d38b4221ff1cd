package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/akidb/akidbd/internal/api"
	"github.com/akidb/akidbd/internal/embedding"
)

const (
	statusEvery = time.Second // between looks whether the status line changed
	maxStatus   = 400         // bytes of a status line: systemctl shows one line
	// extendBy is how much longer a reload may take, told again while the engine gets on.
	extendBy = time.Minute
)

// manager speaks to the service manager in the words of sd_notify(3). Without one it says nothing.
type manager struct {
	send     func(state string) error // nil: there is no service manager
	watchdog time.Duration            // how long it waits for a sign of life; 0: it does not watch
	beat     func() time.Time         // the engine's last progress
	status   func() string            // what systemctl status shows
	log      *slog.Logger

	mu       sync.Mutex
	ready    bool
	stopping bool
	reloads  int    // under way or waiting for their turn
	told     string // the last status line
}

func newManager(d *Daemon) *manager {
	return &manager{send: d.opt.Notify, watchdog: d.opt.Watchdog, beat: d.progress, status: d.statusLine, log: d.log}
}

// run tells what the node waits for and, as long as the engine gets on, that it lives. The two are apart: what the
// status line asks may hang with the engine.
func (m *manager) run(ctx context.Context) {
	if m.send == nil {
		<-ctx.Done()
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { every(ctx, statusEvery, m.tellStatus) })
	if m.watchdog > 0 {
		wg.Go(func() { m.ping(ctx) })
	}
	<-ctx.Done()
}

// ping says WATCHDOG=1 only when the engine got on since the last time: a hung engine is the service manager's to end.
func (m *manager) ping(ctx context.Context) {
	var last time.Time
	every(ctx, m.watchdog/4, func() {
		now := m.beat()
		if !now.After(last) {
			m.say(hung(now))
			return
		}
		last = now
		m.mu.Lock()
		reloads := m.reloads
		m.mu.Unlock()
		if reloads > 0 { // it extends the watchdog too, so it is bound to the engine's progress as well
			m.notify("WATCHDOG=1", extension(extendBy))
			return
		}
		m.notify("WATCHDOG=1")
	})
}

// announce says that the node may be used as far as the service manager cares: its sockets are bound, it is in the
// fleet. Whether it can answer is for /readyz and the fleet to tell: a first TensorRT build takes minutes.
func (m *manager) announce() {
	m.mu.Lock()
	m.ready = true
	m.mu.Unlock()
	m.notify("READY=1", m.statusNow())
}

// stop says that the node drains and how long that may take.
func (m *manager) stop(budget time.Duration) {
	m.mu.Lock()
	m.stopping = true
	m.mu.Unlock()
	m.notify("STOPPING=1", extension(budget), "STATUS=draining: answers what it has taken, then stops")
}

// wait notes a reload, which may have to wait for its turn; done ends it.
func (m *manager) wait() (done func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reloads++
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.reloads--
	}
}

// reload says that a reload begins; done says that it ended.
func (m *manager) reload() (done func()) {
	m.mu.Lock()
	running := m.ready && !m.stopping
	m.mu.Unlock()
	if !running {
		return func() {}
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		m.log.Warn("no monotonic clock for the service manager", "err", err)
	}
	m.notify("RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/1000), "STATUS=taking over the configuration")
	return func() {
		m.mu.Lock()
		stopping := m.stopping
		m.mu.Unlock()
		if stopping { // the drain has said more since
			m.notify("READY=1")
			return
		}
		m.notify("READY=1", m.statusNow())
	}
}

// hung says what an engine looks like whose last sign of life was then; zero: a load is over its limit.
func hung(beat time.Time) string {
	if beat.IsZero() {
		return "the engine hangs: a load is over engine.load_timeout"
	}
	return fmt.Sprintf("the engine hangs: no sign of life for %v", time.Since(beat).Round(time.Second))
}

func (m *manager) tellStatus() { m.say(m.status()) }

// say changes the status line when it is another one.
func (m *manager) say(status string) {
	m.mu.Lock()
	news := status != m.told
	m.told = status
	m.mu.Unlock()
	if news {
		m.notify("STATUS=" + oneLine(status))
	}
}

func (m *manager) statusNow() string {
	status := m.status()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.told = status
	return "STATUS=" + oneLine(status)
}

func (m *manager) notify(lines ...string) {
	if m.send == nil {
		return
	}
	if err := m.send(strings.Join(lines, "\n")); err != nil {
		m.log.Warn("the service manager does not take a message", "err", err)
	}
}

func extension(d time.Duration) string {
	return fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", d.Microseconds())
}

// oneLine keeps a text within its assignment: a line break would begin another one.
func oneLine(text string) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' || r == 0 }), "; ")
	if len(text) > maxStatus {
		text = strings.ToValidUTF8(text[:maxStatus], "") + "..."
	}
	return text
}

// every calls f now and then, until ctx ends.
func every(ctx context.Context, pause time.Duration, f func()) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		f()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// runManager lives as long as the rest: also a drain needs its signs of life.
func (d *Daemon) runManager(ctx context.Context, ready func()) error {
	ready()
	d.manager.run(ctx)
	return nil
}

// runAnnounce starts last and stops first.
func (d *Daemon) runAnnounce(ctx context.Context, ready func()) error {
	ready()
	d.manager.announce()
	<-ctx.Done()
	d.manager.stop(d.grace() + stopGrace)
	return nil
}

// progress is when the engine last got on; a load that is over its limit is no progress.
func (d *Daemon) progress() time.Time {
	if d.engine.Overdue() != "" {
		return time.Time{}
	}
	return d.engine.Heartbeat()
}

// live says why this process should be started again, nil when it is well.
func (d *Daemon) live() error {
	if beat := time.Since(d.engine.Heartbeat()); beat > heartbeatLimit {
		return fmt.Errorf("the engine's last heartbeat is %v old", beat.Round(time.Second))
	}
	if overdue := d.engine.Overdue(); overdue != "" {
		return errors.New(overdue)
	}
	return nil
}

// statusLine says what the node does or waits for.
func (d *Daemon) statusLine() string {
	h := d.Health()
	var parts []string
	if h.Ready {
		parts = append(parts, "ready: "+d.servedLine())
	} else {
		parts = append(parts, h.Reason)
	}
	if h.Status == api.Degraded {
		for _, name := range slices.Sorted(maps.Keys(h.Checks)) {
			if c := h.Checks[name]; c.State == api.CheckFailing && c.Reason != h.Reason {
				parts = append(parts, c.Reason)
			}
		}
	}
	if c := d.configCheck(); c.Reason != "" {
		parts = append(parts, c.Reason)
	}
	return strings.Join(parts, "; ")
}

// servedLine names the models that answer and counts the links.
func (d *Daemon) servedLine() string {
	var names []string
	for _, m := range d.engine.Models() {
		if m.State == embedding.ModelReady {
			names = append(names, m.Model.Name+" on "+m.Provider)
		}
	}
	line := strings.Join(names, ", ")
	if d.mesh == nil {
		return line
	}
	up, nodes := 0, d.mesh.directory.Nodes()
	for _, n := range nodes {
		if n.Link.Up {
			up++
		}
	}
	return fmt.Sprintf("%s; links to %d of %d other nodes", line, up, len(nodes))
}
