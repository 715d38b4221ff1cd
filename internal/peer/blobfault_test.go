package peer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/akidb/akidbd/internal/node"
)

// slowBook gives a byte a second.
type slowBook struct{ io.ReadCloser }

func (s slowBook) Read(b []byte) (int, error) {
	time.Sleep(time.Second)
	return s.ReadCloser.Read(b[:1])
}

// cutBook ends early, well or badly.
type cutBook struct {
	io.ReadCloser
	left int
	err  error
}

func (c *cutBook) Read(b []byte) (int, error) {
	if c.left == 0 {
		return 0, c.err
	}
	n, err := c.ReadCloser.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}

// TestBlobCutOff: a transfer that does not come to its end is an error there, whatever cuts it off, and the rest
// can be fetched.
func TestBlobCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, s := blobPair(t, nil)
		data := noise(2 << 20)
		sha := s.put(data)
		for what, length := range map[string]int64{"all": int64(len(data)), "to the end": -1} {
			s.setWrap(func(r io.ReadCloser) io.ReadCloser { return &cutBook{r, 1 << 20, errors.New("I/O error")} })
			got, err := a.fetch(t.Context(), b, sha, 0, length)
			if err == nil || len(got) > 1<<20 {
				t.Errorf("%s, a file that cannot be read: %d bytes, %v", what, len(got), err)
			}
			s.setWrap(nil)
			rest, err := a.fetch(t.Context(), b, sha, int64(len(got)), -1)
			if err != nil || !bytes.Equal(slices.Concat(got, rest), data) {
				t.Errorf("%s, the rest: %d bytes, %v", what, len(rest), err)
			}
		}
		s.setWrap(func(r io.ReadCloser) io.ReadCloser { return &cutBook{r, 1 << 20, io.EOF} })
		if got, err := a.fetch(t.Context(), b, sha, 0, int64(len(data))); err == nil {
			t.Errorf("a file that is too short: %d bytes", len(got))
		}
		if n := b.value("akidb_peer_blobs_total", dirOut, blobsCut); n != 3 {
			t.Errorf("%v are counted as cut off there", n)
		}

		// Both ends, and what is between them.
		for what, cut := range map[string]func(cancel func()){
			"canceled":   func(cancel func()) { cancel() },
			"connection": func(func()) { a.closeBlobs() },
			"there":      func(func()) { b.closeBlobs() },
		} {
			s.setWrap(func(r io.ReadCloser) io.ReadCloser { return slowBook{r} })
			ctx, cancel := context.WithCancel(t.Context())
			r, err := a.Blob(ctx, b.id, sha, 0, -1)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			go func() { time.Sleep(3500 * time.Millisecond); cut(cancel) }()
			begin := time.Now()
			if got, err := io.ReadAll(r); err == nil || len(got) == 0 || len(got) > 4 || what == "canceled" && !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %d bytes, %v", what, len(got), err)
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("%s: noticed after %v", what, took)
			}
			cancel()
			_ = r.Close()
			await(t, "the file to be closed", func() bool { return s.opened() == 0 && len(b.blobs.places) == 0 })
		}
		// A node that hangs while it sends.
		s.setWrap(func(r io.ReadCloser) io.ReadCloser { return &hungBook{r, make(chan struct{})} })
		begin := time.Now()
		if _, err := a.fetch(t.Context(), b, sha, 0, -1); err == nil || time.Since(begin) > blobStall+time.Second {
			t.Errorf("hung: %v after %v", err, time.Since(begin))
		}
		await(t, "the file to be closed", func() bool { return s.opened() == 0 && len(b.blobs.places) == 0 })
		if in := a.value("akidb_peer_blobs_total", dirIn, blobsCut); in != 7 {
			t.Errorf("%v are counted as cut off", in)
		}
	})
}

// hungBook gives nothing until it is closed.
type hungBook struct {
	io.ReadCloser
	closed chan struct{}
}

func (h *hungBook) Read([]byte) (int, error) {
	<-h.closed
	return 0, io.ErrClosedPipe
}

func (h *hungBook) Close() error {
	close(h.closed)
	return h.ReadCloser.Close()
}

func (n *testNode) closeBlobs() {
	for conn := range n.blobs.open() {
		_ = conn.CloseWithError(codeClosed, "test")
	}
}

// TestBlobsOfALeavingNode: a node that stops gives out nothing new and does not wait for what it gives out.
func TestBlobsOfALeavingNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, s := blobPair(t, nil)
		sha := s.put(noise(1000))
		s.setWrap(func(r io.ReadCloser) io.ReadCloser { return slowBook{r} })
		r, err := a.Blob(t.Context(), b.id, sha, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		begin := time.Now()
		if err := b.stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > 3*time.Second { // a Read of the slow one ends
			t.Errorf("the stop took %v", took)
		}
		if _, err := io.ReadAll(r); err == nil {
			t.Error("the transfer ended well")
		}
		if _, err := a.fetch(t.Context(), b, sha, 0, 1); err == nil {
			t.Error("a stopped node gave something out")
		}
	})
}

// TestBlobGarbage: neither side trips over what makes no sense.
func TestBlobGarbage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, f := newTestCA(t), newFabric(t, time.Millisecond)
		s := &shelf{}
		sha := s.put(noise(1000))
		b := f.newNode(ca.identity(t, "b", "eu"), 2, nil)
		b.OnBlob(s.Blob)
		b.start()
		a := f.node(ca.identity(t, "a", "eu"), 1, nil)
		tr := &quic.Transport{Conn: f.socket(3)}
		defer tr.Close()
		ident := ca.identity(t, "odd", "eu")
		conn, err := tr.Dial(t.Context(), b.Addr(), ident.TLS([]string{blobVersion}), &quic.Config{KeepAlivePeriod: 200 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		good, err := newBlobRequest(sha, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		for _, junk := range [][]byte{
			{}, {1}, {9, 5}, {1, 99, 3}, good.frame()[:20], append(good.frame(), 0), bytes.Repeat([]byte{255}, 50), []byte(strings.Repeat("GET / HTTP/1.1\r\n", 100)),
		} {
			st, err := conn.OpenStreamSync(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_, _ = st.Write(junk)
			_ = st.Close()
			if got, err := io.ReadAll(st); !is[*quic.StreamError](err) || len(got) > 0 {
				t.Errorf("%.20q was answered: %d bytes, %v", junk, len(got), err)
			}
		}
		if n := b.value("akidb_peer_refused_total", refusedProtocol); n < 7 {
			t.Errorf("%v refusals", n)
		}
		_ = conn.CloseWithError(0, "")

		// A node that answers nonsense.
		ln, err := tr.Listen(ident.TLS([]string{blobVersion}), &quic.Config{})
		if err != nil {
			t.Fatal(err)
		}
		answers := make(chan []byte, 1)
		go func() {
			for {
				conn, err := ln.Accept(context.Background())
				if err != nil {
					return
				}
				go func() {
					for {
						st, err := conn.AcceptStream(context.Background())
						if err != nil {
							return
						}
						_, _ = io.ReadAll(st)
						_, _ = st.Write(<-answers)
						_ = st.Close()
					}
				}()
			}
		}()
		a.SetMembers([]node.Info{{ID: "odd", Region: "us", Addr: "10.0.0.3:7946"}})
		ok := func(n int64, bytes int) []byte {
			return append(blobAnswer(blobOK, n, ""), make([]byte, bytes)...)
		}
		for what, answer := range map[string][]byte{
			"nothing": {}, "half a head": {1}, "another version": {2, 0, 0, 0}, "an unknown code": blobAnswer(77, 0, "x\xff"),
			"a long reason": {1, 4, 255, 255}, "half a reason": {1, 4, 0, 9, 'x'}, "too little": ok(10, 9), "too much": ok(10, 11), "another length": ok(11, 11),
			"no length": ok(-1, 10), "a huge length": ok(1<<60, 10), "no end": ok(10, 0),
		} {
			answers <- answer
			r, err := a.Blob(t.Context(), "odd", sha, 0, 10)
			if err == nil {
				var got []byte
				got, err = io.ReadAll(r)
				if len(got) > 10 {
					t.Errorf("%s: %d bytes", what, len(got))
				}
				_ = r.Close()
			}
			if err == nil {
				t.Errorf("%s: taken", what)
			}
		}
		answers <- ok(10, 10)
		r, err := a.Blob(t.Context(), "odd", sha, 0, 10)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || len(got) != 10 {
			t.Errorf("an answer that makes sense: %d bytes, %v", len(got), err)
		}
		_ = r.Close()
	})
}

func FuzzBlobRequest(f *testing.F) {
	q, err := newBlobRequest(strings.Repeat("ab", 32), 1, 2)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(q.frame())
	q.length = -1
	f.Add(q.frame())
	f.Add(bytes.Repeat([]byte{255}, 50))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := readBlobRequest(bytes.NewReader(b))
		if err != nil {
			return
		}
		if q.offset < 0 || q.offset > maxBlobOffset || q.length < -1 || q.length > maxBlobOffset {
			t.Errorf("%+v", q)
		}
		if again := q.frame(); !bytes.Equal(again, b) {
			t.Errorf("%x became %x", b, again)
		}
	})
}

func FuzzBlobAnswer(f *testing.F) {
	f.Add(blobAnswer(blobOK, 5, ""))
	f.Add(blobAnswer(blobFailed, 0, "no"))
	f.Add([]byte{1, 4, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := readBlobAnswer(bytes.NewReader(b))
		if err == nil && (n < -1 || n > maxBlobOffset) {
			t.Errorf("%d bytes follow", n)
		}
	})
}
