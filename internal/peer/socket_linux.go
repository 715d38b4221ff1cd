package peer

import (
	"net"

	"golang.org/x/sys/unix"
)

// growBuffers asks for buffers of want bytes and says what the kernel gave. Linux counts twice what was asked,
// for its own overhead: that half is taken off.
func growBuffers(conn *net.UDPConn, want int) (receive, send int, ok bool) {
	_ = conn.SetReadBuffer(want) // what was given is read below
	_ = conn.SetWriteBuffer(want)
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, 0, false
	}
	err = raw.Control(func(fd uintptr) {
		var e1, e2 error
		receive, e1 = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
		send, e2 = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF)
		ok = e1 == nil && e2 == nil
	})
	return receive / 2, send / 2, ok && err == nil
}
