package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/akidb/akidbd/internal/pki"
)

// wantBuffer is what the links ask of the kernel for their UDP socket, in bytes.
const wantBuffer = 7_500_000

func udpBuffers(_ context.Context, x *examination) []Finding {
	const check = "udp buffers"
	receive, ok1 := number(x.Files, "/proc/sys/net/core/rmem_max")
	send, ok2 := number(x.Files, "/proc/sys/net/core/wmem_max")
	if !ok1 || !ok2 {
		return skipped(check, "net.core.rmem_max cannot be read here")
	}
	text := fmt.Sprintf("net.core.rmem_max is %d, net.core.wmem_max is %d", receive, send)
	if receive >= wantBuffer && send >= wantBuffer {
		return green(check, text)
	}
	if x.Config != nil && !x.Config.Meshed() {
		return skipped(check, text+"; only nodes with peers need more")
	}
	return yellow(check, fmt.Sprintf("%s, below the %d of a loaded link", text, wantBuffer),
		fmt.Sprintf("sudo sysctl -w net.core.rmem_max=%[1]d net.core.wmem_max=%[1]d, and keep it: /usr/lib/sysctl.d/50-akidbd.conf", wantBuffer))
}

// sane is a time before which no clock of today is.
var sane = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

func clock(_ context.Context, x *examination) []Finding {
	const check = "clock"
	meshed := x.Config != nil && x.Config.Meshed()
	if x.Now.Before(sane) {
		return red(check, "it says "+x.Now.UTC().Format(time.RFC3339)+": certificates are refused", "set the clock: sudo timedatectl set-ntp true; a Jetson without a battery forgets it")
	}
	ok, err := x.sys.synchronized()
	switch {
	case err != nil:
		return skipped(check, "whether it is synchronized cannot be read: "+err.Error())
	case ok:
		return green(check, "synchronized")
	case meshed:
		return yellow(check, "nothing keeps it right, and certificates depend on it", "sudo timedatectl set-ntp true, or run chrony")
	}
	return yellow(check, "nothing keeps it right", "sudo timedatectl set-ntp true, or run chrony")
}

func ports(ctx context.Context, x *examination) []Finding {
	const check = "ports"
	if x.Config == nil {
		return nil
	}
	type port struct{ network, address, key string }
	var all []port
	for i, l := range x.Config.Listen {
		all = append(all, port{"tcp", l.Address, fmt.Sprintf("listen[%d]", i)})
	}
	if x.Config.Meshed() {
		all = append(all, port{"udp", x.Config.Peer.Address, "peer.address"})
	}
	var found []Finding
	for _, p := range all {
		name := fmt.Sprintf("%s, %s %s", p.key, p.network, p.address)
		if x.node != nil && slices.ContainsFunc(x.node.Listens, func(at string) bool { return samePort(at, p.network, p.address) }) {
			found = append(found, green(check, name+": the daemon listens")...)
			continue
		}
		err := x.sys.bind(ctx, p.network, p.address)
		_, number, _ := net.SplitHostPort(p.address)
		switch {
		case err == nil && x.node != nil:
			found = append(found, yellow(check, name+": free, the running daemon does not listen there", "systemctl restart akidbd")...)
		case err == nil:
			found = append(found, green(check, name+": free")...)
		case inUse(err):
			found = append(found, red(check, name+": another program has it", "sudo ss -lnp | grep :"+number+" says which; or set another "+p.key)...)
		case forbidden(err):
			found = append(found, red(check, name+": needs privileges", "choose a port from 1024 on, or let systemd hold it: akidbd.socket")...)
		default:
			found = append(found, red(check, name+": "+err.Error(), "set another "+p.key)...)
		}
	}
	return found
}

// samePort says whether the daemon listens at a configured port.
func samePort(listens, network, configured string) bool {
	at, udp := strings.CutSuffix(listens, "/udp")
	if udp != (network == "udp") {
		return false
	}
	_, a, err1 := net.SplitHostPort(at)
	_, b, err2 := net.SplitHostPort(configured)
	return err1 == nil && err2 == nil && a == b
}

// soon is when a certificate that nothing renews should be replaced.
const soon = 14 * 24 * time.Hour

func certificates(_ context.Context, x *examination) []Finding {
	const check = "certificates"
	if x.Config == nil || !x.Config.Meshed() {
		return skipped(check, "a lone node: pki.dir is not set")
	}
	dir := x.Config.PKI.Dir
	if err := pki.Check(dir); err != nil {
		if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
			return skipped(check, dir+" may not be read by this user: run the doctor as root")
		}
		return red(check, err.Error(), "akidbd pki show "+dir+" shows them; akidbd pki issue or join makes new ones")
	}
	var found []Finding
	certs, err := pki.Inspect(dir)
	if err != nil {
		return red(check, err.Error(), "akidbd pki show "+dir)
	}
	for _, c := range certs {
		left := c.NotAfter.Sub(x.Now)
		text := fmt.Sprintf("%s: %s until %s", c.File, c.ID, c.NotAfter.Format(time.DateOnly))
		if c.Authority || left > soon || x.Config.PKI.RenewURL != "" && left > soon/7 {
			found = append(found, green(check, text)...)
			continue
		}
		found = append(found, yellow(check, fmt.Sprintf("%s, %.0f days left", text, left.Hours()/24), "akidbd pki issue, or set pki.renew_url")...)
	}
	return append(found, x.readable(dir)...)
}

// readable says whether the daemon's user may read the key.
func (x *examination) readable(dir string) []Finding {
	key := filepath.Join(dir, pki.KeyFile)
	info, err := os.Stat(key)
	if err != nil || x.User.UID < 0 {
		return nil
	}
	uid, gid := x.sys.owner(info)
	mode := info.Mode().Perm()
	if x.User.UID == 0 || uid == x.User.UID && mode&0o400 != 0 || slices.Contains(x.User.GIDs, gid) && mode&0o040 != 0 || mode&0o004 != 0 {
		return nil
	}
	return red("certificates", fmt.Sprintf("%s cannot be read by the daemon's user, %s", key, x.User.Name), fmt.Sprintf("sudo chown -R %s: %s", x.User.Name, dir))
}

// bucketCheck is what the daemon calls its check of the bucket.
const bucketCheck = "s3"

func bucket(ctx context.Context, x *examination) []Finding {
	const check = "bucket"
	if x.Bucket == nil {
		return skipped(check, "none is configured")
	}
	if x.node != nil && x.node.Bucket {
		if reason, failing := x.node.Checks[bucketCheck]; failing {
			return red(check, reason, "check the bucket's name, region and credentials; models that are here go on serving")
		}
		return green(check, "the daemon reads it")
	}
	name, err := x.Bucket(ctx)
	if err != nil {
		return red(check, fmt.Sprintf("%s: %v", name, err), "check the bucket's name, region and credentials; models that are here go on serving")
	}
	return green(check, name+" can be read")
}

func peers(ctx context.Context, x *examination) []Finding {
	const check = "peers"
	if x.Config == nil || !x.Config.Meshed() {
		return skipped(check, "a lone node: pki.dir is not set")
	}
	if x.node == nil {
		return x.seeds(ctx)
	}
	if len(x.node.Peers) == 0 {
		if len(x.Config.Gossip.Seeds) == 0 {
			return yellow(check, "nobody is there, and gossip.seeds is empty", "set gossip.seeds to some nodes of the fleet, or wait for others to join this one")
		}
		return append(red(check, "nobody is there", fmt.Sprintf("is UDP port %s open both ways? journalctl -u akidbd | grep -e peer -e link", x.Config.Peer.Address)), x.seeds(ctx)...)
	}
	up := 0
	var down []string
	for _, p := range x.node.Peers {
		if p.Up {
			up++
			continue
		}
		text := p.Name
		if p.Cause != "" {
			text += " (" + p.Cause + ")"
		}
		down = append(down, text)
	}
	text := fmt.Sprintf("%d of %d other nodes are linked", up, len(x.node.Peers))
	if len(down) > 0 && up == 0 {
		return red(check, text+": "+strings.Join(down[:min(8, len(down))], ", "), "akidbd members; is the UDP port of the links open both ways? akidbd pki show tells of certificates")
	}
	if len(down) > 0 {
		return yellow(check, text+"; not "+strings.Join(down[:min(8, len(down))], ", "), "akidbd members; is the UDP port of the links open both ways?")
	}
	return green(check, text)
}

// seeds looks their names up.
func (x *examination) seeds(ctx context.Context) []Finding {
	var found []Finding
	for _, s := range x.Config.Gossip.Seeds {
		host, _, err := net.SplitHostPort(s)
		if err != nil {
			continue
		}
		if _, err := x.sys.lookup(ctx, host); err != nil {
			found = append(found, red("peers", fmt.Sprintf("seed %s has no address: %v", s, err), "mend the name in DNS, or in gossip.seeds")...)
		}
	}
	if len(found) > 0 {
		return found
	}
	text := plural(len(x.Config.Gossip.Seeds), "seed") + " with addresses"
	if x.node == nil {
		text += "; no daemon runs that could reach them"
	}
	return green("peers", text)
}
