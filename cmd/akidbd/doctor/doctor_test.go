package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/akidb/akidbd/internal/config"
	"github.com/akidb/akidbd/internal/pki"
)

// bench is a machine on which everything is well; tests break one thing each.
type bench struct {
	unsynchronized bool
	binds          map[string]error // by address
	free           uint64
	readOnly       bool
	programs       map[string]string // what they print, by name
	groups         map[string]string // of files, by base name
	hosts          map[string]bool
	uid            int
}

func (b *bench) synchronized() (bool, error)                     { return !b.unsynchronized, nil }
func (b *bench) bind(_ context.Context, _, address string) error { return b.binds[address] }
func (b *bench) space(string) (total, free uint64, readOnly bool, err error) {
	return 64 << 30, b.free, b.readOnly, nil
}
func (b *bench) run(_ context.Context, name string, _ ...string) (string, error) {
	out, ok := b.programs[name]
	if !ok {
		return "", fmt.Errorf("exec: %q: not found", name)
	}
	return out, nil
}
func (b *bench) group(info fs.FileInfo) string    { return b.groups[info.Name()] }
func (b *bench) owner(fs.FileInfo) (uid, gid int) { return b.uid, b.uid }
func (b *bench) lookup(_ context.Context, host string) ([]string, error) {
	if b.hosts[host] {
		return []string{"10.0.0.1"}, nil
	}
	return nil, errors.New("no such host")
}

func file(text string) *fstest.MapFile            { return &fstest.MapFile{Data: []byte(text)} }
func deviceFile(mode fs.FileMode) *fstest.MapFile { return &fstest.MapFile{Mode: fs.ModeDevice | mode} }

// orin is the files of a Jetson Orin Nano with JetPack 6.
func orin() fstest.MapFS {
	return fstest.MapFS{
		"proc/device-tree/compatible":                          file("nvidia,p3768-0000+p3767-0005\x00nvidia,tegra234\x00"),
		"proc/device-tree/model":                               file("NVIDIA Jetson Orin Nano Developer Kit\x00"),
		"etc/nv_tegra_release":                                 file("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n"),
		"etc/os-release":                                       file("NAME=Ubuntu\nPRETTY_NAME=\"Ubuntu 22.04.5 LTS\"\n"),
		"proc/meminfo":                                         file("MemTotal:        7802828 kB\n"),
		"proc/sys/net/core/rmem_max":                           file("7500000\n"),
		"proc/sys/net/core/wmem_max":                           file("7500000\n"),
		"proc/sys/kernel/core_pattern":                         file("core\n"),
		"sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": file("1510400\n"),
		"sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": file("1510400\n"),
		"sys/class/thermal/thermal_zone0/type":                 file("cpu-thermal\n"),
		"sys/class/thermal/thermal_zone0/temp":                 file("48250\n"),
		"sys/class/thermal/thermal_zone0/trip_point_0_type":    file("passive\n"),
		"sys/class/thermal/thermal_zone0/trip_point_0_temp":    file("99000\n"),
		"sys/class/thermal/cooling_device0/type":               file("pwm-fan\n"),
		"sys/class/thermal/cooling_device0/cur_state":          file("1\n"),
		"sys/class/thermal/cooling_device0/max_state":          file("3\n"),
		"sys/class/thermal/cooling_device1/type":               file("cpufreq-cpu0\n"),
		"sys/class/thermal/cooling_device1/cur_state":          file("0\n"),
		"sys/class/thermal/cooling_device1/max_state":          file("26\n"),
		"sys/class/hwmon/hwmon1/oc1_event_cnt":                 file("0\n"),
		"dev/nvhost-gpu":                                       deviceFile(0o660),
		"dev/nvmap":                                            deviceFile(0o660),
		"dev/dri/renderD128":                                   deviceFile(0o660),
	}
}

// well is a Jetson that serves on TensorRT, with the file system of its libraries in dir.
func well(t *testing.T) (*Machine, *bench) {
	t.Helper()
	sys := &bench{
		free: 32 << 30, uid: 990, hosts: map[string]bool{},
		programs: map[string]string{"nvpmodel": "NV Power Mode: MAXN_SUPER\n2", "/sbin/ldconfig": "\tlibcudart.so.12 (libc6) => /x\n"},
		groups:   map[string]string{"nvhost-gpu": "video", "nvmap": "video", "renderD128": "render"},
	}
	cfg := config.Default()
	cfg.Models = []config.Model{{Name: "minilm", Path: "/m"}}
	m := &Machine{
		Files: orin(), Arch: "arm64", Config: cfg, ConfigFile: "/etc/akidbd/akidbd.yaml", Now: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC),
		Library: func(string) (string, string, error) {
			return filepath.Join(t.TempDir(), "libonnxruntime.so"), "1.23.0", nil
		},
		Node: func(context.Context) (Node, error) {
			return Node{State: "ready", Health: "healthy", Listens: []string{"[::]:8080"}, Models: []Model{{"minilm", "ready", "cuda"}}}, nil
		},
		User: Owner{Name: "akidb", UID: 990, GIDs: []int{990}}, sys: sys,
	}
	return m, sys
}

// find gives the worst finding of a check.
func find(t *testing.T, r Report, check string) Finding {
	t.Helper()
	var worst *Finding
	for _, f := range r.Findings {
		if f.Check == check && (worst == nil || worse(worst.Level, f.Level) != worst.Level) {
			worst = &f
		}
	}
	if worst == nil {
		t.Fatalf("nothing about %s in %+v", check, r.Findings)
	}
	return *worst
}

func expect(t *testing.T, m *Machine, check string, level Level, part string) {
	t.Helper()
	f := find(t, Examine(t.Context(), *m), check)
	if f.Level != level || !strings.Contains(f.Found, part) {
		t.Errorf("%s: %s %q, want %s and %q", check, f.Level, f.Found, level, part)
	}
	if (level == Yellow || level == Red) && f.Do == "" {
		t.Errorf("%s: nothing to do about %q", check, f.Found)
	}
}

func TestWell(t *testing.T) {
	m, _ := well(t)
	m.Config.Engine.Providers = []string{"cuda"}
	r := Examine(t.Context(), *m)
	if want := "NVIDIA Jetson Orin Nano Developer Kit, JetPack 6 (L4T R36.4.3), Ubuntu 22.04.5 LTS, arm64, 1 core, 7.4 GiB of memory"; r.Machine != want {
		t.Errorf("machine %q", r.Machine)
	}
	for _, f := range r.Findings {
		if f.Level == Yellow || f.Level == Red && f.Check != "provider cuda" {
			t.Errorf("%+v", f)
		}
	}
	expect(t, m, "provider cuda", Red, "libonnxruntime_providers_cuda.so")
}

func TestFaults(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Machine, *bench)
		check  string
		level  Level
		part   string
	}{
		"bad file": {func(m *Machine, _ *bench) { m.Config, m.ConfigErr = nil, errors.New("akidbd.yaml:3: engine.thread") }, "configuration", Red, "akidbd.yaml:3"},
		"no library": {func(m *Machine, _ *bench) {
			m.Library = func(string) (string, string, error) { return "", "", errors.New("no ONNX Runtime") }
		}, "library", Red, "no ONNX Runtime"},
		"not running": {func(m *Machine, _ *bench) {
			m.Node = func(context.Context) (Node, error) { return Node{}, errors.New("no akidbd listens") }
		}, "daemon", Yellow, "no akidbd listens"},
		"a Jetson on its CPU": {func(m *Machine, _ *bench) {}, "accelerator", Red, "engine.providers is [cpu]"},
		"fallback": {func(m *Machine, _ *bench) {
			m.Config.Engine.Providers = []string{"tensorrt"}
			m.Node = func(context.Context) (Node, error) {
				return Node{State: "ready", Health: "degraded", Models: []Model{{"minilm", "ready", "cpu"}}}, nil
			}
		}, "accelerator", Red, "model minilm runs on the CPU"},
		"no devices": {func(m *Machine, _ *bench) {
			files := orin()
			delete(files, "dev/nvhost-gpu")
			delete(files, "dev/nvmap")
			m.Files = files
		}, "accelerator", Red, "without device files"},
		"15 W": {func(_ *Machine, b *bench) { b.programs["nvpmodel"] = "NV Power Mode: 15W\n0" }, "power mode", Yellow, "15W"},
		"hot": {func(m *Machine, _ *bench) {
			m.Files.(fstest.MapFS)["sys/class/thermal/thermal_zone0/temp"] = file("99500")
		}, "throttling", Yellow, "cpu-thermal has 99 °C"},
		"held back": {func(m *Machine, _ *bench) {
			m.Files.(fstest.MapFS)["sys/class/thermal/cooling_device1/cur_state"] = file("4")
		}, "throttling", Yellow, "cpufreq-cpu0"},
		"weak supply": {func(m *Machine, _ *bench) { m.Files.(fstest.MapFS)["sys/class/hwmon/hwmon1/oc1_event_cnt"] = file("7") }, "throttling", Yellow, "7 over-current events"},
		"capped": {func(m *Machine, _ *bench) {
			m.Files.(fstest.MapFS)["sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq"] = file("729600")
		}, "throttling", Yellow, "1 core may not"},
		"cores off": {func(m *Machine, _ *bench) { m.Files.(fstest.MapFS)["sys/devices/system/cpu/offline"] = file("4-5\n") }, "throttling", Yellow, "4-5"},
		"buffers": {func(m *Machine, _ *bench) {
			m.Config.PKI.Dir = "/none"
			m.Files.(fstest.MapFS)["proc/sys/net/core/rmem_max"] = file("212992")
		}, "udp buffers", Yellow, "212992"},
		"buffers of a lone node": {func(m *Machine, _ *bench) { m.Files.(fstest.MapFS)["proc/sys/net/core/rmem_max"] = file("212992") }, "udp buffers", Skipped, "212992"},
		"no time":                {func(_ *Machine, b *bench) { b.unsynchronized = true }, "clock", Yellow, "nothing keeps it right"},
		"1970":                   {func(m *Machine, _ *bench) { m.Now = time.Unix(60, 0) }, "clock", Red, "1970-01-01"},
		"port taken": {func(m *Machine, b *bench) {
			m.Node = func(context.Context) (Node, error) { return Node{}, errors.New("none") }
			b.binds = map[string]error{":8080": syscall.EADDRINUSE}
		}, "ports", Red, "another program"},
		"low port": {func(m *Machine, b *bench) {
			m.Config.Listen[0].Address = ":443"
			b.binds = map[string]error{":443": os.ErrPermission}
		}, "ports", Red, "privileges"},
		"changed port":    {func(m *Machine, _ *bench) { m.Config.Listen[0].Address = ":9090" }, "ports", Yellow, "does not listen there"},
		"no certificates": {func(m *Machine, _ *bench) { m.Config.PKI.Dir = "/none" }, "certificates", Red, "/none"},
		"bucket": {func(m *Machine, _ *bench) {
			m.Bucket = func(context.Context) (string, error) { return "s3://models", errors.New("403") }
		}, "bucket", Red, "s3://models: 403"},
		"bucket of the daemon": {func(m *Machine, _ *bench) {
			m.Bucket = func(context.Context) (string, error) { return "", errors.New("no credentials for this user") }
			m.Node = func(context.Context) (Node, error) { return Node{Bucket: true}, nil }
		}, "bucket", Green, "the daemon reads it"},
		"bucket that the daemon cannot read": {func(m *Machine, _ *bench) {
			m.Bucket = func(context.Context) (string, error) { return "s3://models", nil }
			m.Node = func(context.Context) (Node, error) {
				return Node{Bucket: true, Checks: map[string]string{"s3": "403"}}, nil
			}
		}, "bucket", Red, "403"},
		"alone": {func(m *Machine, _ *bench) {
			m.Config.PKI.Dir, m.Config.Gossip.Seeds = "/none", []string{"seed.example.org:7946"}
		}, "peers", Red, "nobody is there"},
		"a peer is away": {func(m *Machine, _ *bench) {
			m.Config.PKI.Dir = "/none"
			m.Node = func(context.Context) (Node, error) {
				return Node{Peers: []Peer{{Name: "eu-1", Up: true}, {Name: "us-1", Cause: "timeout"}}}, nil
			}
		}, "peers", Yellow, "1 of 2 other nodes are linked; not us-1 (timeout)"},
		"disk full": {func(_ *Machine, b *bench) { b.free = 100 << 20 }, "disk", Red, "0.1 GiB"},
		"disk low":  {func(_ *Machine, b *bench) { b.free = 1 << 30 }, "disk", Yellow, "1.0 GiB"},
		"read-only": {func(_ *Machine, b *bench) { b.readOnly = true }, "disk", Red, "read-only"},
		"unhealthy": {func(m *Machine, _ *bench) {
			m.Node = func(context.Context) (Node, error) {
				return Node{State: "starting", Health: "unhealthy", Reason: "no model is configured"}, nil
			}
		}, "daemon", Red, "no model is configured"},
	} {
		t.Run(name, func(t *testing.T) {
			m, sys := well(t)
			c.change(m, sys)
			expect(t, m, c.check, c.level, c.part)
		})
	}
}

// TestCertificates with real ones: good, soon at their end, and a key that the daemon may not read.
func TestCertificates(t *testing.T) {
	m, sys := well(t)
	dir := t.TempDir()
	ca, err := pki.Init(filepath.Join(dir, "ca"), "akidb.local", 365*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	m.Config.PKI.Dir = filepath.Join(dir, "eu-1")
	if _, err := ca.Issue("eu-1", "eu", m.Config.PKI.Dir, 30*24*time.Hour); err != nil {
		t.Fatal(err)
	}
	m.Now = time.Now()
	expect(t, m, "certificates", Green, "spiffe://akidb.local/akidb/node/eu/eu-1")
	m.Now = time.Now().Add(20 * 24 * time.Hour)
	expect(t, m, "certificates", Yellow, "days left")
	m.Config.PKI.RenewURL = "https://ca:7947"
	expect(t, m, "certificates", Green, "spiffe")
	sys.uid = 0
	expect(t, m, "certificates", Red, "cannot be read by the daemon's user, akidb")
}

func TestDropIn(t *testing.T) {
	m, _ := well(t)
	got := DropIn(*m)
	for _, want := range []string{
		"[Service]\n", "PrivateDevices=no\n", "ProtectClock=no\n", "DevicePolicy=closed\n", "DeviceAllow=/dev/nvhost-gpu rw\n",
		"DeviceAllow=/dev/nvmap rw\n", "DeviceAllow=/dev/dri/renderD128 rw\n", "SupplementaryGroups=render video\n", "LimitMEMLOCK=infinity\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	m.Files = fstest.MapFS{"dev/dri/renderD128": deviceFile(0o660)}
	if got := DropIn(*m); got != "" {
		t.Errorf("for a machine without NVIDIA:\n%s", got)
	}
}

func TestOutput(t *testing.T) {
	m, sys := well(t)
	sys.free = 1
	r := Examine(t.Context(), *m)
	var text bytes.Buffer
	r.Print(&text, false)
	if !strings.Contains(text.String(), "XX disk") || !strings.Contains(text.String(), "-> free some space") || strings.Contains(text.String(), "\x1b") {
		t.Errorf("%s", text.String())
	}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back struct {
		Level    string
		Findings []struct{ Check, Level, Found, Do string }
	}
	if err := json.Unmarshal(data, &back); err != nil || back.Level != "red" || len(back.Findings) != len(r.Findings) {
		t.Errorf("%v %s", err, data)
	}
}

// TestThisMachine: on the machine of the test nothing panics, whatever it is.
func TestThisMachine(t *testing.T) {
	m := Machine{
		Files: os.DirFS("/"), Arch: "amd64", Config: config.Default(), Now: time.Now(), User: Owner{Name: "akidb", UID: -1},
		Library: func(string) (string, string, error) { return "", "", errors.New("none") },
		Node:    func(context.Context) (Node, error) { return Node{}, errors.New("none") },
	}
	if r := Examine(t.Context(), m); len(r.Findings) < 10 {
		t.Errorf("%+v", r)
	}
	_ = DropIn(m)
}
