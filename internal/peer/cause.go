package peer

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/quic-go/quic-go"
)

// Causes of a link that is not up, as in node.Link.Cause: a closed set.
const (
	causeRestarted    = "restarted"
	causeTimeout      = "timeout"
	causeDraining     = "draining"
	causeUnauthorized = "unauthorized"
	causeVersion      = "version"
	causeCertificate  = "certificate"
	causeClosed       = "closed"
)

func causes() []string {
	return []string{causeRestarted, causeTimeout, causeDraining, causeUnauthorized, causeVersion, causeCertificate, causeClosed}
}

// Codes that a connection is closed with. They are on the wire: never renumber.
const (
	codeClosed       quic.ApplicationErrorCode = 0
	codeDraining     quic.ApplicationErrorCode = 1
	codeUnauthorized quic.ApplicationErrorCode = 2 // not who was expected, or denied
	codeVersion      quic.ApplicationErrorCode = 3
	codeCertificate  quic.ApplicationErrorCode = 4 // expired or no longer trusted
	codeDuplicate    quic.ApplicationErrorCode = 5 // another connection between the two is kept
	codeClone        quic.ApplicationErrorCode = 6 // another node of that name runs already, says who closes; no proof of it
	codeProtocol     quic.ApplicationErrorCode = 7 // what came does not make sense
)

// Codes that a stream is reset with.
const (
	streamCanceled quic.StreamErrorCode = 1
	streamProtocol quic.StreamErrorCode = 2
)

const alertNoApplicationProtocol = 120

// causeOf is what an error of a connection or of a handshake says about the other side.
func causeOf(err error) string {
	if is[*quic.StatelessResetError](err) {
		return causeRestarted
	}
	if is[*quic.IdleTimeoutError](err) || is[*quic.HandshakeTimeoutError](err) || errors.Is(err, context.DeadlineExceeded) {
		return causeTimeout
	}
	if is[*quic.VersionNegotiationError](err) || is[*versionError](err) {
		return causeVersion
	}
	if is[*nameError](err) || is[*unauthorizedError](err) {
		return causeUnauthorized
	}
	if e, ok := errors.AsType[*quic.ApplicationError](err); ok {
		switch e.ErrorCode {
		case codeDraining:
			return causeDraining
		case codeUnauthorized, codeClone:
			return causeUnauthorized
		case codeVersion:
			return causeVersion
		case codeCertificate:
			return causeCertificate
		}
		return causeClosed
	}
	if e, ok := errors.AsType[*quic.TransportError](err); ok && e.ErrorCode >= 0x100 && e.ErrorCode < 0x200 {
		if e.ErrorCode == 0x100+alertNoApplicationProtocol {
			return causeVersion
		}
		return causeCertificate
	}
	return causeClosed
}

// verdict is how to close a link whose certificates no longer verify.
func verdict(err error) (quic.ApplicationErrorCode, string) {
	if is[x509.CertificateInvalidError](err) || is[x509.UnknownAuthorityError](err) {
		return codeCertificate, causeCertificate
	}
	return codeUnauthorized, causeUnauthorized
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// patient says whether a redial should wait long: what is wrong needs a person.
func patient(cause string) bool {
	return slices.Contains([]string{causeUnauthorized, causeVersion, causeCertificate}, cause)
}

// cloneError says that another process of this node's name runs.
type cloneError struct{ text string }

func (e *cloneError) Error() string { return e.text }

type nameError struct{ want, got, addr string }

func (e *nameError) Error() string {
	return fmt.Sprintf("expected node %s at %s, but its certificate says %s", e.want, e.addr, e.got)
}

type unauthorizedError struct{ err error }

func (e *unauthorizedError) Error() string { return "certificate of the peer: " + e.err.Error() }
func (e *unauthorizedError) Unwrap() error { return e.err }

type versionError struct{ got string }

func (e *versionError) Error() string {
	return fmt.Sprintf("negotiated protocol %q is not spoken here", e.got)
}
