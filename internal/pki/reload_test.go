package pki

import (
	"strings"
	"testing"
)

// TestCheckAndReload: what is wrong is said and changes nothing; what is good is in force when Reload comes back.
func TestCheckAndReload(t *testing.T) {
	ca := newCA(t, "akidb.local")
	r := open(t, ca.issue(t, "a", "eu"), "")
	if err := r.Check(); err != nil {
		t.Errorf("the files in force: %v", err)
	}
	before := r.serial()
	reissue(t, ca, r)
	if err := r.Check(); err != nil || r.serial() != before {
		t.Errorf("new files: %v, and Check alone must change nothing", err)
	}
	r.Reload()
	if r.serial() == before {
		t.Error("the new certificate is not in force")
	}
	before = r.serial()
	put(t, r.dir, CertFile, "nonsense")
	if err := r.Check(); err == nil {
		t.Error("a file without a certificate was found good")
	}
	r.Reload()
	if r.serial() != before {
		t.Error("the certificate is gone with its file")
	}
	other := ca.issue(t, "b", "eu")
	r.cfg.Dir = other
	if err := r.Check(); err == nil || !strings.Contains(err.Error(), "restart it to change who it is") {
		t.Errorf("the certificate of another node: %v", err)
	}
}
