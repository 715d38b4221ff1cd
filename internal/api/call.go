package api

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
)

// call is one request on its way: the ResponseWriter handlers see, and what log and metrics say of it.
type call struct {
	http.ResponseWriter
	api   *surface
	route *route
	start time.Time
	id    string // x-request-id

	status int   // 0: nothing written yet
	bytes  int64 // of the body written
	code   embedding.Code
	cause  error // for the log, of server errors

	held atomic.Int64 // bytes, of Config.MaxMemory

	keyName string // of the API key, "" without one
	inputs  atomic.Int64
	tokens  atomic.Int64
}

// WriteHeader notes the status and gives the answer its time. HTTP/1.1 deadlines outlive the answer they were
// set for, so every answer sets its own.
func (c *call) WriteHeader(status int) {
	if c.status == 0 && status >= 200 {
		c.status = status
		if !c.route.streams {
			c.setWriteDeadline(time.Now().Add(c.api.cfg.WriteTimeout))
		}
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *call) Write(p []byte) (int, error) {
	if c.status == 0 {
		c.WriteHeader(http.StatusOK)
	}
	n, err := c.ResponseWriter.Write(p)
	c.bytes += int64(n)
	return n, err
}

// Flush lets connect-go stream.
func (c *call) Flush() {
	if c.status == 0 {
		c.WriteHeader(http.StatusOK)
	}
	_ = http.NewResponseController(c.ResponseWriter).Flush()
}

// Unwrap lets http.ResponseController reach the connection.
func (c *call) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// Hijack is refused: a hijacked connection would escape the drain.
func (c *call) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, http.ErrNotSupported }

// setReadDeadline and setWriteDeadline do nothing where the transport has no deadlines, as in tests. The zero
// time means none.
func (c *call) setReadDeadline(t time.Time) {
	_ = http.NewResponseController(c.ResponseWriter).SetReadDeadline(t)
}

func (c *call) setWriteDeadline(t time.Time) {
	_ = http.NewResponseController(c.ResponseWriter).SetWriteDeadline(t)
}

// write sends a whole answer.
func (c *call) write(status int, contentType string, body []byte) {
	h := c.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Content-Type-Options", "nosniff")
	c.WriteHeader(status)
	_, _ = c.Write(body) // the client has gone: nobody to tell
}

// fail answers with err in the form of the call's route.
func (c *call) fail(err error) {
	e := embedding.AsError(err)
	c.note(e)
	row := codeTable(e.Code)
	h := c.Header()
	if row.retryAfter {
		h.Set("Retry-After", c.api.retryAfter)
	}
	if e.Code == embedding.CodeUnauthenticated {
		h.Set("WWW-Authenticate", `Bearer realm="akidbd"`)
	}
	h.Set(headerCode, string(e.Code))
	switch c.route.family {
	case familyOpenAI:
		c.writeJSON(row.openAIStatus, openAIFailure(e, row))
	default:
		c.writeJSON(row.status, nativeFailure(e, c.id))
	}
}

// note keeps e for the log and the metrics.
func (c *call) note(e *embedding.Error) {
	c.code = e.Code
	c.cause = e
}

type callKey struct{}

// callOf gives the call a connect-go handler runs in.
func callOf(ctx context.Context) *call {
	c, ok := ctx.Value(callKey{}).(*call)
	if !ok {
		panic(errors.New("api: handler called outside of the API's middleware"))
	}
	return c
}
