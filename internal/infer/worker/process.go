package worker

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/akidb/akidbd/internal/infer"
)

// process is one worker, seen from its host.
type process struct {
	host    *Host
	cmd     *exec.Cmd
	conn    net.Conn
	stderr  *os.File
	version string // of the library

	out frameWriter

	mu      sync.Mutex
	calls   map[uint64]*call
	last    uint64 // id of the last call
	idle    *sync.Cond
	closing bool
	dead    bool
	cause   error  // why it ended, nil while it lives and after a close
	reason  string // of the kill, "" when it was not ours
	detail  string

	control chan reply    // answers of hello and open
	done    chan struct{} // closed when it ended
	gone    chan struct{} // closed when nothing of it is left
	serving atomic.Bool   // it opened its model
	frames  atomic.Uint64 // that came
	rss     atomic.Uint64
}

type reply struct {
	kind kind
	data []byte
}

// A call is a run that waits for its answer.
type call struct {
	rows, dims int
	answer     chan result // holds one
}

type result struct {
	out      infer.Output
	err      error
	canceled bool
}

// spawn starts a worker; watch must follow. The thread that calls it must outlive the worker.
func spawn(h *Host) (*process, error) {
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err = errors.Join(err, ours.Close()); err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	defer w.Close()
	cmd := exec.Command(h.cfg.Command[0], h.cfg.Command[1:]...)
	cmd.Args[0] = h.cfg.Name
	cmd.Env = append(environment(os.Environ()), h.cfg.Environment...)
	cmd.Stderr = w
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = attributes()
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, conn.Close(), r.Close())
	}
	p := &process{
		host: h, cmd: cmd, conn: conn, out: frameWriter{w: conn}, stderr: r, calls: map[uint64]*call{},
		control: make(chan reply, 2), done: make(chan struct{}), gone: make(chan struct{}),
	}
	p.idle = sync.NewCond(&p.mu)
	return p, nil
}

// environment is what of ours a worker needs: to find native libraries, to choose a GPU, to debug. Nothing that may
// be a secret.
func environment(all []string) []string {
	var kept []string
	for _, kv := range all {
		name, _, _ := strings.Cut(kv, "=")
		switch {
		case name == "PATH", name == "HOME", name == "LD_LIBRARY_PATH", name == "TMPDIR", name == "TZ",
			name == "GOMAXPROCS", name == "GOMEMLIMIT", name == "GOTRACEBACK", name == "GODEBUG",
			strings.HasPrefix(name, "CUDA_"), strings.HasPrefix(name, "NVIDIA_"):
			kept = append(kept, kv)
		}
	}
	return kept
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// watch reads, looks and waits until the worker ended. It returns at once.
func (p *process) watch() {
	read, logged, waited := make(chan error, 1), make(chan string, 1), make(chan error, 1)
	go func() { read <- p.read() }()
	go func() { logged <- relay(p.stderr, p.host.log.With("worker_pid", p.pid()), time.Now) }()
	go func() { waited <- p.cmd.Wait() }()
	go func() {
		status := p.look(read, waited)
		_ = p.conn.Close()
		_ = p.stderr.SetReadDeadline(time.Now().Add(lookEvery)) // a process that it started may hold the other end
		headline := <-logged
		_ = p.stderr.Close()
		p.end(status, headline)
		p.host.forget(p)
		close(p.gone)
	}()
}

// look ends a worker that does not beat, and returns how it ended. read and waited get one value each.
func (p *process) look(read, waited <-chan error) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	seen, missed := p.frames.Load(), 0
	for {
		select {
		case err := <-waited:
			if read != nil {
				_ = p.conn.Close()
				<-read //nolint:errcheck // the connection was closed here
			}
			return err
		case err := <-read: // it is ending, or talks nonsense
			read, seen, missed = nil, p.frames.Load(), 0
			if errors.Is(err, errProtocol) {
				p.kill(reasonProtocol, err.Error())
			}
		case <-tick.C:
			// Looks are counted, not time: after a stop of the whole machine or of this process, what the worker
			// sent meanwhile is read before the next look.
			if now := p.frames.Load(); now != seen {
				seen, missed = now, 0
				continue
			}
			missed++
			limit := missedWhileLoading
			switch {
			case read == nil:
				limit = missedEnding
			case p.serving.Load():
				limit = missedLooks
			}
			switch {
			case missed == limit:
				p.kill(reasonHang, fmt.Sprintf("it did not beat for %v", time.Duration(missed)*lookEvery))
			case missed == missedStopped && stopped(p.pid()):
				p.kill(reasonHang, "it was stopped by a signal")
			}
		}
	}
}

// kill ends the worker now; why it died is what the first kill says.
func (p *process) kill(reason, detail string) {
	p.mu.Lock()
	if p.reason == "" && !p.dead {
		p.reason, p.detail = reason, detail
	}
	p.mu.Unlock()
	_ = p.cmd.Process.Kill() // fails only when it ended already
}

// discard ends a worker that got no model, and waits until nothing of it is left.
func (p *process) discard() {
	p.kill(reasonStuck, "it is not needed")
	<-p.gone
}

// end notes that the process is gone and fails what waits for it.
func (p *process) end(status error, headline string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = true
	reason := p.reason
	switch {
	case reason != "":
		p.cause = fmt.Errorf("worker %d was ended: %s", p.pid(), p.detail)
	case p.closing:
	default:
		reason = reasonCrash
		if s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() && s.Signal() == syscall.SIGKILL {
			reason = reasonKilled
		}
		what := "it ended by itself"
		if status != nil {
			what = status.Error()
		}
		if headline != "" {
			what += ", " + headline
		}
		p.cause = fmt.Errorf("worker %d died: %s", p.pid(), what)
	}
	if p.serving.Load() && reason != "" {
		p.host.metrics.restarts[reason].Inc()
	}
	close(p.done) // before the calls fail: who sees one fail must find the backend lost
	for id, c := range p.calls {
		delete(p.calls, id)
		c.answer <- result{err: p.lost()}
	}
	p.idle.Broadcast()
}

// lost is what calls get after the end. p.mu is held.
func (p *process) lost() error {
	if p.cause != nil {
		return p.cause
	}
	return errClosed
}

var (
	errClosed   = errors.New("the worker is closed")
	errProtocol = errors.New("the worker broke the protocol")
)

func (p *process) isDead() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// read takes frames until the socket ends.
func (p *process) read() error {
	r := bufio.NewReaderSize(p.conn, 64<<10)
	for {
		h, err := readHeader(r)
		if err != nil {
			return err
		}
		p.frames.Add(1)
		var c *call
		limit := maxMessage
		switch h.kind {
		case kindBeat:
			limit = beatBytes
		case kindVectors, kindFailed:
			if h.id != 0 {
				p.mu.Lock()
				c = p.calls[h.id]
				p.mu.Unlock()
				if c == nil {
					return fmt.Errorf("%w: it answers call %d, which does not wait", errProtocol, h.id)
				}
			}
			if h.kind == kindVectors && c != nil {
				limit = outHead + 4*c.rows*c.dims
			}
		case kindReady, kindOpened:
		default:
			return fmt.Errorf("%w: a frame of kind %d", errProtocol, h.kind)
		}
		data, err := readPayload(r, h, limit)
		if err != nil {
			return fmt.Errorf("%w: %w", errProtocol, err)
		}
		if err := p.take(h, c, data); err != nil {
			return fmt.Errorf("%w: %w", errProtocol, err)
		}
	}
}

func (p *process) take(h header, c *call, data []byte) error {
	if h.kind == kindBeat {
		if len(data) != beatBytes {
			return errors.New("a short beat")
		}
		p.rss.Store(binary.LittleEndian.Uint64(data))
		return nil
	}
	if c == nil { // of hello or open
		select {
		case p.control <- reply{h.kind, data}:
			return nil
		default:
			return errors.New("an answer that nothing was asked for")
		}
	}
	var res result
	if h.kind == kindVectors {
		vectors, err := parseVectors(data, c.rows, c.dims)
		if err != nil {
			return err
		}
		res.out.Vectors = vectors
	} else {
		if len(data) == 0 {
			return errors.New("an empty failure")
		}
		res.canceled, res.err = data[0] == 1, errors.New(string(data[1:]))
	}
	p.mu.Lock()
	delete(p.calls, h.id)
	if len(p.calls) == 0 {
		p.idle.Broadcast()
	}
	p.mu.Unlock()
	c.answer <- res
	return nil
}

// ask sends a request that only one caller makes at a time, and decodes its answer into v.
func (p *process) ask(ctx context.Context, k kind, request any, answer kind, v any) error {
	if err := p.out.sendJSON(k, request, maxJSON); err != nil {
		if p.waitDead() {
			return p.why()
		}
		return err
	}
	select {
	case r := <-p.control:
		switch r.kind {
		case answer:
			return json.Unmarshal(r.data, v)
		case kindFailed:
			return errors.New(string(r.data[min(1, len(r.data)):]))
		}
		return fmt.Errorf("%w: kind %d answers kind %d", errProtocol, r.kind, k)
	case <-p.done:
		return p.why()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// waitDead gives a worker whose socket broke a moment to end.
func (p *process) waitDead() bool {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-p.done:
		return true
	case <-timer.C:
		return false
	}
}

func (p *process) why() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost()
}

func (p *process) hello(ctx context.Context, h hello) error {
	var r ready
	if err := p.ask(ctx, kindHello, h, kindReady, &r); err != nil {
		return err
	}
	p.version = r.Version
	return nil
}

func (p *process) open(ctx context.Context, a infer.Artifact, opt infer.Options) (infer.Caps, error) {
	a.Spec.Golden, a.Spec.Prompts = nil, nil // the engine's
	var caps infer.Caps
	if err := p.ask(ctx, kindOpen, open{a, opt}, kindOpened, &caps); err != nil {
		return infer.Caps{}, err
	}
	if err := checkCaps(caps); err != nil {
		return infer.Caps{}, fmt.Errorf("%w: %w", errProtocol, err)
	}
	p.serving.Store(true)
	return caps, nil
}

// checkCaps keeps lengths that are computed from them within bounds.
func checkCaps(c infer.Caps) error {
	const most = 1 << 20
	if c.MaxTokens < 1 || c.MaxTokens > most || c.Dimensions < 1 || c.Dimensions > most || c.Lanes < 1 || c.Lanes > most || c.MaxRows < 0 {
		return fmt.Errorf("capabilities %+v are out of bounds", c)
	}
	return nil
}

// close ends the worker when its calls have ended: a frame, then SIGTERM, then SIGKILL.
func (p *process) close() error {
	p.mu.Lock()
	p.closing = true
	for len(p.calls) > 0 && !p.dead {
		p.idle.Wait()
	}
	p.mu.Unlock()
	if !p.isDead() {
		_ = p.conn.SetWriteDeadline(time.Now().Add(closeGrace)) // a stopped worker reads nothing
		_ = p.out.send(kindClose, 0, nil)
	}
	for _, step := range []struct {
		grace time.Duration
		then  func()
	}{
		{closeGrace, func() { _ = p.cmd.Process.Signal(syscall.SIGTERM) }},
		{termGrace, func() { p.kill(reasonStuck, "it did not end when it was told to") }},
		{killGrace, func() {}},
	} {
		timer := time.NewTimer(step.grace)
		select {
		case <-p.gone:
			timer.Stop()
			return nil
		case <-timer.C:
			step.then()
		}
	}
	return fmt.Errorf("worker %d did not end %v after SIGKILL", p.pid(), killGrace)
}
