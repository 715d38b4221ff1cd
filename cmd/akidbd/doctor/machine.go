package doctor

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

// read gives a file of /proc, /sys and the like, without what is around it; "" when there is none.
func read(files fs.FS, name string) string {
	data, err := fs.ReadFile(files, strings.TrimPrefix(name, "/"))
	if err != nil {
		return ""
	}
	return strings.Trim(string(data), " \t\r\n\x00")
}

// number reads a file with one number; ok is false when there is none.
func number(files fs.FS, name string) (n int64, ok bool) {
	n, err := strconv.ParseInt(read(files, name), 10, 64)
	return n, err == nil
}

// glob lists the files that match, with a leading slash.
func glob(files fs.FS, pattern string) []string {
	found, _ := fs.Glob(files, strings.TrimPrefix(pattern, "/"))
	for i := range found {
		found[i] = "/" + found[i]
	}
	return found
}

func exists(files fs.FS, name string) bool {
	_, err := fs.Stat(files, strings.TrimPrefix(name, "/"))
	return err == nil
}

// Board is what the board of a Jetson is called, "" on other machines.
func Board() string { return tegra(os.DirFS("/")) }

// tegra is what the board of a Jetson is called, "" on other machines.
func tegra(files fs.FS) string {
	compatible := read(files, "/proc/device-tree/compatible")
	if !strings.Contains(compatible, "nvidia,tegra") && !exists(files, "/etc/nv_tegra_release") {
		return ""
	}
	if model := read(files, "/proc/device-tree/model"); model != "" {
		return model
	}
	return "NVIDIA Tegra"
}

// l4t is the release of a Jetson's system as NVIDIA counts it, "R36.4", and the JetPack it belongs to.
func l4t(files fs.FS) (release, jetpack string) {
	// # R36 (release), REVISION: 4.3, GCID: ...
	line, _, _ := strings.Cut(read(files, "/etc/nv_tegra_release"), "\n")
	major, rest, ok := strings.Cut(strings.TrimPrefix(line, "# "), " (release), REVISION: ")
	if !ok {
		return "", ""
	}
	revision, _, _ := strings.Cut(rest, ",")
	jetpack = map[string]string{"R32": "JetPack 4", "R35": "JetPack 5", "R36": "JetPack 6", "R38": "JetPack 7", "R39": "JetPack 7"}[major]
	return major + "." + revision, jetpack
}

// describe names the machine for people.
func (x *examination) describe() string {
	var parts []string
	if x.tegra != "" {
		parts = append(parts, x.tegra)
		if release, jetpack := l4t(x.Files); release != "" {
			parts = append(parts, strings.TrimSpace(jetpack+" (L4T "+release+")"))
		}
	}
	for line := range strings.Lines(read(x.Files, "/etc/os-release")) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			parts = append(parts, strings.Trim(name, `"`))
		}
	}
	cores := len(glob(x.Files, "/sys/devices/system/cpu/cpu[0-9]*"))
	parts = append(parts, x.Arch)
	if cores > 0 {
		parts = append(parts, plural(cores, "core"))
	}
	for line := range strings.Lines(read(x.Files, "/proc/meminfo")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "MemTotal:" {
			if kib, err := strconv.ParseInt(f[1], 10, 64); err == nil {
				parts = append(parts, fmt.Sprintf("%.1f GiB of memory", float64(kib)/(1<<20)))
			}
		}
	}
	return strings.Join(parts, ", ")
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// gpuPatterns are the files through which CUDA reaches a GPU: those of a Jetson, and those of a card.
var gpuPatterns = []string{
	"/dev/nvhost-*", "/dev/nvmap", "/dev/nvgpu/*/*", "/dev/nvsciipc", "/dev/tegra*",
	"/dev/nvidia[0-9]*", "/dev/nvidiactl", "/dev/nvidia-modeset", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-caps/*",
	"/dev/dri/renderD*",
}

// device is a device file and the group that may use it.
type device struct {
	path  string
	group string // "" when everybody may, or root alone
}

// gpuDevices lists the files of GPUs that are here. A render node without NVIDIA's own files is of another maker.
func (x *examination) gpuDevices() []device {
	var found []device
	nvidia := false
	for _, pattern := range gpuPatterns {
		for _, name := range glob(x.Files, pattern) {
			info, err := fs.Stat(x.Files, strings.TrimPrefix(name, "/"))
			if err != nil || info.IsDir() {
				continue
			}
			nvidia = nvidia || !strings.HasPrefix(name, "/dev/dri/")
			d := device{path: name}
			if info.Mode().Perm()&0o006 != 0o006 {
				d.group = x.sys.group(info)
			}
			found = append(found, d)
		}
	}
	if !nvidia {
		return nil
	}
	return found
}

// DropIn is a drop-in of akidbd.service that allows the daemon the GPU of this machine and nothing else; "" when there
// is none.
func DropIn(m Machine) string {
	devices := newExamination(m).gpuDevices()
	if len(devices) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString(`# Made by akidbd doctor --drop-in from the devices of this machine. Make it again when the driver changes.
[Service]
PrivateDevices=no
# ProtectClock=yes would allow the real-time clock and so forbid all devices that are not named here.
ProtectClock=no
PrivateUsers=no
MemoryDenyWriteExecute=no
LimitMEMLOCK=infinity
DevicePolicy=closed
`)
	var groups []string
	for _, d := range devices {
		fmt.Fprintf(&b, "DeviceAllow=%s rw\n", d.path)
		if d.group != "" && d.group != "root" && !slices.Contains(groups, d.group) {
			groups = append(groups, d.group)
		}
	}
	if len(groups) > 0 {
		slices.Sort(groups)
		fmt.Fprintf(&b, "SupplementaryGroups=%s\n", strings.Join(groups, " "))
	}
	return b.String()
}
