package loadgen

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"syscall"

	"github.com/akidb/akidbd/internal/embedding"
)

const codeBadAnswer = "bad_answer"

// Unreachable says whether a code of HTTP.Send means that the server was never reached.
func Unreachable(code string) bool {
	return code == "connection_refused" || code == "dns" || code == "tls" || code == "network"
}

// networkCode sorts the errors of a request that got no whole answer into a small set.
func networkCode(err error) string {
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return "timeout"
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return "dns"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "tls"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "tls"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "tls"
	}
	switch {
	case errors.Is(err, http.ErrSchemeMismatch):
		return "tls"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return string(embedding.CodeCanceled)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection_refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF),
		errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return "connection_lost"
	}
	return "network"
}

// networkMessage is what happened, without the method and the URL that net/http sets before it.
func networkMessage(err error) string {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err.Error()
	}
	return err.Error()
}

// serverError reads the code and the message of an error answer, whichever API it is of. The header, which a
// node always sends, goes before the body, where an API may have words of its own.
func serverError(status int, header http.Header, body []byte) (code, message string) {
	code = fmt.Sprintf("http_%d", status)
	if said := header.Get("X-Akidb-Code"); known(said) {
		code = said
	}
	message = fmt.Sprintf("%d %s", status, http.StatusText(status))
	f, err := skim(body)
	if err != nil {
		return code, message
	}
	said := struct{ Code, Message string }{Code: text(f.code), Message: text(f.message)}
	if s := text(f.errorValue); s != "" {
		said.Message = s
	} else if nested, err := skim(f.errorValue); err == nil {
		said.Code, said.Message = text(nested.code), text(nested.message)
	}
	if known(said.Code) && !known(code) {
		code = said.Code
	}
	if said.Message != "" {
		message += ": " + said.Message
	}
	return code, message
}

func known(code string) bool { return slices.Contains(embedding.Codes(), embedding.Code(code)) }

// text gives the string in a JSON value, "" when it is something else; at most 500 bytes of it.
func text(value []byte) string {
	var s string
	if json.Unmarshal(value, &s) != nil {
		return ""
	}
	if len(s) > 500 {
		s = s[:500] + "..."
	}
	return s
}
