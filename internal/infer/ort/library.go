package ort

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>

// The head of ONNX Runtime's C API, unchanged since its first version.
typedef struct {
	const void *(*get_api)(uint32_t version);
	const char *(*get_version)(void);
} api_base;

static const char *library_version(void *handle, int *known) {
	const api_base *(*get_base)(void) = (const api_base *(*)(void))dlsym(handle, "OrtGetApiBase");
	*known = get_base != NULL;
	if (get_base == NULL) return NULL;
	const api_base *base = get_base();
	return base == NULL ? NULL : base->get_version();
}
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"
)

// MinVersion is the oldest ONNX Runtime 1.x that serves: the one whose C API onnxruntime_go v1.24.0 asks for.
// It is kept low because the builds for a Jetson lag.
const MinVersion = 22

// FindLibrary gives the path of the ONNX Runtime library: the configured one, else the first that exists in the
// usual places. The error says where it looked.
func FindLibrary(configured string) (string, error) {
	if configured != "" {
		if _, err := os.Stat(configured); err != nil {
			return "", fmt.Errorf("ONNX Runtime library (engine.library_path): %w", err)
		}
		return configured, nil
	}
	places := libraryPlaces()
	for _, pattern := range places {
		found, _ := filepath.Glob(pattern)
		if len(found) > 0 {
			return slices.MaxFunc(found, newer), nil
		}
	}
	return "", fmt.Errorf("no ONNX Runtime library found: looked for %s; install ONNX Runtime 1.%d or newer, or set engine.library_path",
		strings.Join(places, ", "), MinVersion)
}

// newer compares libonnxruntime.so.1.9.0 and .so.1.22.0 by their numbers.
func newer(a, b string) int {
	numbers := func(path string) (list []int) {
		_, version, _ := strings.Cut(filepath.Base(path), ".so.")
		for part := range strings.SplitSeq(version, ".") {
			n, err := strconv.Atoi(part)
			if err != nil {
				return nil
			}
			list = append(list, n)
		}
		return list
	}
	return slices.Compare(numbers(a), numbers(b))
}

func libraryPlaces() []string {
	triplet := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]
	dirs := []string{"/usr/lib/akidbd", "/usr/local/lib", "/usr/lib/" + triplet, "/usr/lib"}
	if exe, err := os.Executable(); err == nil {
		dirs = append([]string{filepath.Join(filepath.Dir(exe), "../lib/akidbd")}, dirs...)
	}
	var places []string
	for _, d := range dirs {
		places = append(places, filepath.Join(d, "libonnxruntime.so*"))
	}
	return places
}

// checkLibrary opens the library and returns its version, or says what is wrong with it.
func checkLibrary(path string) (string, error) {
	cpath := C.CString(path)
	defer C.free(unsafe.Pointer(cpath))
	runtime.LockOSThread() // dlerror is per thread
	defer runtime.UnlockOSThread()
	handle := C.dlopen(cpath, C.RTLD_LAZY|C.RTLD_LOCAL)
	if handle == nil {
		return "", fmt.Errorf("ONNX Runtime library %s cannot be loaded: %s; it must be a build for %s", path, C.GoString(C.dlerror()), runtime.GOARCH)
	}
	var known C.int
	version := C.GoString(C.library_version(handle, &known))
	if known == 0 {
		C.dlclose(handle)
		return "", fmt.Errorf("%s is not ONNX Runtime: it has no OrtGetApiBase", path)
	}
	if err := checkVersion(version); err != nil {
		C.dlclose(handle)
		return "", fmt.Errorf("ONNX Runtime library %s: %w", path, err)
	}
	return version, nil // left open: the binding opens it again
}

func checkVersion(version string) error {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return fmt.Errorf("version %q is not understood, 1.%d or newer is needed", version, MinVersion)
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("version %q is not understood, 1.%d or newer is needed", version, MinVersion)
	}
	if major != 1 || minor < MinVersion {
		return fmt.Errorf("version %s found, 1.%d or newer (and below 2) is needed", version, MinVersion)
	}
	return nil
}
