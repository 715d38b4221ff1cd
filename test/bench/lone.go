package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/loadgen"
)

// lone compares a single client with the bare run over all cores. Each text is computed both ways, one after the
// other and each way first every other time: the machine drifts by more than the difference. A request for nothing
// after a bare run says how much of the difference is HTTP on caches that the run has emptied.
func (b *bench) lone(ctx context.Context) error {
	fmt.Printf("\n## One client, against a bare run over all cores on the same texts\n\n" +
		"| texts | server p50 | bare p50 | p50 - p50 | median of the differences | GET /livez after a bare run | what akidbd adds to both |\n|---|---|---|---|---|---|---|\n")
	for _, lengths := range []string{"short", "mixed"} {
		s, err := b.serve(ctx, infer.WideAuto)
		if err != nil {
			return err
		}
		err = b.pairs(ctx, s, lengths)
		if err = errors.Join(err, s.stop()); err != nil {
			return err
		}
	}
	return nil
}

// warmup is how many of the pairs do not count.
const warmup = 50

func (b *bench) pairs(ctx context.Context, s *server, lengths string) error {
	texts, err := loadgen.NewTexts(loadgen.TextsConfig{Lengths: lengths, Seed: 200})
	if err != nil {
		return err
	}
	rows, err := b.rows(lengths, 200, 4000)
	if err != nil {
		return err
	}
	c, err := dialLone(ctx, strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		return err
	}
	defer c.conn.Close()
	var server, bare, difference, empty []float64
	began := time.Now()
	for i := 0; time.Since(began) < 2*b.step*time.Duration(b.rounds); i++ {
		n := i % len(rows)
		var alone, asked, live float64
		for turn := range 2 {
			if (turn == 0) == (i%2 == 0) {
				started := time.Now()
				if _, err := b.raw.Run(ctx, infer.Batch{Rows: rows[n : n+1], Wide: true}); err != nil {
					return err
				}
				alone = time.Since(started).Seconds() * 1000
				if live, err = c.do("GET", "/livez", nil); err != nil { // as cold as the request finds the machine
					return err
				}
			} else if asked, err = c.embed(texts.Text(uint64(n))); err != nil {
				return err
			}
		}
		if i < warmup {
			continue
		}
		server, bare, difference, empty = append(server, asked), append(bare, alone), append(difference, asked-alone), append(empty, live)
	}
	if len(difference) == 0 {
		return fmt.Errorf("no pair was measured beyond the first %d: take a longer --step or more --rounds", warmup)
	}
	fmt.Printf("| %s | %.2f ms | %.2f ms | **%+.2f ms** | %+.2f ms | %.2f ms | %+.2f ms |\n", lengths, median(server), median(bare),
		median(server)-median(bare), median(difference), median(empty), median(difference)-median(empty))
	return nil
}

// loneClient asks over one connection from the caller's own goroutine. net/http's client hands a request through
// three, which alone costs 0.2 ms when a run has just emptied the caches.
type loneClient struct {
	host string
	conn net.Conn
	in   *bufio.Reader
	out  bytes.Buffer
	body bytes.Buffer
}

func dialLone(ctx context.Context, host string) (*loneClient, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, err
	}
	return &loneClient{host: host, conn: conn, in: bufio.NewReader(conn)}, nil
}

func (c *loneClient) embed(text string) (ms float64, err error) {
	asked, err := json.Marshal(map[string]string{"text": text})
	if err != nil {
		return 0, err
	}
	return c.do("POST", "/api/v1/embed", asked)
}

// do is one request and its whole answer; ms is the time of both.
func (c *loneClient) do(method, path string, body []byte) (ms float64, err error) {
	c.out.Reset()
	fmt.Fprintf(&c.out, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		method, path, c.host, len(body), body)
	started := time.Now()
	if _, err = c.conn.Write(c.out.Bytes()); err != nil {
		return 0, err
	}
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0, err
	}
	c.body.Reset()
	_, err = io.Copy(&c.body, res.Body)
	ms = time.Since(started).Seconds() * 1000
	if err = errors.Join(err, res.Body.Close()); err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: status %d: %s", method, path, res.StatusCode, c.body.Bytes())
	}
	return ms, err
}
