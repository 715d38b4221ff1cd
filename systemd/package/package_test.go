package main

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
)

func TestDebVersion(t *testing.T) {
	for in, want := range map[string]string{
		"v1.2.3": "1.2.3", "1.2.3": "1.2.3", "v1.2.3-4-gabc123": "1.2.3+4.gabc123", "v1.2.3-rc.1": "1.2.3~rc.1",
		"v1.2.3-rc.1-4-gabc123-dirty": "1.2.3~rc.1+4.gabc123.dirty", "9a7c72e": "0.0~9a7c72e", "9a7c72e-dirty": "0.0~9a7c72e.dirty", "devel": "0.0~devel",
		"v1.2.3-dirty": "1.2.3.dirty",
	} {
		if got := debVersion(in); got != want {
			t.Errorf("%s became %s, want %s", in, got, want)
		}
	}
}

func TestNewer(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{{"2.32", "2.31", true}, {"2.4", "2.31", false}, {"2.31", "2.31", false}, {"2.2.5", "2.31", false}, {"PRIVATE", "2.31", false}, {"3.4.29", "3.4.28", true}} {
		if got := newer(c.a, c.b); got != c.want {
			t.Errorf("%s newer than %s: %v", c.a, c.b, got)
		}
	}
}

// TestCheckSymbols: a program of another machine, and one that needs a newer libc than allowed, are refused.
func TestCheckSymbols(t *testing.T) {
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := checkSymbols(self, other, oldestSystem()); err == nil || !strings.Contains(err.Error(), "is built for") {
		t.Errorf("this machine's program for %s: %v", other, err)
	}
	shell, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash here to look at")
	}
	if err := checkSymbols(shell, runtime.GOARCH, map[string]string{"GLIBC": "2.1"}); err == nil || !strings.Contains(err.Error(), "newer than GLIBC_2.1") {
		t.Errorf("bash here, with no glibc after 2.1: %v", err)
	}
	if err := checkSymbols(shell, runtime.GOARCH, map[string]string{"GLIBC": "99.0"}); err != nil {
		t.Errorf("bash here, with a glibc of tomorrow: %v", err)
	}
}

// TestScripts: dpkg runs the maintainer scripts with sh.
func TestScripts(t *testing.T) {
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		if out, err := exec.Command("sh", "-n", script).CombinedOutput(); err != nil {
			t.Errorf("%s: %v %s", script, err, out)
		}
	}
}
