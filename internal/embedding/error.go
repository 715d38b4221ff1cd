package embedding

import (
	"context"
	"errors"
	"fmt"
)

// Code is why a request failed. Codes decide (status, retry, metric label), messages are for people.
type Code string

// The closed set of codes.
const (
	CodeInvalid         Code = "invalid"           // malformed or empty request: the client's fault
	CodeUnprocessable   Code = "unprocessable"     // well-formed, but outside a limit of the model or the API
	CodeTooLarge        Code = "too_large"         // body over the byte limit
	CodeUnauthenticated Code = "unauthenticated"   // no or wrong API key
	CodeModelNotFound   Code = "model_not_found"   // no such model, alias or digest here
	CodeOverloaded      Code = "overloaded"        // queue full: try again later or elsewhere
	CodeUnavailable     Code = "unavailable"       // cannot serve now: starting, draining, backend lost
	CodeDeadline        Code = "deadline_exceeded" // the request's time ran out
	CodeCanceled        Code = "canceled"          // the client went away
	CodeInternal        Code = "internal"          // the computation failed
)

// Codes lists all codes, for tables and pre-created metric labels.
func Codes() []Code {
	return []Code{
		CodeInvalid, CodeUnprocessable, CodeTooLarge, CodeUnauthenticated, CodeModelNotFound, CodeOverloaded,
		CodeUnavailable, CodeDeadline, CodeCanceled, CodeInternal,
	}
}

// Error is the one error that crosses layers. Message is safe to show to a client and says what was wrong,
// the limit and the actual value; Err, the cause, is for logs only.
type Error struct {
	Code    Code
	Message string
	Param   string // the request field at fault, when there is one
	Lost    bool   // with unavailable: the engine was lost while it computed this, which may be what it was lost on
	Err     error
}

// Errorf makes an Error without a cause.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string {
	if e.Err != nil {
		return string(e.Code) + ": " + e.Message + ": " + e.Err.Error()
	}
	return string(e.Code) + ": " + e.Message
}

func (e *Error) Unwrap() error { return e.Err }

// AsError gives the *Error in err. A context error becomes deadline_exceeded or canceled, anything else
// internal with a message that tells nothing. AsError(nil) is nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: CodeDeadline, Message: "the deadline of the request passed before it was answered", Err: err}
	case errors.Is(err, context.Canceled):
		return &Error{Code: CodeCanceled, Message: "the client canceled the request", Err: err}
	}
	return &Error{Code: CodeInternal, Message: "internal error", Err: err}
}
