package doctor

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// system is what is no file.
type system interface {
	// synchronized says whether something keeps the clock right.
	synchronized() (bool, error)
	// bind tries to listen and stops at once.
	bind(ctx context.Context, network, address string) error
	// space gives the size of the file system of a directory and what is free for others than root, in bytes.
	space(dir string) (total, free uint64, readOnly bool, err error)
	// run gives what a program prints.
	run(ctx context.Context, name string, args ...string) (string, error)
	// group names the group of a file.
	group(info fs.FileInfo) string
	// owner gives the user and group of a file.
	owner(info fs.FileInfo) (uid, gid int)
	lookup(ctx context.Context, host string) ([]string, error)
}

const runTimeout = 5 * time.Second

type linux struct{}

func (linux) synchronized() (bool, error) {
	const unsynchronized = 0x0040 // STA_UNSYNC of timex.h
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return false, err
	}
	return t.Status&unsynchronized == 0, nil
}

func (linux) bind(ctx context.Context, network, address string) error {
	var lc net.ListenConfig
	if network == "udp" {
		c, err := lc.ListenPacket(ctx, network, address)
		if err != nil {
			return err
		}
		return c.Close()
	}
	ln, err := lc.Listen(ctx, network, address)
	if err != nil {
		return err
	}
	return ln.Close()
}

func (linux) space(dir string) (total, free uint64, readOnly bool, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, false, err
	}
	size := uint64(s.Bsize)
	return s.Blocks * size, s.Bavail * size, s.Flags&unix.ST_RDONLY != 0, nil
}

func (linux) run(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout = &out
	err := cmd.Run()
	return strings.TrimSpace(out.String()), err
}

func (l linux) group(info fs.FileInfo) string {
	_, gid := l.owner(info)
	if g, err := user.LookupGroupId(strconv.Itoa(gid)); err == nil {
		return g.Name
	}
	return strconv.Itoa(gid)
}

func (linux) owner(info fs.FileInfo) (uid, gid int) {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(s.Uid), int(s.Gid)
	}
	return -1, -1
}

func (linux) lookup(ctx context.Context, host string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	return net.DefaultResolver.LookupHost(ctx, host)
}

func inUse(err error) bool     { return errors.Is(err, syscall.EADDRINUSE) }
func forbidden(err error) bool { return errors.Is(err, fs.ErrPermission) }
