package daemon

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/akidb/akidbd/internal/api"
)

// inherited is a listener that the service manager holds: it stays open, and takes connections, while no process
// serves it. To the server it is no TCP listener: the filter with which a drain refuses connections would stay on
// the socket, and the next process would never get one.
type inherited struct{ net.Listener }

// listen makes the listeners of the configuration, or takes those that the service manager gave for them.
func (d *Daemon) listen() error {
	given := slices.Clone(d.opt.Listeners)
	for _, l := range d.opt.Config.Listen {
		if i := slices.IndexFunc(given, func(ln net.Listener) bool { return serves(ln.Addr(), l.Address) }); i >= 0 {
			d.listeners = append(d.listeners, inherited{given[i]})
			given = slices.Delete(given, i, i+1)
			continue
		}
		ln, err := api.Listen(context.Background(), l.Address)
		if err != nil {
			return fmt.Errorf("listen.address %s: %w", l.Address, err)
		}
		d.listeners = append(d.listeners, ln)
	}
	if len(given) > 0 {
		return fmt.Errorf("the service manager gave a socket on %s, but no entry of listen has that address: change ListenStream= of akidbd.socket or listen", given[0].Addr())
	}
	return nil
}

// serves says whether a bound address is the configured one: the same port, and the same host unless one of them is
// every interface.
func serves(bound net.Addr, configured string) bool {
	tcp, ok := bound.(*net.TCPAddr)
	if !ok {
		return false
	}
	host, port, err := net.SplitHostPort(configured)
	if err != nil || port != strconv.Itoa(tcp.Port) {
		return false
	}
	ip := net.ParseIP(host)
	return host == "" || tcp.IP.IsUnspecified() || ip.Equal(tcp.IP)
}
