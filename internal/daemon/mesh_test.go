package daemon

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/akidb/akidbd/internal/config"
	"github.com/akidb/akidbd/internal/node"
	"github.com/akidb/akidbd/internal/pki"
	"github.com/akidb/akidbd/internal/telemetry"
)

// newFleet starts n whole nodes in this process, on loopback: n1 and n2 in eu, n3 and n4 in us.
func newFleet(t *testing.T, n int, change func(i int, c *config.Config)) []*rig {
	t.Helper()
	ca, err := pki.Init(filepath.Join(t.TempDir(), "ca"), "akidb.test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	var seed string
	fleet := make([]*rig, n)
	for i := range n {
		name, region := fmt.Sprint("n", i+1), []string{"eu", "us"}[i/2]
		dir := filepath.Join(t.TempDir(), "pki")
		if _, err := ca.Issue(node.ID(name), region, dir, time.Hour); err != nil {
			t.Fatal(err)
		}
		fleet[i] = newRig(t, func(c *config.Config) {
			c.Node.Name, c.Node.Region, c.Node.Cluster = "", "local", ""
			c.PKI.Dir = dir
			c.Peer.Address = "127.0.0.1:0"
			if seed != "" {
				c.Gossip.Seeds = []string{seed}
			}
			if change != nil {
				change(i, c)
			}
		})
		<-fleet[i].Loaded()
		if seed == "" {
			seed = fleet[i].mesh.links.Addr().String()
		}
	}
	eventually(t, 10*time.Second, "the fleet is whole", func() bool {
		for _, r := range fleet {
			up := 0
			for _, m := range r.Members()[1:] {
				if m.Link.Up && m.Word.State == node.Ready {
					up++
				}
			}
			if up != n-1 {
				return false
			}
		}
		return true
	})
	return fleet
}

func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestFleetAnswersForOneAnother(t *testing.T) {
	fleet := newFleet(t, 4, func(i int, c *config.Config) {
		if i == 0 {
			c.Models = nil // n1 has nothing of its own
		}
	})
	code, body, head := fleet[0].embed(t, `{"text":"x"}`)
	if code != http.StatusOK || head.Get("x-akidb-route") != "forwarded" || head.Get("x-akidb-node") != "n2" || head.Get("x-akidb-region") != "eu" {
		t.Fatalf("a node without models: %d %s %v, want n2's answer", code, body, head)
	}
	own, _, head := fleet[1].embed(t, `{"text":"x"}`)
	if own != http.StatusOK || head.Get("x-akidb-route") != "local" {
		t.Errorf("a node with the model: %d %v", own, head)
	}
	if code, body := fleet[0].get(t, "/readyz"); code != http.StatusOK {
		t.Errorf("a node whose peers answer is ready: %d %s", code, body)
	}
	if code, body := fleet[0].get(t, "/health"); code != http.StatusOK || !strings.Contains(body, "degraded") {
		t.Errorf("a node without models of its own is degraded: %d %s", code, body)
	}

	e := fleet[0].Explain("tiny")
	if len(e.Candidates) != 3 || e.Candidates[0].Node != "n2" || e.Candidates[1].Region != "us" || !strings.HasPrefix(e.Model, "tiny@") || len(e.Excluded) != 1 {
		t.Errorf("explained %+v", e)
	}

	if _, err := fleet[1].SetDrain(true); err != nil {
		t.Fatal(err)
	}
	eventually(t, 2*time.Second, "the drained node gets nothing new", func() bool {
		_, _, head := fleet[0].embed(t, `{"text":"y"}`)
		return head.Get("x-akidb-region") == "us"
	})
	if code, _, head := fleet[1].embed(t, `{"text":"z"}`); code != http.StatusOK || head.Get("x-akidb-route") != "forwarded" {
		t.Errorf("a drained node asks its peers first: %d %v", code, head)
	}
}

func TestResidencyKeepsRequestsInTheRegion(t *testing.T) {
	fleet := newFleet(t, 3, func(i int, c *config.Config) {
		if i != 2 {
			c.Models = nil // only us has it
		}
		if i == 0 {
			c.Router.CrossRegion = "off"
		}
	})
	if code, body, _ := fleet[0].embed(t, `{"text":"x"}`); code != http.StatusNotFound {
		t.Errorf("cross_region off: %d %s", code, body)
	}
	if code, _, head := fleet[1].embed(t, `{"text":"x"}`); code != http.StatusOK || head.Get("x-akidb-node") != "n3" {
		t.Errorf("cross_region on: %d %v", code, head)
	}
	fleet[0].cfg.Router.CrossRegion = "on"
	if _, err := fleet[0].Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if code, _, head := fleet[0].embed(t, `{"text":"x"}`); code != http.StatusOK || head.Get("x-akidb-node") != "n3" {
		t.Errorf("after the reload: %d %v", code, head)
	}
}

func TestCertificateSaysWhoTheNodeIs(t *testing.T) {
	ca, err := pki.Init(filepath.Join(t.TempDir(), "ca"), "akidb.test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "pki")
	if _, err := ca.Issue("n1", "eu", dir, time.Hour); err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.PKI.Dir, cfg.Node.Name = dir, "other"
	d := &Daemon{opt: Options{Config: cfg, Telemetry: telemetry.New(telemetry.Config{}, io.Discard)}}
	d.log = d.opt.Telemetry.Logger
	if err := d.openIdentity(cfg); err == nil || !strings.Contains(err.Error(), `"other"`) || !strings.Contains(err.Error(), `"n1"`) {
		t.Errorf("got %v", err)
	}
}
