package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// pip is the Python package installer of this machine. It knows the package index and the proxy; fetch does not.
type pip struct {
	command []string // with leading arguments: python3 -m pip
	out     console
}

const (
	pipHelp = "install Python 3 with pip (Debian and Ubuntu: apt install python3-pip; Fedora: dnf install python3-pip)"
	// resumeRetries is how often pip 25.1 and later goes on with a download that broke off.
	resumeRetries = "5"
	// pipOutputKept is how many bytes of what pip said are repeated when it ends with an error.
	pipOutputKept = 4 << 10
)

// download saves the artifact's wheel in dir.
func (p pip) download(ctx context.Context, a artifact, dir string) error {
	version, err := p.version(ctx)
	if err != nil {
		return err
	}
	args := []string{
		"download", "--disable-pip-version-check", "--no-input", "--no-deps", "--only-binary=:all:", "--dest", dir,
	}
	if version.atLeast(25, 1) {
		args = append(args, "--resume-retries", resumeRetries)
	}
	args = append(args, a.pipArgs...)
	if !p.out.terminal {
		args = append(args, "--progress-bar", "off")
	}
	cmd := p.run(ctx, append(args, a.requirement)...)
	var said tail
	if p.out.terminal {
		cmd.Stdout, cmd.Stderr = p.out.w, p.out.w
	} else {
		cmd.Stdout, cmd.Stderr = &said, &said
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: pip download %s: %w%s", a.title, a.requirement, err, said.indented())
	}
	return nil
}

// pipVersion is the first two numbers of pip's version.
type pipVersion struct{ major, minor int }

func (v pipVersion) atLeast(major, minor int) bool {
	return v.major > major || (v.major == major && v.minor >= minor)
}

// version asks pip for its version, which also shows whether there is one.
func (p pip) version(ctx context.Context) (pipVersion, error) {
	if len(p.command) == 0 {
		return pipVersion{}, errors.New("--pip needs a command, such as \"python3 -m pip\"")
	}
	if _, err := exec.LookPath(p.command[0]); err != nil {
		return pipVersion{}, fmt.Errorf("%s is not there: %s", p.command[0], pipHelp)
	}
	cmd := p.run(ctx, "--version")
	var said tail
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		if bytes.Contains(said.bytes, []byte("No module named pip")) {
			return pipVersion{}, fmt.Errorf("%s has no pip: %s", p.command[0], pipHelp)
		}
		return pipVersion{}, fmt.Errorf("%s --version: %w%s", strings.Join(p.command, " "), err, said.indented())
	}
	return parsePipVersion(string(said.bytes)), nil
}

// parsePipVersion reads "pip 23.2.1 from ..."; what it does not understand is version 0.
func parsePipVersion(said string) pipVersion {
	m := regexp.MustCompile(`(?m)^pip (\d{1,4})(?:\.(\d{1,4}))?`).FindStringSubmatch(said)
	if m == nil {
		return pipVersion{}
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	return pipVersion{major, minor}
}

func (p pip) run(ctx context.Context, args ...string) *exec.Cmd {
	args = append(append([]string{}, p.command[1:]...), args...)
	cmd := exec.CommandContext(ctx, p.command[0], args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// tail keeps the last bytes written to it.
type tail struct{ bytes []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.bytes = append(t.bytes, p...)
	if over := len(t.bytes) - pipOutputKept; over > 0 {
		t.bytes = append(t.bytes[:0], t.bytes[over:]...)
	}
	return len(p), nil
}

// indented gives what was kept on lines of its own, nothing when there is nothing.
func (t *tail) indented() string {
	said := strings.TrimSpace(string(t.bytes))
	if said == "" {
		return ""
	}
	return "\n  " + strings.ReplaceAll(said, "\n", "\n  ")
}
