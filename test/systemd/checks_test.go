//go:build systemd

package systemd

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
)

// sandbox: the process is in its cage.
func (m *machine) sandbox() {
	m.t.Helper()
	pid := m.mainPID()
	status := m.run("cat", fmt.Sprintf("/proc/%d/status", pid))
	for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000", "CapEff:\t0000000000000000"} {
		if !strings.Contains(status, want) {
			m.t.Errorf("no %q in the status of the daemon:\n%s", want, status)
		}
	}
	if user := m.run("stat", "-c", "%U", fmt.Sprintf("/proc/%d", pid)); user != "akidb" {
		m.t.Errorf("it runs as %s", user)
	}
	if out, err := m.try("nsenter", "-t", strconv.Itoa(pid), "-m", "--", "touch", "/usr/share/x"); err == nil || !strings.Contains(out, "Read-only") {
		m.t.Errorf("the daemon's /usr can be written: %s", out)
	}
}

type finding struct{ Check, Level, Found string }

// examine lets the doctor look at the machine: what it finds, all that it prints, and how it ends.
func (m *machine) examine() (found []finding, out string, err error) {
	m.t.Helper()
	out, err = m.try("akidbd", "doctor", "--json")
	var report struct{ Findings []finding }
	check(m.t, json.NewDecoder(strings.NewReader(out)).Decode(&report)) // behind it is what went to standard error
	return report.Findings, out, err
}

// doctor: it finds what there is to find on this machine.
func (m *machine) doctor() {
	m.t.Helper()
	findings, out, err := m.examine()
	if code(err) != 1 {
		m.t.Errorf("a node without a model is red: %v", err)
	}
	level := map[string]string{}
	for _, f := range findings {
		level[f.Check] = f.Level
	}
	for name, want := range map[string]string{"configuration": "green", "library": "green", "daemon": "red", "ports": "green", "disk": "green", "certificates": "skipped"} {
		if level[name] != want {
			m.t.Errorf("doctor: %s is %s, want %s in %s", name, level[name], want, out)
		}
	}
}

// embeds: vectors come out, and they mean something.
func (m *machine) embeds() {
	m.t.Helper()
	status, body := m.post("/api/v1/embed", `{"texts": ["a cat on the mat", "a kitten on the rug", "quarterly earnings"]}`)
	var a answer
	if status != http.StatusOK || json.Unmarshal([]byte(body), &a) != nil || len(a.Embeddings) != 3 || len(a.Embeddings[0]) != 384 {
		m.t.Fatalf("embed: %d %.300s", status, body)
	}
	if near, far := cosine(a.Embeddings[0], a.Embeddings[1]), cosine(a.Embeddings[0], a.Embeddings[2]); near < 0.5 || far > 0.3 {
		m.t.Errorf("cosine of cat and kitten %.3f, of cat and earnings %.3f", near, far)
	}
}

func cosine(a, b []float32) float64 {
	var ab, aa, bb float64
	for i := range a {
		ab += float64(a[i]) * float64(b[i])
		aa += float64(a[i]) * float64(a[i])
		bb += float64(b[i]) * float64(b[i])
	}
	return ab / math.Sqrt(aa*bb)
}

// code is the exit status of what try ran.
func code(err error) int {
	if e, ok := err.(*exec.ExitError); ok {
		return e.ExitCode()
	}
	return 0
}
