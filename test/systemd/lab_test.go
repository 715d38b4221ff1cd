//go:build systemd

package systemd

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/akidb/akidbd/internal/infer/testmodels"
	"github.com/akidb/akidbd/test/lab/netlab"
)

// farAway is half a round trip between the regions.
const farAway = 20 * time.Millisecond

func network(t *testing.T) *netlab.Net {
	t.Helper()
	if err := netlab.Available(); err != nil {
		t.Fatal(err)
	}
	n, err := netlab.New([]netlab.Place{{Name: "us-1", Region: "us"}, {Name: "us-2", Region: "us"}, {Name: "eu-1", Region: "eu"}, {Name: "eu-2", Region: "eu"}},
		func(from, to *netlab.Host) netlab.Path {
			if from.Region != to.Region {
				return netlab.Path{Delay: farAway}
			}
			return netlab.Path{}
		})
	check(t, err)
	t.Cleanup(n.Close)
	return n
}

// binds are the directories that machines are given.
func binds(t *testing.T) []string {
	t.Helper()
	models := t.TempDir()
	check(t, os.Chmod(models, 0o755))
	tiny := testmodels.Dir(t, testmodels.BERT)
	check(t, os.CopyFS(filepath.Join(models, "tiny"), os.DirFS(tiny)))
	check(t, os.CopyFS(filepath.Join(models, "eater"), os.DirFS(tiny)))
	check(t, os.WriteFile(filepath.Join(models, "eater", "fault.txt"), []byte("eat 42"), 0o644))
	return []string{need(t, "AKIDB_E2E_DIST") + ":/srv/dist", need(t, "AKIDB_TEST_MODEL") + ":/srv/minilm", models + ":/srv/models"}
}

const minilm = "models: [{name: minilm, path: /srv/minilm}]\n"

// configure writes the node's configuration.
func (m *machine) configure(more string) {
	m.t.Helper()
	m.write("/etc/akidbd/akidbd.yaml", fmt.Sprintf("node: {name: %s, region: %s}\ndrain_delay: 1s\n", m.name, m.host.Region)+more, 0o644)
}

func (m *machine) install(version string) string {
	m.t.Helper()
	return m.run("apt-get", "install", "-y", deb(version))
}

// step is a part of the whole that builds on those before it; the machines report to it meanwhile.
func step(t *testing.T, name string, f func(t *testing.T), machines ...*machine) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		for _, m := range machines {
			defer func(whole *testing.T) { m.t = whole }(m.t)
			m.t = t
		}
		began := time.Now()
		f(t)
		t.Logf("RESULT %s: %v", name, time.Since(began).Round(10*time.Millisecond))
	})
	if t.Failed() {
		t.FailNow()
	}
}
