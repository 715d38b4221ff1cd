package daemon

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/api/admin"
	"github.com/akidb/akidbd/internal/config"
	"github.com/akidb/akidbd/internal/infer"
)

// told is a service manager that keeps what it is told.
type told struct {
	mu       sync.Mutex
	messages []string
}

func (t *told) send(state string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.messages = append(t.messages, state)
	return nil
}

func (t *told) all() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.messages)
}

func (t *told) count(part string) int {
	n := 0
	for _, m := range t.all() {
		if strings.Contains(m, part) {
			n++
		}
	}
	return n
}

// TestWatchdogFollowsTheEngine: signs of life come while the engine gets on and stop when it hangs, whatever else
// runs on.
func TestWatchdogFollowsTheEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var heard told
		start, hangs := time.Now(), 5*time.Minute
		m := &manager{
			send: heard.send, watchdog: 30 * time.Second, status: func() string { return "ready" }, log: slog.New(slog.DiscardHandler),
			beat: func() time.Time { // four times a second until it hangs
				return start.Add(min(time.Since(start), hangs).Truncate(250*time.Millisecond) + time.Millisecond)
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { m.run(ctx) })
		time.Sleep(hangs)
		if n := heard.count("WATCHDOG=1"); n < 39 || n > 42 {
			t.Errorf("%d signs of life in %v, want one each 7.5 s", n, hangs)
		}
		time.Sleep(8 * time.Second)
		before := heard.count("WATCHDOG=1")
		time.Sleep(hangs)
		if n := heard.count("WATCHDOG=1"); n != before {
			t.Errorf("%d signs of life of an engine that hangs", n-before)
		}
		if heard.count("STATUS=the engine hangs") == 0 {
			t.Errorf("nobody was told that the engine hangs: %q", heard.all())
		}
		cancel()
		wg.Wait()
	})
}

// TestWatchdogSurvivesAStatusThatHangs: what the status line asks may block on the engine.
func TestWatchdogStatusMayHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var heard told
		block := make(chan struct{})
		m := &manager{
			send: heard.send, watchdog: 4 * time.Second, status: func() string { <-block; return "" }, log: slog.New(slog.DiscardHandler),
			beat: time.Now,
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { m.run(ctx) })
		time.Sleep(time.Minute)
		if n := heard.count("WATCHDOG=1"); n < 50 {
			t.Errorf("%d signs of life in a minute", n)
		}
		cancel()
		close(block)
		wg.Wait()
	})
}

// TestReloadAsksForTime: a reload that waits for its turn is not cut off while the engine gets on.
func TestReloadAsksForTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var heard told
		m := &manager{send: heard.send, watchdog: 4 * time.Second, status: func() string { return "" }, log: slog.New(slog.DiscardHandler), beat: time.Now}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { m.run(ctx) })
		done := m.wait()
		time.Sleep(10 * time.Second)
		if heard.count("EXTEND_TIMEOUT_USEC=60000000") < 5 {
			t.Errorf("told %q", heard.all())
		}
		done()
		before := heard.count("EXTEND")
		time.Sleep(10 * time.Second)
		if n := heard.count("EXTEND"); n != before {
			t.Errorf("%d more extensions after the reload", n-before)
		}
		cancel()
		wg.Wait()
	})
}

// TestServiceManager follows a whole node: starting, ready, reloads, one of them bad, stopping.
func TestServiceManager(t *testing.T) {
	var heard told
	r := newRigWith(t, func(o *Options) { o.Notify, o.Watchdog = heard.send, 4*time.Second }, func(c *config.Config) {
		c.DrainDelay, c.DrainTimeout = config.Duration(time.Millisecond), config.Duration(2*time.Second)
	})
	has := func(parts ...string) bool {
		return slices.ContainsFunc(heard.all(), func(m string) bool {
			return !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(m, p) })
		})
	}
	for _, want := range [][]string{{"READY=1", "STATUS="}, {"WATCHDOG=1"}} {
		if !has(want...) {
			t.Errorf("no %q in %q", want, heard.all())
		}
	}
	if _, err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(heard.all(), func(m string) bool { return strings.HasPrefix(m, "RELOADING=1\nMONOTONIC_USEC=") })
	if i < 0 || !slices.ContainsFunc(heard.all()[i:], func(m string) bool { return strings.HasPrefix(m, "READY=1\nSTATUS=ready: tiny on cpu") }) {
		t.Errorf("a reload said %q", heard.all())
	}

	r.cfg.API.MaxInputs = -1
	if _, err := r.Reload(t.Context()); err == nil {
		t.Fatal("an invalid configuration was taken")
	}
	if last := heard.all()[len(heard.all())-1]; !strings.HasPrefix(last, "READY=1\nSTATUS=ready: tiny on cpu; the reload at ") || !strings.Contains(last, "api.max_inputs") {
		t.Errorf("after a bad reload: %q", last)
	}
	if _, body := r.get(t, "/metrics"); !strings.Contains(body, "akidb_daemon_last_reload_successful 0") || !strings.Contains(body, "akidb_daemon_reload_failures_total 1") {
		t.Error("the metrics do not tell of the bad reload")
	}
	if c := r.Status().Checks; !slices.ContainsFunc(c, func(c admin.Check) bool {
		return c.Name == "configuration" && c.State == "failing" && strings.Contains(c.Reason, "api.max_inputs")
	}) {
		t.Errorf("status does not tell of the bad reload: %+v", c)
	}
	r.cfg.API.MaxInputs = 1
	r.cfg.Engine.Threads = 3
	if _, err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if line := r.statusLine(); !strings.Contains(line, "needs a restart: engine.threads") {
		t.Errorf("status line %q", line)
	}
	if _, body := r.get(t, "/metrics"); !strings.Contains(body, "akidb_daemon_last_reload_successful 1") || !strings.Contains(body, "akidb_daemon_restart_needed_settings 1") {
		t.Error("the metrics do not tell of the good reload")
	}

	r.end(t)
	i = slices.IndexFunc(heard.all(), func(m string) bool { return strings.HasPrefix(m, "STOPPING=1\n") })
	if i < 0 || !strings.Contains(heard.all()[i], "EXTEND_TIMEOUT_USEC=12001000\n") {
		t.Errorf("a stop said %q", heard.all())
	}
}

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"ready":                        "ready",
		"a\nWATCHDOG=1\n\nb":           "a; WATCHDOG=1; b",
		strings.Repeat("é", 300):       strings.Repeat("é", 200) + "...",
		"x" + strings.Repeat("é", 300): "x" + strings.Repeat("é", 199) + "...",
	} {
		if got := oneLine(in); got != want {
			t.Errorf("%q became %q", in, got)
		}
	}
}

// TestGivenSockets: a socket of the service manager is served, outlives the node without a connection lost, and one
// that nothing is configured for is refused.
func TestGivenSockets(t *testing.T) {
	held, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	lend := func() net.Listener { // as after an exec: another descriptor of the same socket
		f, err := held.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		ln, err := net.FileListener(f)
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	for range 2 {
		r := newRigWith(t, func(o *Options) { o.Listeners = []net.Listener{lend()} }, func(c *config.Config) {
			c.Listen[0].Address = held.Addr().String()
		})
		if status, body := r.get(t, "/readyz"); status != 200 {
			t.Errorf("readyz %d %s", status, body)
		}
		r.end(t)
		conn, err := net.DialTimeout("tcp", held.Addr().String(), time.Second)
		if err != nil {
			t.Fatalf("between two nodes nobody is taken: %v", err)
		}
		conn.Close()
	}

	cfg := config.Default()
	cfg.Listen[0].Address = "127.0.0.1:1"
	d := &Daemon{opt: Options{Config: cfg, Listeners: []net.Listener{held}}}
	if err := d.listen(); err == nil || os.Getuid() == 0 && !strings.Contains(err.Error(), "no entry of listen has that address") {
		t.Errorf("a socket that nothing is configured for: %v", err)
	}
	_ = d.close()
}

func TestServes(t *testing.T) {
	for _, c := range []struct {
		bound, configured string
		want              bool
	}{
		{"0.0.0.0:80", ":80", true}, {"[::]:80", "127.0.0.1:80", true}, {"127.0.0.1:80", ":80", true}, {"127.0.0.1:80", "127.0.0.1:80", true},
		{"127.0.0.2:80", "127.0.0.1:80", false}, {"0.0.0.0:81", ":80", false}, {"127.0.0.1:80", "host:80", false},
	} {
		addr, err := net.ResolveTCPAddr("tcp", c.bound)
		if err != nil {
			t.Fatal(err)
		}
		if got := serves(addr, c.configured); got != c.want {
			t.Errorf("%s for %q: %v", c.bound, c.configured, got)
		}
	}
}

// TestBoard: a machine that is made for its GPU and computes on the CPU is degraded, and serves.
func TestBoard(t *testing.T) {
	r := newRigWith(t, func(o *Options) { o.Board = "NVIDIA Jetson Orin Nano" }, nil)
	status, body := r.get(t, "/health")
	if status != 200 || !strings.Contains(body, `"degraded"`) || !strings.Contains(body, "runs on the CPU of NVIDIA Jetson Orin Nano") {
		t.Errorf("%d %s", status, body)
	}
	if status, _ := r.get(t, "/readyz"); status != 200 {
		t.Errorf("readyz %d", status)
	}
	if line := r.statusLine(); !strings.Contains(line, "akidbd doctor") {
		t.Errorf("status line %q", line)
	}
}

// TestRequestsOfAStartingNode: a lone node lets requests wait for its models instead of failing them; whom it cannot
// serve is told so.
func TestRequestsOfAStartingNode(t *testing.T) {
	hold := make(chan struct{})
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var asked sync.WaitGroup
	newRigWith(t, func(o *Options) {
		open := o.Open
		o.Listeners = []net.Listener{free}
		o.Open = func(ctx context.Context, a infer.Artifact, opt infer.Options) (infer.Backend, error) {
			<-hold
			return open(ctx, a, opt)
		}
		o.Notify = func(state string) error {
			if !strings.HasPrefix(state, "READY=1") {
				return nil
			}
			// Sockets are bound, nothing is loaded: the moment in which systemctl start comes back.
			for _, body := range []string{`{"text": "one"}`, `{"text": "two", "model": "tiny"}`} {
				asked.Go(func() {
					res, err := http.Post("http://"+free.Addr().String()+"/api/v1/embed", "application/json", strings.NewReader(body))
					if err != nil {
						t.Error(err)
						return
					}
					defer res.Body.Close()
					if text, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusOK {
						t.Errorf("%s: %d %s", body, res.StatusCode, text)
					}
				})
			}
			time.AfterFunc(200*time.Millisecond, func() { close(hold) })
			return nil
		}
	}, func(c *config.Config) { c.Listen[0].Address = free.Addr().String() })
	asked.Wait()
}
