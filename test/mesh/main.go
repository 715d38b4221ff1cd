// Command mesh starts a fleet on this machine: four akidbd nodes in two regions on loopback, with certificates
// made on the spot, and says what to try. It is what `make mesh` runs; Ctrl-C ends it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// fleet is who is started: HTTP on 127.0.0.1:8081 and on, links on UDP 7941 and on.
var fleet = []struct{ name, region string }{
	{"eu-1", "eu-central"}, {"eu-2", "eu-central"}, {"us-1", "us-west"}, {"us-2", "us-west"},
}

func httpPort(i int) int { return 8081 + i }
func linkPort(i int) int { return 7941 + i }

func main() {
	bin := flag.String("bin", "bin/akidbd", "the akidbd to start")
	library := flag.String("library", "", "the ONNX Runtime library")
	model := flag.String("model", "", "the directory of a model")
	dir := flag.String("dir", "", "where certificates, state and logs are kept")
	once := flag.Bool("once", false, "end when the fleet is whole")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, *library, *model, *dir, *once); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "mesh:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin, library, model, dir string, once bool) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	if err := certificates(ctx, bin, dir); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	ended := make(chan error, len(fleet))
	for i := range fleet {
		cmd, err := start(ctx, i, bin, library, model, dir)
		if err != nil {
			return err
		}
		running.Go(func() {
			ended <- fmt.Errorf("node %s ended: %w; its log is %s", fleet[i].name, cmd.Wait(), logFile(dir, i))
		})
	}
	whole := make(chan error, 1)
	running.Go(func() { whole <- waitWhole(ctx) })
	select {
	case err := <-ended:
		return err
	case err := <-whole:
		if err != nil {
			return err
		}
	}
	sayWhatToTry(bin, dir)
	if once {
		return nil
	}
	for alive := len(fleet); alive > 0; alive-- { // killing nodes is what people try
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			fmt.Println(err)
		}
	}
	return errors.New("no node is left")
}

// certificates makes a CA and one certificate for each node, unless they are there.
func certificates(ctx context.Context, bin, dir string) error {
	ca := filepath.Join(dir, "ca")
	if _, err := os.Stat(ca); err != nil {
		if err := command(ctx, bin, "pki", "init", "--dir", ca); err != nil {
			return err
		}
	}
	for _, n := range fleet {
		out := filepath.Join(dir, n.name, "pki")
		if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
			return err
		}
		if err := command(ctx, bin, "pki", "issue", "--ca", ca, "--node", n.name, "--region", n.region, "--out", out); err != nil {
			return err
		}
	}
	return nil
}

func command(ctx context.Context, bin string, args ...string) error {
	out, err := exec.CommandContext(ctx, bin, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("akidbd %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func logFile(dir string, i int) string { return filepath.Join(dir, fleet[i].name, "log") }

func socket(dir string, i int) string { return filepath.Join(dir, fleet[i].name, "admin.sock") }

func start(ctx context.Context, i int, bin, library, model, dir string) (*exec.Cmd, error) {
	home := filepath.Join(dir, fleet[i].name)
	file := filepath.Join(home, "akidbd.yaml")
	seeds := make([]string, 0, len(fleet)-1)
	for j := range fleet {
		if j != i {
			seeds = append(seeds, fmt.Sprintf("127.0.0.1:%d", linkPort(j)))
		}
	}
	text := fmt.Sprintf(`listen: [{address: "127.0.0.1:%d"}]
admin: {socket: %q}
log: {format: text}
state_dir: %q
cache_dir: %q
drain_delay: 0s
engine: {library_path: %q, threads: 1}
models: [{name: all-MiniLM-L6-v2, path: %q}]
pki: {dir: %q}
peer: {address: "127.0.0.1:%d"}
gossip: {seeds: [%s]}
`, httpPort(i), socket(dir, i), filepath.Join(home, "state"), filepath.Join(home, "cache"), library, model,
		filepath.Join(home, "pki"), linkPort(i), strings.Join(seeds, ", "))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(logFile(dir, i))
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own
	cmd := exec.CommandContext(ctx, bin, "serve", "--config", file)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is ours to pass on
	return cmd, cmd.Start()
}

// waitWhole waits until every node is ready.
func waitWhole(ctx context.Context) error {
	for i := range fleet {
		url := fmt.Sprintf("http://127.0.0.1:%d/readyz", httpPort(i))
		for deadline := time.Now().Add(time.Minute); ; {
			if ready(ctx, url) {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("node %s is not ready after a minute: see its log", fleet[i].name)
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(50 * time.Millisecond):
			}
		}
		fmt.Printf("%s  ready  %-11s http://127.0.0.1:%d\n", fleet[i].name, fleet[i].region, httpPort(i))
	}
	return nil
}

func ready(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, res.Body)
	return res.Body.Close() == nil && res.StatusCode == http.StatusOK
}

func sayWhatToTry(bin, dir string) {
	if here, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(here, bin); err == nil {
			bin = rel
		}
	}
	fmt.Printf(`
four nodes, two regions. Try:

  %[1]s status --socket %[2]s
  curl -si http://127.0.0.1:8081/api/v1/embed -d '{"text": "Hello world"}' | grep -i -e x-akidb -e HTTP
  %[1]s drain --socket %[2]s       # the same request is now answered by a peer
  %[1]s explain --socket %[2]s     # who would be asked, and why not the others
  %[1]s bench --url http://127.0.0.1:8081 --clients 4      # and kill nodes meanwhile

logs: %[3]s/*/log    Ctrl-C ends the fleet
`, bin, socket(dir, 0), dir)
}
