//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/akidb/akidbd/internal/testlog"
)

// region is a part of a fleet with an S3 server of its own.
type region struct {
	name string
	data string // of the S3 server
	s3   *exec.Cmd
	addr string
}

// syncFleet is nodes in regions, all of which serve one model that arrives by itself.
type syncFleet struct {
	t       *testing.T
	dir     string
	model   string
	more    string // of the configuration of every node
	regions []*region
	nodes   []*node
	names   []string // of the nodes
	links   []string // their addresses
}

const s3Secret = "a-secret-of-the-test"

// newSyncFleet starts an S3 server for each region and each nodes in it.
func newSyncFleet(t *testing.T, model string, each int, regions ...string) *syncFleet {
	t.Helper()
	f := &syncFleet{t: t, dir: t.TempDir(), model: model}
	f.akidbd(nil, "pki", "init", "--dir", filepath.Join(f.dir, "ca"))
	for _, name := range regions {
		r := &region{name: name, data: filepath.Join(f.dir, "s3-"+name), addr: freeAddress(t, "tcp")}
		if err := os.MkdirAll(filepath.Join(r.data, "models-"+name), 0o755); err != nil {
			t.Fatal(err)
		}
		f.regions = append(f.regions, r)
		f.startS3(r)
		for i := range each {
			f.names = append(f.names, fmt.Sprintf("%s-%d", name, i))
			f.links = append(f.links, freeAddress(t, "udp"))
		}
	}
	return f
}

func freeAddress(t *testing.T, network string) string {
	t.Helper()
	if network == "udp" {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.LocalAddr().String()
	}
	l, err := net.Listen(network, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (f *syncFleet) startS3(r *region) {
	f.t.Helper()
	r.s3 = exec.Command(need(f.t, "AKIDB_TEST_VERSITYGW"), "--port", r.addr, "--quiet", "posix", r.data)
	r.s3.Env = append(os.Environ(), "ROOT_ACCESS_KEY=akidb", "ROOT_SECRET_KEY="+s3Secret)
	if err := r.s3.Start(); err != nil {
		f.t.Fatal(err)
	}
	s3 := r.s3
	f.t.Cleanup(func() { f.stopS3(s3) })
	for range 500 {
		if c, err := net.Dial("tcp", r.addr); err == nil {
			_ = c.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	f.t.Fatalf("the S3 server of %s does not listen", r.name)
}

func (f *syncFleet) stopS3(s3 *exec.Cmd) {
	_ = s3.Process.Kill()
	_ = s3.Wait()
}

func (f *syncFleet) regionOf(i int) *region { return f.regions[i*len(f.regions)/len(f.names)] }

// startNodes starts all nodes and waits until each answers its admin socket.
func (f *syncFleet) startNodes() {
	f.t.Helper()
	for i, name := range f.names {
		home := filepath.Join(f.dir, name)
		if err := os.MkdirAll(home, 0o755); err != nil {
			f.t.Fatal(err)
		}
		f.akidbd(nil, "pki", "issue", "--ca", filepath.Join(f.dir, "ca"), "--node", name, "--region", f.regionOf(i).name, "--out", filepath.Join(home, "pki"))
		f.nodes = append(f.nodes, f.startNode(i))
	}
	for i, n := range f.nodes {
		n.url = n.address()
		n.until(20*time.Second, func() bool { return f.linksUp(i) == len(f.names)-1 })
	}
}

func (f *syncFleet) linksUp(i int) (up int) {
	var members struct{ Members []struct{ Link string } }
	out, err := f.try(i, "members", "--json")
	if err != nil || json.Unmarshal(out, &members) != nil {
		return -1
	}
	for _, m := range members.Members {
		if m.Link == "up" {
			up++
		}
	}
	return up
}

func (f *syncFleet) startNode(i int) *node {
	f.t.Helper()
	home := filepath.Join(f.dir, f.names[i])
	own := f.regionOf(i)
	var remotes strings.Builder
	for _, r := range f.regions {
		if r != own {
			fmt.Fprintf(&remotes, "\n  - {region: %s, bucket: \"s3://models-%s\", endpoint: \"http://%s\", path_style: true}", r.name, r.name, r.addr)
		}
	}
	n := &node{t: f.t, socket: filepath.Join(home, "admin.sock"), config: filepath.Join(home, "akidbd.yaml"), log: &testlog.Buffer{}, ended: make(chan error, 1)}
	n.configure(fmt.Sprintf(`
listen: [{address: "127.0.0.1:0"}]
admin: {socket: %[1]s/admin.sock}
state_dir: %[1]s/state
cache_dir: %[1]s/cache
log: {level: debug, format: json}
engine: {library_path: %[2]s, threads: 1}
drain_delay: 0s
models: [{name: %[3]s}]
pki: {dir: %[1]s/pki}
peer: {address: "%[4]s"}
gossip: {seeds: [%[5]s]}
sync:
  bucket: s3://models-%[6]s
  endpoint: http://%[7]s
  path_style: true
  remotes: %[8]s
%[9]s`, home, need(f.t, "AKIDB_TEST_ORT"), f.model, f.links[i], strings.Join(f.links, ", "), own.name, own.addr, orNone(remotes.String()), f.more))
	n.cmd = exec.Command(need(f.t, "AKIDB_TEST_BIN"), "serve", "--config", n.config)
	n.cmd.Stderr = n.log
	n.cmd.Env = f.environment(home)
	if err := n.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	go func() { n.ended <- n.cmd.Wait() }()
	f.t.Cleanup(n.kill)
	return n
}

func orNone(s string) string {
	if s == "" {
		return "[]"
	}
	return s
}

func (f *syncFleet) environment(home string) []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "AWS_ACCESS_KEY_ID=akidb", "AWS_SECRET_ACCESS_KEY=" + s3Secret,
		"AWS_EC2_METADATA_DISABLED=true", "AWS_REGION=us-east-1",
	}
}

// akidbd runs a command that must succeed.
func (f *syncFleet) akidbd(env []string, args ...string) []byte {
	f.t.Helper()
	cmd := exec.Command(need(f.t, "AKIDB_TEST_BIN"), args...)
	cmd.Env = append(f.environment(f.dir), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		f.t.Fatalf("akidbd %s: %v: %s%s", strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return out
}

// try runs a command beside a node.
func (f *syncFleet) try(i int, args ...string) ([]byte, error) {
	cmd := exec.Command(need(f.t, "AKIDB_TEST_BIN"), args...)
	cmd.Env = append(f.environment(f.dir), "AKIDB_CONFIG="+f.nodes[i].config, "AKIDB_ADMIN_SOCKET="+f.nodes[i].socket)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.Bytes())
	}
	return out, err
}

// published is the answer of a command that published something.
type published struct {
	Digest, Manifest, Where string
	Serving                 bool
	Seconds                 float64
}

// run runs `akidbd model ...` beside a node.
func (f *syncFleet) run(i int, args ...string) published {
	f.t.Helper()
	out, err := f.try(i, append([]string{"model"}, append(args, "--json")...)...)
	if err != nil {
		f.t.Fatalf("akidbd model %s: %v", strings.Join(args, " "), err)
	}
	var p published
	if err := json.Unmarshal(out, &p); err != nil {
		f.t.Fatalf("%v in %s", err, out)
	}
	return p
}

type syncStatus struct {
	Models []struct {
		Name, Serving, Wanted string
		Trouble               []struct {
			Digest, Reason, Text string
			Quarantined          bool
		}
	}
	Buckets []struct{ Name, Error string }
	Backlog int
}

func (f *syncFleet) status(i int) syncStatus {
	f.t.Helper()
	out, err := f.try(i, "model", "status", "--json")
	if err != nil {
		f.t.Fatal(err)
	}
	var s syncStatus
	if err := json.Unmarshal(out, &s); err != nil {
		f.t.Fatalf("%v in %s", err, out)
	}
	return s
}

// serves waits until a node serves a digest, as its metrics and models say, and gives the time of it.
func (f *syncFleet) serves(i int, digest string, limit time.Duration) time.Time {
	f.t.Helper()
	f.nodes[i].until(limit, func() bool { return f.status(i).Models[0].Serving == digest })
	return time.Now()
}

// keys lists the objects of a region's bucket.
func (f *syncFleet) keys(r *region) string {
	f.t.Helper()
	var keys []string
	root := filepath.Join(r.data, "models-"+r.name)
	err := filepath.WalkDir(root, func(p string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() && strings.HasPrefix(p, filepath.Join(root, "models")) {
			keys = append(keys, strings.TrimPrefix(p, root))
		}
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return strings.Join(keys, "\n")
}

// metric reads one value of a node's metrics.
func (n *node) metric(name string) float64 {
	n.t.Helper()
	var value float64
	for line := range strings.Lines(string(n.get("/metrics"))) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			if _, err := fmt.Sscan(rest, &value); err != nil {
				n.t.Fatal(err)
			}
			return value
		}
	}
	n.t.Fatalf("no metric %s", name)
	return 0
}
