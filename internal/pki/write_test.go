package pki

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestReplacingMayStopAnywhere: whoever replaces a node's files is killed after each step in turn. What is left is
// the old node or the new one, and the next attempt ends well.
func TestReplacingMayStopAnywhere(t *testing.T) {
	ca, other := newCA(t, "akidb.local"), newCA(t, "akidb.local")
	for _, c := range []struct {
		name string
		by   *CA
		keep bool // the key, as a renewal does
	}{{"new key", ca, false}, {"new key and authority", other, false}, {"renewal", ca, true}, {"renewal by a new authority", other, true}} {
		t.Run(c.name, func(t *testing.T) {
			total := 0
			for stop := 0; stop <= total; stop++ {
				dir := ca.issue(t, "a", "eu")
				old, err := readMaterial(dir)
				if err != nil {
					t.Fatal(err)
				}
				next, err := readMaterial(c.by.issue(t, "a", "eu"))
				if err != nil {
					t.Fatal(err)
				}
				if c.keep {
					leaf, err := c.by.Sign("a", "eu", old.chain[0].PublicKey, LeafLife)
					if err != nil {
						t.Fatal(err)
					}
					next.chain[0] = leaf
					next.files[CertFile], next.files[KeyFile] = encodeCertificates(leaf), old.files[KeyFile]
				}
				steps, err := replacing(dir, next.files)
				if err != nil {
					t.Fatal(err)
				}
				if total = len(steps); !c.keep && total < 3 {
					t.Fatalf("%d steps: nothing to interrupt", total)
				}
				for _, step := range steps[:stop] {
					if err := step(); err != nil {
						t.Fatal(err)
					}
				}
				left, err := readMaterial(dir)
				if err != nil {
					t.Fatalf("stopped after step %d of %d: %v", stop, total, err)
				}
				if _, _, err := left.verify(left.chain, time.Now()); err != nil {
					t.Errorf("stopped after step %d of %d: %v", stop, total, err)
				}
				if leaf := left.chain[0]; !leaf.Equal(old.chain[0]) && !leaf.Equal(next.chain[0]) {
					t.Errorf("stopped after step %d of %d: neither certificate", stop, total)
				}
				if stop == total && !left.chain[0].Equal(next.chain[0]) {
					t.Error("all steps are done and the old certificate counts")
				}
				if err := Check(dir); err != nil {
					t.Errorf("a node cannot start after step %d of %d: %v", stop, total, err)
				}
				third, err := readMaterial(ca.issue(t, "a", "eu")) // another attempt, interrupted as well
				if err != nil {
					t.Fatal(err)
				}
				if steps, err = replacing(dir, third.files); err != nil {
					t.Fatal(err)
				}
				for n, step := range steps {
					if err := step(); err != nil {
						t.Fatal(err)
					}
					if err := Check(dir); err != nil {
						t.Errorf("stopped after step %d of %d, then after step %d: %v", stop, total, n+1, err)
					}
				}
				if err := replaceNode(dir, next.files); err != nil {
					t.Fatal(err)
				}
				for name, want := range map[string][]byte{CertFile: next.files[CertFile], KeyFile: next.files[KeyFile], CAFile: next.files[CAFile]} {
					if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, want) {
						t.Errorf("stopped after step %d of %d and done again: %s is not the new one (%v)", stop, total, name, err)
					}
				}
				if info, err := os.Stat(filepath.Join(dir, KeyFile)); err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("the key's mode is %v (%v)", info.Mode(), err)
				}
			}
		})
	}
}

// TestReloadDuringAReplacement: a running node that looks between any two steps has a pair that fits.
func TestReloadDuringAReplacement(t *testing.T) {
	ca := newCA(t, "akidb.local")
	dir := ca.issue(t, "a", "eu")
	r := open(t, dir, "")
	next, err := readMaterial(ca.issue(t, "a", "eu"))
	if err != nil {
		t.Fatal(err)
	}
	steps, err := replacing(dir, next.files)
	if err != nil {
		t.Fatal(err)
	}
	for n, step := range steps {
		if err := step(); err != nil {
			t.Fatal(err)
		}
		r.reload()
		if r.complaint != "" {
			t.Errorf("after step %d: %s", n+1, r.complaint)
		}
	}
	if !r.now.Load().chain[0].Equal(next.chain[0]) {
		t.Error("the new certificate is not in force")
	}
}
