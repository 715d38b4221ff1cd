package pki

import (
	"errors"
	"fmt"

	"github.com/akidb/akidbd/internal/node"
)

// Reason is why a certificate is refused, of a closed set.
type Reason string

// The reasons.
const (
	ReasonNoCertificate Reason = "no_certificate"
	ReasonAuthority     Reason = "wrong_ca"           // no trusted authority signed it
	ReasonNoID          Reason = "no_spiffe_id"       // it names nobody
	ReasonOtherID       Reason = "other_spiffe_id"    // it names somebody, but no node
	ReasonTrustDomain   Reason = "other_trust_domain" // a node of another fleet
	ReasonUsage         Reason = "usage"              // not for TLS servers and clients both, or itself an authority
	ReasonExpired       Reason = "expired"            // it, or an authority above it
	ReasonNotYetValid   Reason = "not_yet_valid"      // most often a clock that is wrong
	ReasonDenied        Reason = "denied"             // on the deny list
)

// Refusal is a certificate that is not good. Where there is one, it wraps the error of crypto/x509
// (UnknownAuthorityError, CertificateInvalidError).
type Refusal struct {
	Reason Reason
	Node   node.ID // whom it names, signed by a trusted authority; "" otherwise
	Detail string  // for people
	Err    error   // may be nil
}

func (r *Refusal) Error() string {
	if r.Node == "" {
		return fmt.Sprintf("certificate refused (%s): %s", r.Reason, r.Detail)
	}
	return fmt.Sprintf("certificate of %s refused (%s): %s", r.Node, r.Reason, r.Detail)
}

func (r *Refusal) Unwrap() error { return r.Err }

// reasonOf gives the reason of a refused certificate anywhere in err, "" if there is none.
func reasonOf(err error) Reason {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Reason
	}
	return ""
}
