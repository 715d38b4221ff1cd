package worker

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socketpair gives both ends, closed on exec.
func socketpair() (ours, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "worker"), os.NewFile(uintptr(fds[1]), "host"), nil
}

// attributes: the worker dies with its host, and a Ctrl-C at the terminal is the host's business.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// oomScore is a process's oom_score_adj, 0 when it cannot be read.
func oomScore(pid int) int {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(data)))
	return n
}

func setOOMScore(score int) error {
	return os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(min(score, 1000))), 0)
}

// stopped says whether a process is stopped by a signal or a debugger.
func stopped(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	after := bytes.LastIndexByte(data, ')') // the name before may hold anything
	if after < 0 || after+2 >= len(data) {
		return false
	}
	state := data[after+2]
	return state == 'T' || state == 't'
}

// residentBytes is this process's resident memory, 0 when it cannot be read.
func residentBytes() uint64 {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(statm)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}

// confine takes from this process, for good, the right to gain privileges and to make sockets other than those of
// this machine (unix: CUDA's own services; netlink: its devices). It needs no privilege. A network namespace would
// need one.
func confine() error {
	arch := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	if arch == 0 {
		return fmt.Errorf("no system call filter for %s", runtime.GOARCH)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl(PR_SET_NO_NEW_PRIVS)", err)
	}
	filter := networkFilter(arch)
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	const allThreads = unix.SECCOMP_FILTER_FLAG_TSYNC
	_, _, errno := syscall.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, allThreads, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}

// networkFilter is a program over struct seccomp_data: nr at 0, arch at 4, the low half of the first argument at 16
// (both architectures are little-endian). io_uring is refused because it makes sockets without a system call of its own.
func networkFilter(arch uint32) []unix.SockFilter {
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		above  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		answer = unix.BPF_RET | unix.BPF_K
		allow  = unix.SECCOMP_RET_ALLOW
		refuse = unix.SECCOMP_RET_ERRNO | uint32(unix.EACCES)
		x32    = 0x40000000 // the other numbering of amd64
	)
	return []unix.SockFilter{
		{Code: load, K: 4},
		{Code: equal, K: arch, Jt: 0, Jf: 8}, // another architecture's calls: refused
		{Code: load, K: 0},
		{Code: above, K: x32, Jt: 6, Jf: 0},
		{Code: equal, K: unix.SYS_IO_URING_SETUP, Jt: 5, Jf: 0},
		{Code: equal, K: unix.SYS_SOCKET, Jt: 0, Jf: 3},
		{Code: load, K: 16},
		{Code: equal, K: unix.AF_UNIX, Jt: 1, Jf: 0},
		{Code: equal, K: unix.AF_NETLINK, Jt: 0, Jf: 1},
		{Code: answer, K: allow},
		{Code: answer, K: refuse},
	}
}
