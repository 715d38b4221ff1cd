package api

import (
	"net/http"

	"connectrpc.com/connect"

	"github.com/akidb/akidbd/internal/embedding"
)

// codeRow is how one code looks on every surface.
type codeRow struct {
	status       int    // HTTP status of native and plain routes
	openAIStatus int    // HTTP status of /v1/*
	openAIType   string // error.type of /v1/*
	openAICode   string // error.code of /v1/*; what the OpenAI service itself uses, where it has one
	grpc         connect.Code
	retryAfter   bool // answers carry Retry-After
}

// codeTable is the only place that maps codes. StatusClientClosedRequest (499) is nginx's: nobody reads it,
// but logs and metrics do.
func codeTable(c embedding.Code) codeRow {
	const badRequest, serverError = "invalid_request_error", "server_error"
	switch c {
	case embedding.CodeInvalid:
		return codeRow{http.StatusBadRequest, http.StatusBadRequest, badRequest, "invalid_value", connect.CodeInvalidArgument, false}
	case embedding.CodeUnprocessable:
		return codeRow{http.StatusUnprocessableEntity, http.StatusBadRequest, badRequest, "invalid_value", connect.CodeInvalidArgument, false}
	case embedding.CodeTooLarge:
		return codeRow{http.StatusRequestEntityTooLarge, http.StatusRequestEntityTooLarge, badRequest, "request_too_large", connect.CodeResourceExhausted, false}
	case embedding.CodeUnauthenticated:
		return codeRow{http.StatusUnauthorized, http.StatusUnauthorized, badRequest, "invalid_api_key", connect.CodeUnauthenticated, false}
	case embedding.CodeModelNotFound:
		return codeRow{http.StatusNotFound, http.StatusNotFound, badRequest, "model_not_found", connect.CodeNotFound, false}
	case embedding.CodeOverloaded:
		return codeRow{http.StatusTooManyRequests, http.StatusTooManyRequests, "rate_limit_error", "rate_limit_exceeded", connect.CodeResourceExhausted, true}
	case embedding.CodeUnavailable:
		return codeRow{http.StatusServiceUnavailable, http.StatusServiceUnavailable, serverError, "unavailable", connect.CodeUnavailable, true}
	case embedding.CodeDeadline:
		return codeRow{http.StatusGatewayTimeout, http.StatusGatewayTimeout, serverError, "deadline_exceeded", connect.CodeDeadlineExceeded, false}
	case embedding.CodeCanceled:
		return codeRow{statusClientClosedRequest, statusClientClosedRequest, serverError, "canceled", connect.CodeCanceled, false}
	case codeNotFound:
		return codeRow{http.StatusNotFound, http.StatusNotFound, badRequest, "unknown_url", connect.CodeUnimplemented, false}
	case codeMethodNotAllowed:
		return codeRow{http.StatusMethodNotAllowed, http.StatusMethodNotAllowed, badRequest, "method_not_allowed", connect.CodeUnimplemented, false}
	}
	return codeRow{http.StatusInternalServerError, http.StatusInternalServerError, serverError, "internal_error", connect.CodeInternal, false}
}

const statusClientClosedRequest = 499

// Codes of this package's own; they never come from an Embedder.
const (
	codeOK               embedding.Code = "ok" // as a metric label and in the log
	codeNotFound         embedding.Code = "not_found"
	codeMethodNotAllowed embedding.Code = "method_not_allowed"
)

// codeOfConnect gives the code for an RPC that connect-go refused before a handler of ours saw it: a message
// that does not decode, is over the limit, or came too late.
func codeOfConnect(c connect.Code) embedding.Code {
	switch c {
	case connect.CodeCanceled:
		return embedding.CodeCanceled
	case connect.CodeInvalidArgument, connect.CodeUnimplemented, connect.CodeUnknown:
		return embedding.CodeInvalid
	case connect.CodeResourceExhausted:
		return embedding.CodeTooLarge
	case connect.CodeDeadlineExceeded:
		return embedding.CodeDeadline
	case connect.CodeUnauthenticated:
		return embedding.CodeUnauthenticated
	case connect.CodeNotFound:
		return codeNotFound
	case connect.CodeUnavailable:
		return embedding.CodeUnavailable
	}
	return embedding.CodeInternal
}
