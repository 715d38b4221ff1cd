package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
)

// wantBuffer is what quic-go asks of the kernel for a socket's buffers, in bytes; fewer drop packets under load.
const wantBuffer = 7_500_000

// listenUDP binds the socket and warns once, in our own log, when the kernel gives it small buffers.
func listenUDP(address string, log *slog.Logger) (*net.UDPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), lookupTime)
	defer cancel()
	bound, err := new(net.ListenConfig).ListenPacket(ctx, "udp", address)
	if err != nil {
		return nil, fmt.Errorf("bind the links' UDP port %q: %w", address, err)
	}
	conn, ok := bound.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%q is no UDP port", address), bound.Close())
	}
	if receive, send, ok := growBuffers(conn, wantBuffer); ok && (receive < wantBuffer || send < wantBuffer) {
		log.Warn("the kernel limits the UDP buffers of the links: set net.core.rmem_max and net.core.wmem_max",
			"receive_bytes", receive, "send_bytes", send, "wanted_bytes", wantBuffer)
	}
	// quic-go would print the same on stderr; this is its only switch.
	const quiet = "QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING"
	if _, set := os.LookupEnv(quiet); !set {
		if err := os.Setenv(quiet, "true"); err != nil {
			return nil, fmt.Errorf("quiet quic-go: %w", err)
		}
	}
	return conn, nil
}
