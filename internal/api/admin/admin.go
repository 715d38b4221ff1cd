// Package admin is the control service of a node, akidb.admin.v1.AdminService, on a unix socket. The socket's
// file permissions are its only protection: it is never served on the network.
package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/gen/akidb/admin/v1/adminv1connect"
	"github.com/akidb/akidbd/internal/node"
)

// DefaultPath is where the socket is unless configured otherwise.
const DefaultPath = "/run/akidbd/admin.sock"

// maxPath is what fits in Linux's sockaddr_un, in bytes.
const maxPath = 107

// Node is what the service shows and steers. Its methods are safe for concurrent use.
type Node interface {
	// Status answers at once, from memory.
	Status() Status
	// Reload reads the configuration again. When it fails, nothing has changed.
	Reload(ctx context.Context) (Reloaded, error)
	// SetLogLevel puts level in force and gives the one before.
	SetLogLevel(level slog.Level) (previous slog.Level)
	// Members is the fleet as this node sees it, itself first; nothing for a lone node.
	Members() []node.Info
	// Explain says who would be asked for a model now.
	Explain(model string) Explanation
	// SetDrain takes the node out of service or back in; it fails while the node shuts down.
	SetDrain(drain bool) (node.State, error)
}

// Status is a node at one moment.
type Status struct {
	Node, Region, Cluster, Version string

	State      string // "starting", "ready" or "draining"
	Reason     string // why it is not ready, for people
	Health     string // "healthy", "degraded" or "unhealthy"
	Listeners  []Listener
	Models     []Model
	Checks     []Check
	LogLevel   slog.Level
	ConfigFile string
}

// Listener is one address the node listens on.
type Listener struct {
	Role    string // "public", "mesh", "admin" or "links"
	Address string
	TLS     bool
}

// Model is a configured model and its queue.
type Model struct {
	embedding.ModelInfo
	QueueRequests int
	QueueTokens   int
	QueueDelay    time.Duration // how long the oldest request has waited

	WorkerPID      int    // process that computes it; 0 when there is none of its own
	WorkerRSS      uint64 // its resident memory in bytes
	WorkerRestarts int    // times that it was started again since the daemon started
}

// Check is one thing the node depends on.
type Check struct {
	Name   string
	State  string // "ok", "failing" or "disabled"
	Reason string
}

// Reloaded says what a reload did.
type Reloaded struct {
	Applied      []string // settings that changed and are in force now
	NeedsRestart []string // settings that changed in the file only
}

// Config tunes a Server.
type Config struct {
	// Path of the socket, 107 bytes at most. Default DefaultPath.
	Path string
	// Mode of the socket. Default 0660.
	Mode fs.FileMode
	// Group that owns the socket, a name or a number. Default: the process's own.
	Group string
	// Started is when the process started. Default: when New was called.
	Started time.Time
	// Sync is how models arrive by themselves. Default nil: none does.
	Sync Sync
	// Logger gets net/http's complaints, at debug. Default: discarded.
	Logger *slog.Logger
}

// Server serves the control service.
type Server struct {
	cfg  Config
	http *http.Server

	mu     sync.Mutex
	ln     net.Listener // nil before Listen
	socket os.FileInfo  // the file that Listen made
}

// New makes a Server for a node.
func New(cfg Config, n Node) (*Server, error) {
	cfg.Path = cmp.Or(cfg.Path, DefaultPath)
	cfg.Mode = cmp.Or(cfg.Mode, 0o660)
	if cfg.Started.IsZero() {
		cfg.Started = time.Now()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if len(cfg.Path) > maxPath {
		return nil, fmt.Errorf("admin socket: the path may have %d bytes at most, %s has %d", maxPath, cfg.Path, len(cfg.Path))
	}
	mux := http.NewServeMux()
	mux.Handle(adminv1connect.NewAdminServiceHandler(&service{node: n, sync: cfg.Sync, started: cfg.Started}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return &Server{cfg: cfg, http: &http.Server{
		Handler:           http.MaxBytesHandler(mux, 1<<20),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
	}}, nil
}

// Listen makes the socket. It removes one that nobody answers on, and fails when somebody does or when the
// path is something else. Run calls it, unless it was called before.
func (s *Server) Listen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ln != nil {
		return nil
	}
	if err := clearPath(s.cfg.Path); err != nil {
		return fmt.Errorf("admin socket: %w", err)
	}
	if err := s.create(); err != nil {
		return fmt.Errorf("admin socket: %w", err)
	}
	return nil
}

// create makes the socket under another name and renames it when it has its owner and mode: at no moment can
// others open it.
func (s *Server) create() error {
	making := temporaryName(s.cfg.Path)
	if err := os.Remove(making); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: making, Net: "unix"})
	if err != nil {
		return err
	}
	ln.SetUnlinkOnClose(false) // it would remove the name that is gone, or a successor's
	fail := func(err error) error {
		return errors.Join(err, ln.Close(), os.Remove(making))
	}
	if s.cfg.Group != "" {
		gid, err := groupID(s.cfg.Group)
		if err != nil {
			return fail(err)
		}
		if err := os.Chown(making, -1, gid); err != nil {
			return fail(err)
		}
	}
	if err := os.Chmod(making, s.cfg.Mode); err != nil {
		return fail(err)
	}
	if s.socket, err = os.Lstat(making); err != nil {
		return fail(err)
	}
	if err := os.Rename(making, s.cfg.Path); err != nil {
		return fail(err)
	}
	s.ln = ln
	return nil
}

// temporaryName is a name beside path that is as long, so that it fits when path does.
func temporaryName(path string) string {
	last := "~"
	if strings.HasSuffix(path, last) {
		last = "_"
	}
	return path[:len(path)-1] + last
}

func groupID(group string) (int, error) {
	if gid, err := strconv.Atoi(group); err == nil {
		return gid, nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(g.Gid)
}

// clearPath makes sure that nothing is at path, removing a socket that a killed process left.
func clearPath(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is in the way: it is not a socket, remove it", path)
	}
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "unix", path)
	if err == nil {
		return errors.Join(fmt.Errorf("another akidbd answers on %s: stop it first, or give this one another path", path), conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("cannot tell whether another akidbd answers on %s: %w", path, err)
	}
	return os.Remove(path)
}

// Run serves until ctx ends, gives calls under way 5 s to finish and removes the socket.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Listen(); err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(s.ln) }()
	var err error
	select {
	case err = <-served:
		err = fmt.Errorf("admin socket: %w", err)
	case <-ctx.Done():
		grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err = s.http.Shutdown(grace); err != nil {
			err = errors.Join(fmt.Errorf("admin socket: calls were cut off: %w", err), s.http.Close())
		}
		if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
			err = errors.Join(err, serveErr)
		}
	}
	// A successor may have put its own socket there.
	if info, statErr := os.Lstat(s.cfg.Path); statErr == nil && os.SameFile(info, s.socket) {
		err = errors.Join(err, os.Remove(s.cfg.Path))
	}
	return err
}
