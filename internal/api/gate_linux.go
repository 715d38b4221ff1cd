package api

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// refuse puts a filter on the listening socket that drops SYN segments: clients retry those and find the
// listener closed, while handshakes under way complete. Where it cannot be put (a unix socket, a sandbox) the
// gate stays open a little longer, which is harmless.
func refuse(ln net.Listener) {
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	const (
		tcpFlags = 13 // offset in the TCP header, where a filter of a TCP socket starts
		syn      = 0x02
		pass     = 0xffffffff
	)
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: tcpFlags},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jt: 1, Jf: 0, K: syn},
		{Code: unix.BPF_RET | unix.BPF_K, K: pass},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptSockFprog(int(fd), syscall.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	})
}

// tryRead reads what is there without waiting; 0 when nothing is.
func tryRead(conn net.Conn, p []byte) int {
	sys, ok := conn.(syscall.Conn)
	if !ok {
		return 0
	}
	raw, err := sys.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	if err := raw.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), p)
		return true
	}); err != nil || n < 0 {
		return 0
	}
	return n
}
