package doctor

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/akidb/akidbd/internal/infer"
)

func configuration(_ context.Context, x *examination) []Finding {
	name := x.ConfigFile
	if name == "" {
		name = "the default configuration"
	}
	if x.ConfigErr != nil {
		return red("configuration", x.ConfigErr.Error(), "mend the file; akidbd check-config "+x.ConfigFile+" checks it")
	}
	return green("configuration", fmt.Sprintf("%s is valid, with %s", name, plural(len(x.Config.Models), "model")))
}

func library(ctx context.Context, x *examination) []Finding {
	if x.Config == nil {
		return skipped("library", "the configuration says which library, and cannot be read")
	}
	path, version, err := x.Library(x.Config.Engine.LibraryPath)
	if err != nil {
		return red("library", err.Error(), "install ONNX Runtime (the Debian package brings one for the CPU) or set engine.library_path")
	}
	found := green("library", fmt.Sprintf("ONNX Runtime %s, %s", version, path))
	for _, p := range x.Config.Engine.Providers {
		if p != infer.ProviderCPU {
			found = append(found, x.provider(ctx, path, p)...)
		}
	}
	return found
}

// provider says whether an execution provider comes with the library and finds what it needs in its turn.
func (x *examination) provider(ctx context.Context, library, name string) []Finding {
	check := "provider " + name
	file := filepath.Join(filepath.Dir(library), "libonnxruntime_providers_"+name+".so")
	needs, err := needed(file)
	if errors.Is(err, fs.ErrNotExist) {
		return red(check, fmt.Sprintf("configured, but this build of ONNX Runtime has none: there is no %s", file),
			"install a build of ONNX Runtime with "+name+" (docs/jetson.md) and set engine.library_path to it")
	}
	if err != nil {
		return red(check, fmt.Sprintf("%s: %v", file, err), "install that library again")
	}
	missing := x.missing(ctx, file, needs)
	if len(missing) > 0 {
		return red(check, fmt.Sprintf("%s needs %s, which the linker does not find", file, strings.Join(missing, ", ")),
			"install the CUDA, cuDNN and TensorRT that this build was made for, then run ldconfig; LD_LIBRARY_PATH in a drop-in works too")
	}
	return green(check, file+" finds all its libraries")
}

// needed are the libraries that a shared object is linked against.
func needed(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ImportedLibraries()
}

// missing asks the linker's cache; what lies beside the object counts too.
func (x *examination) missing(ctx context.Context, file string, names []string) []string {
	cache, err := x.sys.run(ctx, "/sbin/ldconfig", "-p")
	if err != nil {
		return nil // then only a load can tell
	}
	dirs := append([]string{filepath.Dir(file)}, filepath.SplitList(os.Getenv("LD_LIBRARY_PATH"))...)
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return strings.Contains(cache, "\t"+name+" ") || strings.HasPrefix(name, "ld-linux") || slices.ContainsFunc(dirs, func(dir string) bool {
			_, err := os.Stat(filepath.Join(dir, name))
			return err == nil
		})
	})
}

func daemon(_ context.Context, x *examination) []Finding {
	if x.node == nil {
		return yellow("daemon", x.nodeErr.Error(), "systemctl enable --now akidbd; journalctl -u akidbd -e says why it does not run")
	}
	n := x.node
	found := Finding{Check: "daemon", Level: Green, Found: fmt.Sprintf("%s, %s, %s", n.State, n.Health, plural(len(n.Models), "model"))}
	switch {
	case n.Health == "unhealthy":
		found.Level, found.Do = Red, "journalctl -u akidbd -e"
	case n.Health == "degraded" || n.State != "ready" || len(n.Checks) > 0:
		found.Level, found.Do = Yellow, "akidbd status; journalctl -u akidbd -e"
	}
	if n.Reason != "" {
		found.Found += ": " + n.Reason
	}
	all := []Finding{found}
	for _, name := range slices.Sorted(maps.Keys(n.Checks)) {
		if n.Checks[name] == n.Reason {
			continue
		}
		all = append(all, Finding{Check: "daemon", Level: Yellow, Found: name + " fails: " + n.Checks[name], Do: "akidbd status"})
	}
	return all
}

// accelerator: a GPU that nobody computes on is the most expensive fault, and the most silent one.
func accelerator(_ context.Context, x *examination) []Finding {
	const check = "accelerator"
	devices := x.gpuDevices()
	if len(devices) == 0 {
		if x.tegra != "" {
			return red(check, "a Jetson without device files of its GPU", "install the driver: sudo apt install nvidia-l4t-core nvidia-l4t-cuda, then restart the machine")
		}
		return skipped(check, "no GPU of NVIDIA here: models run on the CPU")
	}
	here := fmt.Sprintf("%s of a GPU", plural(len(devices), "device file"))
	if x.Config != nil && slices.Equal(x.Config.Engine.Providers, []string{infer.ProviderCPU}) {
		level := Yellow
		if x.tegra != "" {
			level = Red
		}
		return []Finding{{check, level, here + ", but engine.providers is [cpu]",
			"install an ONNX Runtime with TensorRT or CUDA (docs/jetson.md), set engine.library_path and engine.providers: [tensorrt, cuda], then: " +
				dropInCommand + "; systemctl restart akidbd"}}
	}
	if x.node == nil {
		return green(check, here)
	}
	for _, m := range x.node.Models {
		if m.State == "ready" && m.Provider == infer.ProviderCPU {
			return red(check, fmt.Sprintf("%s, but model %s runs on the CPU", here, m.Name),
				dropInCommand+"; systemctl daemon-reload; systemctl restart akidbd; journalctl -u akidbd | grep provider says what else is wrong")
		}
	}
	return green(check, here)
}

const dropInCommand = "akidbd doctor --drop-in | sudo install -D -m 0644 /dev/stdin /etc/systemd/system/akidbd.service.d/gpu.conf"
