package ort

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckVersion(t *testing.T) {
	for version, want := range map[string]string{
		"1.22.0": "", "1.32.1": "", "1.100.0": "",
		"1.21.1": "version 1.21.1 found, 1.22 or newer",
		"2.0.0":  "version 2.0.0 found",
		"weird":  `version "weird" is not understood`,
		"1.x.0":  `version "1.x.0" is not understood`,
	} {
		err := checkVersion(version)
		if (err == nil) != (want == "") || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", version, err, want)
		}
	}
}

func TestFindLibraryNamesWhatItWanted(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "libonnxruntime.so")
	if _, err := FindLibrary(missing); err == nil || !strings.Contains(err.Error(), missing) || !strings.Contains(err.Error(), "engine.library_path") {
		t.Errorf("missing: %v", err)
	}
}

func TestCheckLibraryRefusesWhatIsNone(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "libonnxruntime.so")
	if err := os.WriteFile(broken, []byte("not ELF"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := checkLibrary(broken); err == nil || !strings.Contains(err.Error(), broken) {
		t.Errorf("broken: %v", err)
	}
	if _, err := checkLibrary("libm.so.6"); err == nil || !strings.Contains(err.Error(), "is not ONNX Runtime") {
		t.Errorf("another library: %v", err)
	}
}

func TestNewest(t *testing.T) {
	if newer("/a/libonnxruntime.so.1.9.0", "/a/libonnxruntime.so.1.22.0") >= 0 || newer("/a/libonnxruntime.so.1.22.0", "/a/libonnxruntime.so.bak") <= 0 {
		t.Error("versions are not compared by their numbers")
	}
}
