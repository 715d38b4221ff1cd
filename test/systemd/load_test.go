//go:build systemd

package systemd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load is clients that ask one after the other, over connections that they keep. A client knows some nodes: what one
// does not answer it asks the next.
type load struct {
	stop chan struct{}
	wg   sync.WaitGroup
	n    atomic.Int64

	mu       sync.Mutex
	answered int
	refused  int // no node took the connection
	retried  int
	failures []string
	last     time.Time      // when the last request began that was answered
	worst    time.Duration  // of an answered request
	by       map[string]int // answers by node
}

type answer struct{ Embeddings [][]float32 }

var errRefused = errors.New("connection refused")

// startLoad starts clients on a machine of the network.
func startLoad(from *machine, clients int, nodes ...*machine) *load {
	l := &load{stop: make(chan struct{}), by: map[string]int{}}
	for c := range clients {
		l.wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{DialContext: from.host.DialContext, MaxIdleConnsPerHost: 1}}
			defer client.CloseIdleConnections()
			for i := 0; ; i++ {
				select {
				case <-l.stop:
					return
				default:
				}
				l.one(client, fmt.Sprintf("client %d asks for the %d. time", c, i), nodes)
			}
		})
	}
	return l
}

func (l *load) one(client *http.Client, text string, nodes []*machine) {
	began := time.Now()
	first := int(l.n.Add(1))
	var err error
	var by string
	tries := 0
	for i := range nodes {
		tries++
		if by, err = embed(client, nodes[(first+i)%len(nodes)].url(), text); err == nil {
			break
		}
	}
	l.record(began, tries, by, err)
	if err != nil {
		time.Sleep(10 * time.Millisecond) // not to spin on a node that is gone
	}
}

func (l *load) record(began time.Time, tries int, by string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.retried += tries - 1
	switch {
	case err == nil:
		l.answered++
		l.by[by]++
		l.worst = max(l.worst, time.Since(began))
		if began.After(l.last) {
			l.last = began
		}
	case errors.Is(err, errRefused):
		l.refused++
	default:
		l.failures = append(l.failures, err.Error())
	}
}

func embed(client *http.Client, url, text string) (by string, err error) {
	body, err := json.Marshal(map[string]any{"texts": []string{text}})
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 12*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/api/v1/embed", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return "", errRefused
	}
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %d: %.200s", res.StatusCode, data)
	}
	var a answer
	if err := json.Unmarshal(data, &a); err != nil || len(a.Embeddings) != 1 || len(a.Embeddings[0]) == 0 {
		return "", fmt.Errorf("no vector: %v in %.100s", err, data)
	}
	return res.Header.Get("X-Akidb-Node"), nil
}

// end stops the load; no request may have failed that a node took.
func (l *load) end(t *testing.T) {
	t.Helper()
	close(l.stop)
	l.wg.Wait()
	t.Logf("RESULT %d answered (%v), %d asked of the next node, %d refused, %d failed, the slowest took %v", l.answered, l.by, l.retried, l.refused,
		len(l.failures), l.worst.Round(time.Millisecond))
	if len(l.failures) > 0 {
		t.Errorf("%d requests failed, the first: %s", len(l.failures), l.failures[0])
	}
	if l.answered < 20 {
		t.Errorf("only %d requests were answered", l.answered)
	}
}

// count says how many were answered until now.
func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answered
}

func (l *load) lastAnswered() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// nodes says which nodes answered since the last call.
func (l *load) nodes() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	by := l.by
	l.by = map[string]int{}
	return by
}
