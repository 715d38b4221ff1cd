// Package client is a small HTTP client of a node's native API, and the command `akidbd embed` on top of it.
package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"github.com/akidb/akidbd/internal/embedding"
)

// KeyVariable is the environment variable that commands take the API key from. A flag would show it to every
// user of the machine.
const KeyVariable = "AKIDB_API_KEY"

// Limits of answers, in bytes: 2,048 vectors of 4,096 dimensions in JSON are about 180 MB.
const (
	maxAnswer      = 256 << 20
	maxErrorAnswer = 64 << 10
)

// Request asks for one vector per text.
type Request struct {
	Texts      []string `json:"texts"`
	Model      string   `json:"model,omitempty"`       // "" is the server's default
	Dimensions int      `json:"dimensions,omitempty"`  // 0 is all
	PromptName string   `json:"prompt_name,omitempty"` // "" is the model's default prompt
	Normalize  *bool    `json:"normalize,omitempty"`   // nil is the model's rule
	Truncate   *bool    `json:"truncate,omitempty"`    // nil is the server's setting
}

// Response answers a Request: one vector for each text, all of one length.
type Response struct {
	Embeddings [][]float32 `json:"embeddings"`
	Model      string      `json:"model"` // name@digest
	Dimensions int         `json:"dimensions"`
	Usage      Usage       `json:"usage"`
	ServedBy   ServedBy    `json:"served_by"`
	Truncated  int         `json:"-"` // how many texts were cut to fit the model, from the header x-akidb-truncated
}

// Usage is what a request cost.
type Usage struct {
	Tokens int `json:"tokens"`
}

// ServedBy is who computed an answer.
type ServedBy struct {
	Node   string `json:"node"`
	Region string `json:"region"`
	Route  string `json:"route"` // "local" or "forwarded"
}

// Error is an answer of the server that is no embedding.
type Error struct {
	Status  int
	Code    embedding.Code // "" when the answer names none
	Message string         // "" when the answer has none that can be read
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status))
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

// Embed asks the node at the base URL (http://host:8080). key is the API key, "" for none. The error is an
// *Error when the server answered. Each call uses a connection of its own.
func Embed(ctx context.Context, base, key string, req Request) (Response, error) {
	endpoint, err := endpoint(base)
	if err != nil {
		return Response{}, err
	}
	body, err := json.Marshal(req)
	if err != nil {
		return Response{}, err
	}
	hr, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, bytes.NewReader(body))
	if err != nil {
		return Response{}, err
	}
	hr.Header.Set("Content-Type", "application/json")
	hr.Header.Set("Accept", "application/json")
	if key != "" {
		hr.Header.Set("Authorization", "Bearer "+key)
	}
	hc := http.Client{
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := hc.Do(hr)
	if err != nil {
		return Response{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return Response{}, readError(resp)
	}
	return readResponse(resp, len(req.Texts))
}

func endpoint(base string) (string, error) {
	u, err := url.Parse(base)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return "", fmt.Errorf("the URL of a node looks like http://localhost:8080, not %q", base)
	}
	if u.User != nil {
		return "", fmt.Errorf("no user and password in a URL; the key comes from %s", KeyVariable)
	}
	return strings.TrimRight(base, "/") + "/api/v1/embed", nil
}

func readResponse(resp *http.Response, texts int) (Response, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return Response{}, fmt.Errorf("reading the answer: %w", err)
	}
	if len(body) > maxAnswer {
		return Response{}, fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
	}
	var r Response
	if err := json.Unmarshal(body, &r); err != nil {
		return Response{}, fmt.Errorf("the answer is not one of akidbd: %w", err)
	}
	if len(r.Embeddings) != texts {
		return Response{}, fmt.Errorf("the answer has %d vectors for %d texts", len(r.Embeddings), texts)
	}
	for i, v := range r.Embeddings {
		if len(v) == 0 || len(v) != len(r.Embeddings[0]) {
			return Response{}, fmt.Errorf("vector %d of the answer has %d dimensions, the first one %d",
				i+1, len(v), len(r.Embeddings[0]))
		}
	}
	// A number that cannot be read is not worth an error: the vectors are there.
	r.Truncated, _ = strconv.Atoi(resp.Header.Get("X-Akidb-Truncated"))
	return r, nil
}

// readError reads an error answer: {"error": {"code", "message"}}, or its parts at the top.
func readError(resp *http.Response) error {
	e := &Error{Status: resp.StatusCode}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorAnswer))
	if err != nil {
		return e
	}
	type parts struct {
		Code    embedding.Code `json:"code"`
		Message string         `json:"message"`
	}
	var doc struct {
		Error json.RawMessage `json:"error"`
		parts
	}
	if json.Unmarshal(body, &doc) != nil {
		return e
	}
	p := doc.parts
	var message string
	if json.Unmarshal(doc.Error, &message) == nil {
		p.Message = message
	} else if len(doc.Error) > 0 {
		var nested parts
		if json.Unmarshal(doc.Error, &nested) == nil {
			p = nested
		}
	}
	e.Code, e.Message = cmp.Or(embedding.Code(resp.Header.Get("X-Akidb-Code")), p.Code), p.Message
	return e
}

// explain turns an error of Embed into one that says what to do.
func explain(err error, base, key string) error {
	if e, ok := errors.AsType[*Error](err); ok {
		switch {
		case e.Status == http.StatusUnauthorized && key == "":
			return fmt.Errorf("%s wants an API key: set %s", base, KeyVariable)
		case e.Status == http.StatusUnauthorized:
			return fmt.Errorf("%s does not accept the API key in %s", base, KeyVariable)
		case e.Code == "" && e.Message == "":
			return fmt.Errorf("%s answered %w without a reason; is it an akidbd node?", base, e)
		}
		return e
	}
	const hint = "start one with `make run` or `systemctl start akidbd`, or name another with --url"
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return fmt.Errorf("the host of %s is not known: %w", base, dns)
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no node listens at %s; %s", base, hint)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s did not answer in time (--timeout)", base)
	}
	return fmt.Errorf("asking %s: %w", base, err)
}
