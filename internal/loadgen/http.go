package loadgen

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// API is the HTTP API that requests are written for.
type API string

// The APIs that HTTP speaks.
const (
	Native API = "native" // POST /api/v1/embed
	OpenAI API = "openai" // POST /v1/embeddings
)

// maxAnswer is the largest answer that is read, in bytes: 2,048 texts of 4,096 dimensions in JSON are about 180 MB.
const maxAnswer = 256 << 20

// HTTPConfig configures an HTTP sender.
type HTTPConfig struct {
	URLs  []string // base URLs of servers, one or more; requests go round them
	API   API      // "" means Native
	Model string   // "" means the server's default
	Key   string   // API key, sent as a bearer token; "" sends none
	// Timeout of one attempt. 0 means 30 s.
	Timeout time.Duration
	// Failover sends a request that a server could not answer (no connection, timeout, 429, 5xx) to the next
	// URL, each URL once.
	Failover bool
	// Verify decodes every answer: as many vectors as texts, all of one length, all values finite and not all
	// zero. It costs the sender several times more CPU.
	Verify bool
	// Connections that are kept open to each server, about the number of clients. 0 means 64.
	Connections int
}

// HTTP is a Sender over HTTP/1.1 with kept connections.
type HTTP struct {
	cfg        HTTPConfig
	endpoints  []string
	client     *http.Client
	buffers    sync.Pool // *bytes.Buffer, for answers
	dimensions atomic.Int64
}

// NewHTTP makes an HTTP sender. Close frees its connections.
func NewHTTP(cfg HTTPConfig) (*HTTP, error) {
	if len(cfg.URLs) == 0 {
		return nil, fmt.Errorf("at least one URL is needed")
	}
	path := "/api/v1/embed"
	switch cfg.API {
	case Native, "":
		cfg.API = Native
	case OpenAI:
		path = "/v1/embeddings"
		if cfg.Model == "" {
			cfg.Model = "default"
		}
	default:
		return nil, fmt.Errorf("the API is native or openai, not %q", cfg.API)
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.Connections <= 0 {
		cfg.Connections = 64
	}
	h := &HTTP{cfg: cfg}
	for _, base := range cfg.URLs {
		u, err := url.Parse(base)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return nil, fmt.Errorf("a URL looks like http://localhost:8080, not %q", base)
		}
		if u.User != nil {
			return nil, fmt.Errorf("no user and password in a URL (the one for %s)", u.Host)
		}
		h.endpoints = append(h.endpoints, strings.TrimRight(base, "/")+path)
	}
	h.buffers.New = func() any { return new(bytes.Buffer) }
	h.client = &http.Client{
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DisableCompression:  true,
			MaxIdleConnsPerHost: cfg.Connections,
			IdleConnTimeout:     30 * time.Second,
			ReadBufferSize:      32 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return h, nil
}

// Close closes the connections that are kept.
func (h *HTTP) Close() { h.client.CloseIdleConnections() }

// Send implements Sender. The codes of failures are those of package embedding when the server gave one, else
// "http_" and the status; "timeout", "connection_refused", "connection_lost", "dns", "tls" and "network" when
// there was no whole answer; "bad_answer" when a 200 was not what it should be.
func (h *HTTP) Send(ctx context.Context, n uint64, texts []string) Outcome {
	// The transport may still read the body after an early answer, so the body's buffer is not used again.
	var body bytes.Buffer
	h.encode(&body, texts)
	answer := h.buffers.Get().(*bytes.Buffer)
	defer h.buffers.Put(answer)

	first := int(n % uint64(len(h.endpoints)))
	tries := 1
	if h.cfg.Failover {
		tries = len(h.endpoints)
	}
	var out Outcome
	for i := range tries {
		out.URL = (first + i) % len(h.endpoints)
		out.Code, out.Message = "", ""
		again := h.attempt(ctx, &out, body.Bytes(), answer, len(texts))
		if out.Code == "" || !again || ctx.Err() != nil {
			break
		}
		if i < tries-1 {
			out.Retried = append(out.Retried, out.URL)
		}
	}
	return out
}

// attempt sends a request to one server. It says whether another server may do better.
func (h *HTTP) attempt(ctx context.Context, out *Outcome, body []byte, answer *bytes.Buffer, texts int) (again bool) {
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.endpoints[out.URL], bytes.NewReader(body))
	if err != nil {
		out.Code, out.Message = "network", err.Error()
		return false
	}
	req.Header.Set("Content-Type", "application/json")
	if h.cfg.Key != "" {
		req.Header.Set("Authorization", "Bearer "+h.cfg.Key)
	}
	out.Sent += int64(len(body))
	resp, err := h.client.Do(req)
	if err != nil {
		out.Code, out.Message = networkCode(err), networkMessage(err)
		return true
	}
	answer.Reset()
	read, err := answer.ReadFrom(io.LimitReader(resp.Body, maxAnswer+1))
	resp.Body.Close()
	out.Received += read
	switch {
	case err != nil:
		out.Code, out.Message = networkCode(err), networkMessage(err)
		return true
	case read > maxAnswer:
		out.Code, out.Message = codeBadAnswer, fmt.Sprintf("the answer is larger than %d bytes", maxAnswer)
		return false
	case resp.StatusCode != http.StatusOK:
		out.Code, out.Message = serverError(resp.StatusCode, resp.Header, answer.Bytes())
		return resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500
	}
	if err := h.read(out, resp.Header, answer.Bytes(), texts); err != nil {
		out.Code, out.Message = codeBadAnswer, err.Error()
	}
	return false
}

// read takes what is measured from an answer.
func (h *HTTP) read(out *Outcome, header http.Header, body []byte, texts int) error {
	f, err := skim(body)
	if err != nil {
		return err
	}
	if f.usage != nil {
		var usage struct {
			Tokens       int64 `json:"tokens"`
			PromptTokens int64 `json:"prompt_tokens"`
		}
		if err := json.Unmarshal(f.usage, &usage); err != nil {
			return fmt.Errorf("usage: %w", err)
		}
		out.Tokens = max(usage.Tokens, usage.PromptTokens)
	}
	out.Route = header.Get("X-Akidb-Route")
	out.Region = header.Get("X-Akidb-Region")
	if f.servedBy != nil {
		var by struct{ Region, Route string }
		if err := json.Unmarshal(f.servedBy, &by); err != nil {
			return fmt.Errorf("served_by: %w", err)
		}
		out.Region = by.Region
		if by.Route != "" {
			out.Route = by.Route
		}
	}
	out.Region, out.Route = label(out.Region), label(out.Route)
	if h.cfg.Verify {
		return h.verify(f, texts)
	}
	return nil
}

// label makes what a server said fit for a row of a table.
func label(s string) string {
	if len(s) > 64 {
		s = s[:64]
	}
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

// encode writes the body of a request.
func (h *HTTP) encode(b *bytes.Buffer, texts []string) {
	field := `{"texts":[`
	if h.cfg.API == OpenAI {
		field = `{"input":[`
	}
	size := 64
	for _, t := range texts {
		size += len(t) + 3
	}
	b.Grow(size)
	b.WriteString(field)
	for i, t := range texts {
		if i > 0 {
			b.WriteByte(',')
		}
		writeString(b, t)
	}
	b.WriteByte(']')
	if h.cfg.Model != "" {
		b.WriteString(`,"model":`)
		writeString(b, h.cfg.Model)
	}
	b.WriteByte('}')
}

// writeString writes a JSON string. Plain ASCII, which made texts are, is copied.
func writeString(b *bytes.Buffer, s string) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(s) // a string never fails
			b.Write(quoted)
			return
		}
	}
	b.WriteByte('"')
	b.WriteString(s)
	b.WriteByte('"')
}
