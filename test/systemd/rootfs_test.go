//go:build systemd

package systemd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// packages are what the machines have besides the least of Debian: what a Jetson's system brings too.
const packages = "systemd,systemd-sysv,dbus,procps,iproute2,init-system-helpers,libstdc++6,libgcc-s1"

// Releases of Debian: the one that all is tried on, and one with the glibc of JetPack 5 (2.31) and an older systemd
// (247) than JetPack 6 has (249).
const (
	release    = "bookworm"
	oldRelease = "bullseye"
)

// need stops the test for a variable that make sets.
func need(t *testing.T, variable string) string {
	t.Helper()
	v := os.Getenv(variable)
	if v == "" {
		t.Fatalf("%s is not set: run make e2e-systemd", variable)
	}
	return v
}

// rootfs is the file system of machines with a release, made once. They change a layer above it, in memory.
func rootfs(t *testing.T, release string) string {
	t.Helper()
	root := filepath.Join(need(t, "AKIDB_CACHE"), "systemd", release+"-2")
	if _, err := os.Stat(root + ".ok"); err == nil {
		return root
	}
	making := root + ".making"
	check(t, os.RemoveAll(making))
	check(t, os.MkdirAll(filepath.Dir(root), 0o755))
	command(t, "mmdebstrap", "--quiet", "--variant=minbase", "--include="+packages, release, making, "deb "+mirror(t)+" "+release+" main")
	check(t, os.Remove(filepath.Join(making, "etc/hostname"))) // it is this machine's
	check(t, os.RemoveAll(root))
	check(t, os.Rename(making, root))
	check(t, os.WriteFile(root+".ok", nil, 0o644))
	return root
}

// mirror is where this machine gets Debian from.
func mirror(t *testing.T) string {
	t.Helper()
	address := regexp.MustCompile(`(?m)^(?:URIs:|deb(?: \[.*\])?)\s+(https?://\S+/debian/?)(?:\s|$)`)
	for _, file := range []string{"/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"} {
		data, err := os.ReadFile(file)
		if found := address.FindSubmatch(data); err == nil && found != nil {
			return string(found[1])
		}
	}
	t.Fatal("this machine has no apt sources of Debian")
	return ""
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// command runs a program of this machine and gives what it prints.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// Versions of the two packages.
const (
	previousVersion = "0.0.1"
	currentVersion  = "0.0.2"
)

// deb is the package of a version, as the machines see it.
func deb(version string) string {
	return fmt.Sprintf("/srv/dist/akidbd_%s-1_%s.deb", version, runtime.GOARCH)
}
