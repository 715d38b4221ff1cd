//go:build systemd

package systemd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/akidb/akidbd/internal/testlog"
)

// cpuinfo is that of a Cortex-A72: ONNX Runtime reads it, and would crash on that of another architecture.
const cpuinfo = `processor	: 0
BogoMIPS	: 100.00
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x0
CPU part	: 0xd08
CPU revision	: 3

`

// TestARM64: the program and the library of the arm64 package compute what those of amd64 do.
func TestARM64(t *testing.T) {
	const cross = "/usr/aarch64-linux-gnu"
	sysroot := t.TempDir()
	check(t, os.CopyFS(filepath.Join(sysroot, "lib"), os.DirFS(filepath.Join(cross, "lib"))))
	check(t, os.Mkdir(filepath.Join(sysroot, "proc"), 0o755))
	check(t, os.WriteFile(filepath.Join(sysroot, "proc", "cpuinfo"), []byte(cpuinfo), 0o644))

	vectors := map[string][]float32{}
	for arch, emulator := range map[string][]string{"amd64": nil, "arm64": {"qemu-aarch64-static", "-L", sysroot}} {
		began := time.Now()
		vectors[arch] = vectorOf(t, arch, emulator)
		t.Logf("RESULT %s: %d dimensions after %v", arch, len(vectors[arch]), time.Since(began).Round(10*time.Millisecond))
	}
	c := cosine(vectors["amd64"], vectors["arm64"])
	t.Logf("RESULT cosine of amd64 and arm64: %.9f", c)
	if !(c > 0.99999) || len(vectors["arm64"]) != 384 {
		t.Errorf("cosine of amd64 and arm64 is %v, of %d dimensions", c, len(vectors["arm64"]))
	}
}

// vectorOf starts the program of an architecture and asks it for the vector of a sentence.
func vectorOf(t *testing.T, arch string, emulator []string) []float32 {
	t.Helper()
	stage := filepath.Join(need(t, "AKIDB_E2E_DIST"), "stage", arch)
	library, err := filepath.Glob(filepath.Join(stage, "lib", "libonnxruntime.so*"))
	if err != nil || len(library) != 1 {
		t.Fatalf("%s: %v %v", stage, library, err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	address := free.Addr().String()
	check(t, free.Close())
	dir := t.TempDir()
	config := filepath.Join(dir, "akidbd.yaml")
	// In one process: under an emulator a program cannot start itself.
	check(t, os.WriteFile(config, fmt.Appendf(nil, `
node: {name: qemu, region: lab}
listen: [{address: %q}]
admin: {socket: %[2]s/admin.sock}
state_dir: %[2]s/state
cache_dir: %[2]s/cache
engine: {library_path: %[3]s, isolation: none}
drain_delay: 0s
models: [{name: minilm, path: %[4]s}]
`, address, dir, library[0], need(t, "AKIDB_TEST_MODEL")), 0o644))
	args := append(emulator, filepath.Join(stage, "akidbd"), "serve", "--config", config)
	var log testlog.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env = &log, &log, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	check(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	alive := func() bool { return cmd.Process.Signal(syscall.Signal(0)) == nil }
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("%s ended with %v\n%s", arch, err, log.String())
			}
		case <-time.After(15 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
			t.Errorf("%s did not end\n%s", arch, log.String())
		}
	}()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		res, err := http.Post("http://"+address+"/api/v1/embed", "application/json", bytes.NewReader([]byte(`{"texts": ["Hello from a Jetson, wherever it may be."]}`)))
		if err == nil {
			data, _ := io.ReadAll(res.Body)
			res.Body.Close()
			var a answer
			if res.StatusCode == http.StatusOK && json.Unmarshal(data, &a) == nil && len(a.Embeddings) == 1 {
				http.DefaultClient.CloseIdleConnections()
				return a.Embeddings[0]
			}
			err = fmt.Errorf("status %d: %.300s", res.StatusCode, data)
		}
		if time.Now().After(end) || !alive() {
			t.Fatalf("%s: no vector within a minute: %v\n%s", arch, err, log.String())
		}
	}
}
