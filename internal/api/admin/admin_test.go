package admin

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"

	"github.com/akidb/akidbd/internal/embedding"
	adminv1 "github.com/akidb/akidbd/internal/gen/akidb/admin/v1"
	"github.com/akidb/akidbd/internal/node"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fakeNode struct {
	level  slog.LevelVar
	reload error
}

func (n *fakeNode) Status() Status {
	return Status{
		Node: "n1", Region: "eu", Cluster: "edge", Version: "1.2.3", State: "starting", Reason: "no model yet", Health: "unhealthy",
		Listeners: []Listener{{Role: "public", Address: "[::]:8080"}, {Role: "admin", Address: "/x.sock"}},
		Models: []Model{
			{ModelInfo: embedding.ModelInfo{Model: embedding.Model{Name: "z"}, State: embedding.ModelLoading, Reason: "warming up"}},
			{ModelInfo: embedding.ModelInfo{Model: embedding.Model{Name: "a", Digest: "sha256-00", Precision: "fp32"}, State: embedding.ModelReady,
				Dimensions: 384, MaxTokens: 256, Aliases: []string{"default"}, Loaded: time.Unix(1700000000, 0)},
				QueueRequests: 3, QueueTokens: 77, QueueDelay: 5 * time.Millisecond,
				WorkerPID: 4711, WorkerRSS: 1 << 27, WorkerRestarts: 2},
		},
		Checks:   []Check{{Name: "s3", State: "failing", Reason: "timeout"}},
		LogLevel: n.level.Level(), ConfigFile: "/etc/akidbd.yaml",
	}
}

func (n *fakeNode) Reload(context.Context) (Reloaded, error) {
	if n.reload != nil {
		return Reloaded{}, n.reload
	}
	return Reloaded{Applied: []string{"log.level"}, NeedsRestart: []string{"listen"}}, nil
}

func (n *fakeNode) SetLogLevel(l slog.Level) slog.Level {
	before := n.level.Level()
	n.level.Set(l)
	return before
}

func (n *fakeNode) Members() []node.Info {
	return []node.Info{
		{ID: "n1", Region: "eu", Addr: "10.0.0.1:7946", Word: node.Word{State: node.Ready, Load: 0.5, QueueDelay: time.Millisecond,
			Models: []node.Served{{Model: embedding.Model{Name: "a", Digest: "sha256-00"}, Aliases: []string{"default"}, Active: true}}}},
		{ID: "n2", Region: "eu", Word: node.Word{State: node.Draining}, Link: node.Link{Up: true, Known: true, RTT: 2 * time.Millisecond}},
		{ID: "n3", Region: "us", Link: node.Link{Known: true, Cause: "timeout"}},
		{ID: "n4", Region: "us"},
	}
}

func (n *fakeNode) Explain(model string) Explanation {
	return Explanation{Model: model + "@00", Candidates: []Candidate{{Node: "n1", Self: true, Reason: "local", Latency: time.Millisecond}},
		Excluded: []Candidate{{Node: "n2", Region: "eu", Reason: "draining"}}}
}

func (n *fakeNode) SetDrain(drain bool) (node.State, error) {
	if !drain {
		return "", errors.New("shutting down")
	}
	return node.Draining, nil
}

// socketPath is short enough for a unix socket, which t.TempDir may not be.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "adm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "admin.sock")
}

// run runs a server until the test ends or stop is called.
func run(t *testing.T, cfg Config, node Node) (stop func()) {
	t.Helper()
	s, err := New(cfg, node)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func TestService(t *testing.T) {
	path := socketPath(t)
	node := &fakeNode{}
	started := time.Now().Add(-time.Hour)
	stop := run(t, Config{Path: path, Started: started}, node)
	client, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Status(t.Context(), connect.NewRequest(&adminv1.StatusRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	st := resp.Msg
	if st.GetNode() != "n1" || st.GetRegion() != "eu" || st.GetCluster() != "edge" || st.GetVersion() != "1.2.3" || st.GetState() != "starting" ||
		st.GetReason() != "no model yet" || st.GetHealth() != "unhealthy" || st.GetLogLevel() != "info" || st.GetConfigFile() != "/etc/akidbd.yaml" ||
		st.GetPid() != int64(os.Getpid()) || st.GetRssBytes() < 1<<20 || !st.GetStarted().AsTime().Equal(started) ||
		st.GetUptime().AsDuration() < time.Hour || len(st.GetListeners()) != 2 || st.GetChecks()[0].GetReason() != "timeout" {
		t.Errorf("got %v", st)
	}
	models, err := client.ListModels(t.Context(), connect.NewRequest(&adminv1.ListModelsRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range [][]*adminv1.Model{st.GetModels(), models.Msg.GetModels()} {
		if len(list) != 2 || list[0].GetName() != "a" || list[0].GetQueueTokens() != 77 || list[0].GetQueueRequests() != 3 ||
			list[0].GetWorkerPid() != 4711 || list[0].GetWorkerRssBytes() != 1<<27 || list[0].GetWorkerRestarts() != 2 ||
			list[0].GetQueueDelay().AsDuration() != 5*time.Millisecond || list[0].GetLoaded().GetSeconds() != 1700000000 ||
			list[1].GetState() != "loading" || list[1].GetReason() != "warming up" || list[1].GetLoaded() != nil {
			t.Errorf("models are %v", list)
		}
	}

	done, err := client.Reload(t.Context(), connect.NewRequest(&adminv1.ReloadRequest{}))
	if err != nil || done.Msg.GetApplied()[0] != "log.level" || done.Msg.GetNeedsRestart()[0] != "listen" {
		t.Errorf("reload: %v, %v", done, err)
	}
	node.reload = errors.New("config: line 3: unknown field")
	if _, err := client.Reload(t.Context(), connect.NewRequest(&adminv1.ReloadRequest{})); connect.CodeOf(err) != connect.CodeInvalidArgument ||
		!strings.Contains(err.Error(), "line 3") {
		t.Errorf("a bad reload gave %v", err)
	}

	for _, tc := range []struct{ set, previous string }{{"debug", "info"}, {"error", "debug"}, {"warn", "error"}} {
		resp, err := client.SetLogLevel(t.Context(), connect.NewRequest(&adminv1.SetLogLevelRequest{Level: tc.set}))
		if err != nil || resp.Msg.GetPrevious() != tc.previous {
			t.Errorf("%s: %v, %v", tc.set, resp, err)
		}
	}
	if _, err := client.SetLogLevel(t.Context(), connect.NewRequest(&adminv1.SetLogLevelRequest{Level: "loud"})); connect.CodeOf(err) != connect.CodeInvalidArgument ||
		!strings.Contains(err.Error(), `debug, info, warn or error, got "loud"`) || node.level.Level() != slog.LevelWarn {
		t.Errorf("a bad level gave %v", err)
	}

	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }}
	pprof, err := (&http.Client{Transport: tr}).Get("http://x/debug/pprof/goroutine?debug=1")
	if err != nil || pprof.StatusCode != 200 {
		t.Fatalf("pprof: %v, %v", pprof, err)
	}
	_ = pprof.Body.Close()

	stop()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	if _, err := client.Status(t.Context(), connect.NewRequest(&adminv1.StatusRequest{})); err == nil ||
		!strings.Contains(err.Error(), "no akidbd listens on "+path+": is it running?") {
		t.Errorf("a call after the end gave %v", err)
	}
}

func TestSocket(t *testing.T) {
	t.Run("mode", func(t *testing.T) {
		for _, mode := range []os.FileMode{0, 0o600} {
			path := socketPath(t)
			run(t, Config{Path: path, Mode: mode, Group: "0"}, &fakeNode{})
			if mode == 0 {
				mode = 0o660
			}
			info, err := os.Lstat(path)
			if err != nil || info.Mode() != os.ModeSocket|mode {
				t.Errorf("mode is %v, %v, want %v", info.Mode(), err, mode)
			}
			entries, err := os.ReadDir(filepath.Dir(path))
			if err != nil || len(entries) != 1 {
				t.Errorf("beside the socket there is %v, %v", entries, err)
			}
		}
	})
	t.Run("stale", func(t *testing.T) {
		path := socketPath(t)
		leave(t, path)
		if _, err := Dial(t.Context(), path); err == nil || !strings.Contains(err.Error(), "left from one that was killed") {
			t.Errorf("a stale socket gave %v", err)
		}
		run(t, Config{Path: path}, &fakeNode{})
		if _, err := Dial(t.Context(), path); err != nil {
			t.Error(err)
		}
	})
	t.Run("another answers", func(t *testing.T) {
		path := socketPath(t)
		run(t, Config{Path: path}, &fakeNode{})
		s, err := New(Config{Path: path}, &fakeNode{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another akidbd answers on "+path) {
			t.Errorf("got %v", err)
		}
		if _, err := Dial(t.Context(), path); err != nil {
			t.Errorf("the first was harmed: %v", err)
		}
	})
	t.Run("not a socket", func(t *testing.T) {
		path := socketPath(t)
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := New(Config{Path: path}, &fakeNode{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Listen(); err == nil || !strings.Contains(err.Error(), "is not a socket") {
			t.Errorf("got %v", err)
		}
		if body, err := os.ReadFile(path); err != nil || string(body) != "precious" {
			t.Errorf("the file is %q, %v", body, err)
		}
	})
	t.Run("a successor's socket stays", func(t *testing.T) {
		path := socketPath(t)
		stop := run(t, Config{Path: path}, &fakeNode{})
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		run(t, Config{Path: path}, &fakeNode{})
		stop()
		if _, err := Dial(t.Context(), path); err != nil {
			t.Error(err)
		}
	})
	t.Run("bad configuration", func(t *testing.T) {
		long := "/" + strings.Repeat("x", 107)
		if _, err := New(Config{Path: long}, &fakeNode{}); err == nil || !strings.Contains(err.Error(), "107 bytes at most") || !strings.Contains(err.Error(), "has 108") {
			t.Errorf("a long path gave %v", err)
		}
		path := socketPath(t)
		s, err := New(Config{Path: path, Group: "no-such-group"}, &fakeNode{})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Listen(); err == nil || !strings.Contains(err.Error(), "no-such-group") {
			t.Errorf("got %v", err)
		}
		if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 0 {
			t.Errorf("left behind: %v, %v", entries, err)
		}
	})
	t.Run("permission", func(t *testing.T) {
		err := dialError("/s", &net.OpError{Err: os.ErrPermission})
		if !strings.Contains(err.Error(), "join the socket's group") {
			t.Errorf("got %v", err)
		}
	})
}

// leave makes a socket nobody answers on.
func leave(t *testing.T, path string) {
	t.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
}
