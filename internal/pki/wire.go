package pki

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Paths of the authority's server. Bodies are JSON.
const (
	pathJoin  = "/v1/join"  // joinRequest; TLS without a client certificate
	pathRenew = "/v1/renew" // renewRequest; with the certificate that is to be renewed
)

const (
	maxRequest  = 16 << 10         // bytes of a request's body
	maxResponse = 2 * maxFile      // bytes of a response's
	callTime    = 30 * time.Second // for one request, connecting included
)

type joinRequest struct {
	Token  []byte `json:"token"` // its ID
	Secret []byte `json:"secret"`
	CSR    []byte `json:"csr"` // PKCS #10, DER; only its public key is read
}

type renewRequest struct {
	CSR []byte `json:"csr"`
}

// issued answers both.
type issued struct {
	Certificate string `json:"certificate"` // PEM, the leaf first
	Authorities string `json:"authorities"` // PEM
}

type failure struct {
	Error string `json:"error"`
}

// call posts in to the authority's server and reads an issued.
func call(ctx context.Context, base, path string, config *tls.Config, in any) (issued, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return issued{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	url := strings.TrimRight(base, "/") + path
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return issued{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true, TLSHandshakeTimeout: callTime / 3}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return errors.New("the server sends elsewhere, which the authority's does not")
	}}
	res, err := client.Do(req)
	if err != nil {
		return issued{}, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxResponse+1))
	if err != nil {
		return issued{}, err
	}
	if len(data) > maxResponse {
		return issued{}, fmt.Errorf("%s answers with more than %d bytes", url, maxResponse)
	}
	if res.StatusCode != http.StatusOK {
		var f failure
		if json.Unmarshal(data, &f) != nil || f.Error == "" {
			f.Error = "no reason given"
		}
		return issued{}, fmt.Errorf("%s answers %s: %.500s", url, res.Status, f.Error)
	}
	var out issued
	if err := json.Unmarshal(data, &out); err != nil {
		return issued{}, fmt.Errorf("%s answers what is no certificate: %w", url, err)
	}
	return out, nil
}

// verifyServer checks that certs, the leaf first, are those of the authority's server: a node of the same fleet
// cannot pass for it. The address does not matter.
func verifyServer(certs []*x509.Certificate, t trust, now time.Time) error {
	if len(certs) == 0 {
		return &Refusal{Reason: ReasonNoCertificate, Detail: "the server of the authority showed none"}
	}
	leaf := certs[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: t.roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		if r := inTime(leaf, now); r != nil {
			return r
		}
		return t.explain(leaf, err, now)
	}
	if want := serverURI(t.domain).String(); len(leaf.URIs) != 1 || leaf.URIs[0].String() != want {
		return &Refusal{Reason: ReasonOtherID, Detail: fmt.Sprintf("the server is not that of the authority, %s", want)}
	}
	return nil
}

func newCSR(key crypto.Signer) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
}

// checkKey wants a key that is worth a signature.
func checkKey(public crypto.PublicKey) error {
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize >= 256 {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n >= 2048 && n <= 8192 {
			return nil
		}
	}
	return fmt.Errorf("the key must be ECDSA with 256 bits or more, Ed25519, or RSA with 2048 to 8192, it is %T", public)
}
