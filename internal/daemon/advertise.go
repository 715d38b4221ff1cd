package daemon

import (
	"net"
	"net/netip"
	"strconv"
)

// advertise is host:port where others reach this node's links: what is configured, else the address that it
// listens on, else the one of the interface that leads to a seed, else the first that is not loopback.
func advertise(configured string, bound net.Addr, seeds []string) string {
	if configured != "" {
		return configured
	}
	at, err := netip.ParseAddrPort(bound.String())
	if err != nil {
		return bound.String()
	}
	if !at.Addr().IsUnspecified() {
		return at.String()
	}
	port := strconv.Itoa(int(at.Port()))
	for _, seed := range seeds {
		if ip, ok := towards(seed); ok {
			return net.JoinHostPort(ip, port)
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return net.JoinHostPort("127.0.0.1", port)
	}
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() {
			return net.JoinHostPort(ip.IP.String(), port)
		}
	}
	return net.JoinHostPort("127.0.0.1", port)
}

// towards is this machine's address on the way to a peer. Nothing is sent.
func towards(addr string) (string, bool) {
	to, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return "", false
	}
	c, err := net.DialUDP("udp", nil, to)
	if err != nil {
		return "", false
	}
	defer c.Close()
	from, ok := c.LocalAddr().(*net.UDPAddr)
	return from.IP.String(), ok
}
