//go:build !linux

package api

import "net"

// refuse does nothing: the gate stays open a little longer.
func refuse(net.Listener) {}

// tryRead reads nothing: a request that comes in the moment its connection ends is lost, as with net/http alone.
func tryRead(net.Conn, []byte) int { return 0 }
