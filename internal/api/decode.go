package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
)

// ask is a decoded embedding request of a JSON route.
type ask struct {
	req    embedding.Request
	field  string // the field the inputs came in, for messages; "" when there was none
	count  int    // inputs sent; only limits.inputs of them are in req
	base64 bool   // answer with base64 instead of numbers
}

// limits is what a decoder keeps to.
type limits struct {
	inputs     int
	inputBytes int
}

// fields holds the names seen in an object.
type fields map[string]struct{}

// once refuses a field that was given before.
func (f fields) once(s *scanner, key string) error {
	if _, twice := f[key]; twice {
		return s.fail(s.i, "field %q is given twice", key)
	}
	f[key] = struct{}{}
	return nil
}

// maxNameBytes bounds model and prompt names, which are echoed in messages.
const maxNameBytes = 256

// name reads a model or prompt name; null is "".
func (s *scanner) name() (string, error) {
	if null, err := s.null(); null || err != nil {
		return "", err
	}
	pos := s.i
	v, err := s.str()
	if err == nil && len(v) > maxNameBytes {
		return "", s.fail(pos, "%s must be at most %d bytes, got %d", s.subject(), maxNameBytes, len(v))
	}
	return v, err
}

// optionalBool reads a boolean; null is nil.
func (s *scanner) optionalBool() (*bool, error) {
	if null, err := s.null(); null || err != nil {
		return nil, err
	}
	v, err := s.boolean()
	return &v, err
}

// dimensions reads a number of dimensions; null is 0, all of them.
func (s *scanner) dimensions() (int, error) {
	if null, err := s.null(); null || err != nil {
		return 0, err
	}
	c := s.next()
	n, err := s.integer(1, 1<<20) // more than any model has; the engine knows the model's own
	if e, ok := errors.AsType[*embedding.Error](err); ok && (c == '-' || c >= '0' && c <= '9') {
		e.Code = embedding.CodeUnprocessable // a number, but none that can be
	}
	return int(n), err
}

// inputs reads a string, a list of strings, a list of token ids or a list of lists of them.
func (s *scanner) inputs(a *ask, lim limits) error {
	field := s.at
	a.field = field
	const what = "a string or a list of strings"
	switch s.next() {
	case '"':
		return s.text(a, lim)
	case '[':
	default:
		return s.fail(s.i, "%q must be %s, got %s", field, what, s.kind())
	}
	kind := byte(0) // what the first element is: all must be alike
	var flat embedding.Input
	ids := 0
	err := s.array(what, func(i int) error {
		s.at = field
		c := s.next()
		if c == '-' || c >= '0' && c <= '9' {
			c = '0'
		}
		if i == 0 {
			kind = c
		}
		if c == kind && c == '0' {
			ids++
			return s.id(&flat, lim, i)
		}
		if i < lim.inputs { // the path is for messages; over the limit the count is the message
			s.at = field + "[" + strconv.Itoa(i) + "]"
		}
		switch {
		case c != kind:
			return s.fail(s.i, "%s is %s, but %q starts with %s: all elements must be of one kind",
				s.subject(), s.kind(), field, kindName(kind))
		case c == '"':
			return s.text(a, lim)
		case c == '[':
			return s.ids(a, lim)
		}
		return s.fail(s.i, "%s must be a string, got %s", s.subject(), s.kind())
	})
	s.at = field
	if err != nil || kind != '0' {
		return err
	}
	a.count = 1
	a.req.Inputs = append(a.req.Inputs, flat)
	return s.enoughIDs(ids, lim)
}

// enoughIDs refuses n token ids when they are too many for one input.
func (s *scanner) enoughIDs(n int, lim limits) error {
	if limit := lim.inputBytes / 4; n > limit {
		e := embedding.Errorf(embedding.CodeUnprocessable, "%s may have %d token ids at most, got %d", s.subject(), limit, n)
		e.Param = s.param()
		return e
	}
	return nil
}

func kindName(c byte) string {
	switch c {
	case '"':
		return "a string"
	case '[':
		return "a list of token ids"
	case '0':
		return "a token id"
	}
	return "something else"
}

// text reads one text input.
func (s *scanner) text(a *ask, lim limits) error {
	text, err := s.str()
	if err != nil {
		return err
	}
	if a.count++; a.count <= lim.inputs {
		a.req.Inputs = append(a.req.Inputs, embedding.Input{Text: text})
	}
	return nil
}

// ids reads one input of token ids.
func (s *scanner) ids(a *ask, lim limits) error {
	in := embedding.Input{Tokens: []int32{}}
	n := 0
	err := s.array("a list of token ids", func(i int) error {
		n++
		return s.id(&in, lim, i)
	})
	if err == nil {
		err = s.enoughIDs(n, lim)
	}
	if err != nil {
		return err
	}
	if a.count++; a.count <= lim.inputs {
		a.req.Inputs = append(a.req.Inputs, in)
	}
	return nil
}

// id reads the i-th token id of in, and keeps it unless it is over the limit.
func (s *scanner) id(in *embedding.Input, lim limits, i int) error {
	n, err := s.integer(0, 1<<31-1)
	if err != nil {
		return err
	}
	if i < lim.inputBytes/4 {
		in.Tokens = append(in.Tokens, int32(n))
	}
	return nil
}

// bodies holds request and answer buffers for reuse, none above maxPooled.
type bodies struct{ pool sync.Pool }

const maxPooled = 1 << 20

func (p *bodies) get() *bytes.Buffer {
	if b, ok := p.pool.Get().(*bytes.Buffer); ok {
		b.Reset()
		return b
	}
	return new(bytes.Buffer)
}

func (p *bodies) put(b *bytes.Buffer) {
	if b.Cap() <= maxPooled {
		p.pool.Put(b)
	}
}

// readBody reads the request's body into buf, MaxBodyBytes at most. The middleware has set the deadline.
func (a *surface) readBody(c *call, r *http.Request, buf *bytes.Buffer) error {
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return embedding.Errorf(embedding.CodeInvalid, "content-encoding %.40q is not supported: send the body uncompressed", enc)
	}
	limit := a.cfg.MaxBodyBytes
	if r.ContentLength > limit {
		return embedding.Errorf(embedding.CodeTooLarge, "the body may have %d bytes at most, got %d", limit, r.ContentLength)
	}
	if r.ContentLength > 0 {
		// Trust the announced size only as far as what a small request needs.
		buf.Grow(int(min(r.ContentLength, 64<<10)) + bytes.MinRead)
	}
	// MaxBytesReader also closes the connection, so that the rest of the body is not read.
	_, err := buf.ReadFrom(http.MaxBytesReader(c.ResponseWriter, r.Body, limit))
	if err == nil {
		// No deadline any more: net/http watches the connection for the client's leaving, and would take a
		// deadline for that.
		c.setReadDeadline(time.Time{})
		return nil
	}
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return embedding.Errorf(embedding.CodeTooLarge, "the body may have %d bytes at most, got more", limit)
	}
	if e, ok := errors.AsType[*embedding.Error](err); ok {
		return e
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &embedding.Error{Code: embedding.CodeDeadline, Err: err,
			Message: fmt.Sprintf("the body did not arrive within %s: got %d bytes", a.cfg.BodyTimeout, buf.Len())}
	case r.Context().Err() != nil, errors.Is(err, context.Canceled):
		return &embedding.Error{Code: embedding.CodeCanceled, Message: "the client went away", Err: err}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return &embedding.Error{Code: embedding.CodeInvalid, Err: err,
			Message: fmt.Sprintf("the body ended early: got %d bytes", buf.Len())}
	}
	return &embedding.Error{Code: embedding.CodeInvalid, Message: "the body cannot be read", Err: err}
}
