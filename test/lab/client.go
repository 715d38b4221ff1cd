//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/akidb/akidbd/internal/loadgen"
)

// maxInFlight bounds the open loop: a fault of ten seconds at 100 requests per second.
const maxInFlight = 1000

// request is one that a client made.
type request struct {
	begin, end time.Time
	node       string // who computed it
	route      string // local or forwarded
	code       string // "" when it succeeded
}

// client sends requests to some nodes in turn; when one does not answer, to the next, as a client that knows
// several addresses does. It keeps a record of each.
type client struct {
	http  *http.Client
	asked []*node

	mu       sync.Mutex
	requests []request
	out      map[uint64]time.Time // when those in flight began, by number
}

// Send implements loadgen.Sender.
func (c *client) Send(ctx context.Context, n uint64, texts []string) loadgen.Outcome {
	body, err := json.Marshal(map[string]any{"texts": texts})
	if err != nil {
		return loadgen.Outcome{Code: "bad_request", Message: err.Error()}
	}
	r := request{begin: time.Now()}
	c.mu.Lock()
	if c.out == nil {
		c.out = map[uint64]time.Time{}
	}
	c.out[n] = r.begin
	c.mu.Unlock()
	var out loadgen.Outcome
	for i := range c.asked {
		out.URL = int((n + uint64(i)) % uint64(len(c.asked)))
		again := c.attempt(ctx, c.asked[out.URL], body, len(texts), &r, &out)
		if out.Code == "" || !again || ctx.Err() != nil {
			break
		}
		if i < len(c.asked)-1 {
			out.Retried = append(out.Retried, out.URL)
		}
	}
	r.end, r.code = time.Now(), out.Code
	c.mu.Lock()
	c.requests = append(c.requests, r)
	delete(c.out, n)
	c.mu.Unlock()
	return out
}

func (c *client) attempt(ctx context.Context, n *node, body []byte, texts int, r *request, out *loadgen.Outcome) (again bool) {
	out.Code, out.Message = "", ""
	fail := func(code, format string, args ...any) bool {
		out.Code, out.Message = code, n.name+": "+fmt.Sprintf(format, args...)
		return true
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.url()+"/api/v1/embed", bytes.NewReader(body))
	if err != nil {
		return fail("bad_request", "%v", err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := c.http.Do(req)
	if err != nil {
		return fail("network", "%v", err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err != nil {
		return fail("network", "%v", err)
	}
	if res.StatusCode != http.StatusOK {
		fail(fmt.Sprintf("http_%d", res.StatusCode), "%.300s", data)
		return res.StatusCode == http.StatusTooManyRequests || res.StatusCode >= 500
	}
	var answer struct{ Embeddings [][]float32 }
	if err := json.Unmarshal(data, &answer); err != nil || len(answer.Embeddings) != texts || slices.ContainsFunc(answer.Embeddings, func(v []float32) bool { return len(v) == 0 }) {
		fail("bad_answer", "%v, %d vectors for %d texts in %.100s", err, len(answer.Embeddings), texts, data)
		return false
	}
	r.node, r.route = res.Header.Get("X-Akidb-Node"), res.Header.Get("X-Akidb-Route")
	out.Route, out.Region = r.route, res.Header.Get("X-Akidb-Region")
	return false
}

// inFlight says how many requests are out now.
func (c *client) inFlight() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.out)
}

// oldest is when the request began that is in flight the longest; now when there is none.
func (c *client) oldest() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := time.Now()
	for _, begin := range c.out {
		if begin.Before(first) {
			first = begin
		}
	}
	return first
}

// during gives the requests that began in a time.
func (c *client) during(from, to time.Time) []request {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []request
	for _, r := range c.requests {
		if !r.begin.Before(from) && r.begin.Before(to) {
			found = append(found, r)
		}
	}
	return found
}

// share says how many of the answered requests fulfil a condition, 0 to 1; 0 without requests.
func share(requests []request, ok func(request) bool) float64 {
	answered, count := 0, 0
	for _, r := range requests {
		if r.code == "" {
			answered++
			if ok(r) {
				count++
			}
		}
	}
	if answered == 0 {
		return 0
	}
	return float64(count) / float64(answered)
}
