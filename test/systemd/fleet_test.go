//go:build systemd

package systemd

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fleet is four machines in two regions.
type fleet struct {
	t        *testing.T
	machines []*machine
	ca       string
}

func (f *fleet) step(name string, do func(t *testing.T)) {
	whole := f.t
	step(whole, name, func(t *testing.T) {
		f.t = t
		defer func() { f.t = whole }()
		do(t)
	}, f.machines...)
}

// TestFleet: four nodes under systemd in two regions answer for one another.
func TestFleet(t *testing.T) {
	lab, root, given := network(t), rootfs(t, release), binds(t)
	f := &fleet{t: t, ca: filepath.Join(t.TempDir(), "ca")}
	f.akidbd("pki", "init", "--dir", f.ca)
	for _, name := range []string{"us-1", "us-2", "eu-1", "eu-2"} {
		f.machines = append(f.machines, boot(t, lab.Host(name), root, given...))
	}
	f.step("four nodes", func(t *testing.T) {
		began := time.Now()
		for _, m := range f.machines {
			m.install(currentVersion)
			f.certify(m)
			m.configure(minilm + "pki: {dir: /etc/akidbd/pki}\ngossip: {seeds: [10.203.0.1:7946]}\n")
			m.run("systemctl", "start", "akidbd")
		}
		for _, m := range f.machines {
			m.waitReady()
			m.until(15*time.Second, "links to three others", func() bool { return m.linked() == 3 })
		}
		t.Logf("RESULT installed, started, ready and linked within %v", time.Since(began).Round(100*time.Millisecond))
		m := f.machines[0]
		m.until(3*time.Second, "count of links in the status", func() bool { return strings.Contains(m.show("StatusText"), "links to 3 of 3 other nodes") })
	})
	us1, us2, eu1, eu2 := f.machines[0], f.machines[1], f.machines[2], f.machines[3]

	f.step("the neighbour answers for a drained node", func(t *testing.T) {
		us1.run("akidbd", "drain")
		if node := f.who(us1); node != "us-2" {
			t.Errorf("us-1 is drained, and its request was answered by %s", node)
		}
	})
	f.step("the other region answers when the own one cannot", func(t *testing.T) {
		l := startLoad(us1, 4, us1, eu1)
		time.Sleep(500 * time.Millisecond)
		us2.powerOff()
		time.Sleep(2 * time.Second)
		if node := f.who(us1); !strings.HasPrefix(node, "eu-") {
			t.Errorf("us-2 is dead and us-1 drained: answered by %s", node)
		}
		us1.run("akidbd", "undrain")
		us1.until(5*time.Second, "answers of us-1 itself", func() bool { return f.who(us1) == "us-1" })
		for _, m := range []*machine{eu1, eu2} { // the clients know us-1 and eu-1
			m.run("systemctl", "stop", "akidbd")
		}
		time.Sleep(time.Second)
		l.end(t)
		if l.refused > 0 {
			t.Errorf("%d requests found no node at all", l.refused)
		}
		eu1.run("systemctl", "start", "akidbd")
		eu2.run("systemctl", "start", "akidbd")
		for _, m := range []*machine{us1, eu1, eu2} {
			m.waitReady()
			m.until(15*time.Second, "links to two others", func() bool { return m.linked() == 2 })
		}
	})
	f.step("certificates and seeds are reloaded", func(t *testing.T) {
		before := us1.run("akidbd", "pki", "show", "--json", "/etc/akidbd/pki")
		f.certify(us1)
		us1.configure(minilm + "pki: {dir: /etc/akidbd/pki}\ngossip: {seeds: [\"10.203.0.3:7946\", \"10.203.0.4:7946\"]}\n")
		us1.run("systemctl", "reload", "akidbd")
		if now := us1.run("akidbd", "pki", "show", "--json", "/etc/akidbd/pki"); now == before {
			t.Fatal("the certificate was not replaced")
		}
		if j := us1.journal(); !strings.Contains(j, "certificate files taken over") || !strings.Contains(j, "gossip.seeds") || strings.Contains(us1.show("StatusText"), "restart") {
			t.Errorf("certificate or seeds are not in force: %s\n%s", us1.show("StatusText"), j)
		}
		us1.until(10*time.Second, "links with the new certificate", func() bool { return us1.linked() == 2 })

		us1.write("/etc/akidbd/pki/node.pem", "nonsense", 0o644)
		if out, err := us1.try("systemctl", "reload", "akidbd"); err == nil {
			t.Errorf("a certificate that is none was reloaded: %s", out)
		}
		if us1.linked() != 2 || !us1.ready() {
			t.Error("a bad certificate file took the node out of the fleet")
		}
		f.certify(us1)
		us1.run("systemctl", "reload", "akidbd")
		if text := us1.show("StatusText"); strings.Contains(text, "failed") {
			t.Errorf("status after the repair: %q", text)
		}
	})
	f.step("the doctor of a fleet", func(t *testing.T) {
		findings, out, _ := us1.examine()
		seen := map[string]string{}
		for _, f := range findings {
			seen[f.Check] += f.Level + " " + f.Found + "\n"
		}
		if !strings.Contains(seen["certificates"], "green") || strings.Contains(seen["certificates"], "red") || !strings.Contains(seen["peers"], "other nodes are linked") {
			t.Errorf("%s", out)
		}
	})
}

// akidbd runs the program of the package here.
func (f *fleet) akidbd(args ...string) {
	f.t.Helper()
	command(f.t, filepath.Join(need(f.t, "AKIDB_E2E_DIST"), "bin", "akidbd"), args...)
}

// certify gives a machine a new certificate.
func (f *fleet) certify(m *machine) {
	f.t.Helper()
	dir := f.t.TempDir()
	f.akidbd("pki", "issue", "--ca", f.ca, "--node", m.name, "--region", m.host.Region, "--out", dir)
	for _, file := range []string{"node-key.pem", "ca.pem", "node.pem"} {
		data, err := os.ReadFile(filepath.Join(dir, file))
		check(f.t, err)
		name := "/etc/akidbd/pki/" + file
		m.write(name+".new", string(data), 0o640)
		m.run("chown", "akidb:akidb", name+".new")
		m.run("mv", name+".new", name)
	}
}

func (m *machine) linked() int {
	out, err := m.try("akidbd", "members", "--json")
	var res struct {
		Members []struct{ Link string }
	}
	if err != nil || json.Unmarshal([]byte(out), &res) != nil {
		return 0
	}
	n := 0
	for _, p := range res.Members {
		if p.Link == "up" {
			n++
		}
	}
	return n
}

// who says which node answers what a machine is asked.
func (f *fleet) who(m *machine) string {
	f.t.Helper()
	node, err := embed(m.http, m.url(), fmt.Sprintf("who answers at %v", time.Now()))
	if err != nil {
		f.t.Errorf("asked %s: %v", m.name, err)
	}
	return node
}
