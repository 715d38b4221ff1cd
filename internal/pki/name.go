package pki

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/akidb/akidbd/internal/node"
)

// The forms of names beside node.ID: the configuration's region, and the trust domain of the SPIFFE ID specification.
var (
	regionForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$`)
	domainForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,254}$`)
)

const nodeIDForm = "spiffe://<trust domain>/akidb/node/<region>/<node>"

// nodeURI is the SPIFFE ID of a node.
func nodeURI(domain, region string, id node.ID) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: domain, Path: "/akidb/node/" + region + "/" + string(id)}
}

// serverURI is the SPIFFE ID of the server that issues certificates. No node can have it.
func serverURI(domain string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: domain, Path: "/akidb/ca"}
}

// nodeName reads the one SPIFFE ID of a certificate. The error is a *Refusal.
func nodeName(c *x509.Certificate) (domain, region string, id node.ID, err error) {
	refuse := func(r Reason, format string, args ...any) (string, string, node.ID, error) {
		return "", "", "", &Refusal{Reason: r, Detail: fmt.Sprintf(format, args...)}
	}
	if len(c.URIs) == 0 {
		return refuse(ReasonNoID, "it has no URI name, a node's has one, %s", nodeIDForm)
	}
	if len(c.URIs) > 1 {
		return refuse(ReasonOtherID, "it has %d URI names, a node's has one, %s", len(c.URIs), nodeIDForm)
	}
	u := c.URIs[0]
	if u.Scheme != "spiffe" {
		return refuse(ReasonNoID, "%.200q is no SPIFFE ID, a node's is %s", u, nodeIDForm)
	}
	parts := strings.Split(u.Path, "/")
	plain := u.User == nil && u.RawQuery == "" && !u.ForceQuery && u.Fragment == "" && u.RawPath == ""
	if !plain || len(parts) != 5 || parts[1] != "akidb" || parts[2] != "node" {
		return refuse(ReasonOtherID, "%.200q is not of the form %s", u, nodeIDForm)
	}
	domain, region, id = u.Host, parts[3], node.ID(parts[4])
	if err := checkNames(domain, region, id); err != nil {
		return refuse(ReasonOtherID, "%.200q: %v", u, err)
	}
	return domain, region, id, nil
}

func checkDomain(domain string) error {
	if !domainForm.MatchString(domain) {
		return fmt.Errorf("trust domain %.100q must be 1 to 255 of a-z, 0-9, '.', '_' and '-', the first a letter or digit", domain)
	}
	return nil
}

func checkNames(domain, region string, id node.ID) error {
	switch {
	case !regionForm.MatchString(region):
		return fmt.Errorf("region %.100q must be 1 to 63 of a-z, A-Z, 0-9, '.', '_' and '-', the first a letter or digit", region)
	case !id.Valid():
		return fmt.Errorf("node %.100q must be 1 to 64 of a-z, A-Z, 0-9, '.' and '-', the first a letter or digit", id)
	}
	return checkDomain(domain)
}
