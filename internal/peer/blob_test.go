package peer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/akidb/akidbd/internal/node"
)

// shelf gives out blobs of memory. What is read of it goes through wrap.
type shelf struct {
	mu    sync.Mutex
	blobs map[string][]byte
	fail  error // of all
	wrap  func(io.ReadCloser) io.ReadCloser
	open  int
}

func (s *shelf) put(b []byte) string {
	sum := sha256.Sum256(b)
	name := hex.EncodeToString(sum[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.blobs == nil {
		s.blobs = map[string][]byte{}
	}
	s.blobs[name] = b
	return name
}

func (s *shelf) Blob(_ context.Context, sha string, offset, length int64) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.blobs[sha]
	switch {
	case s.fail != nil:
		return nil, s.fail
	case !ok || offset > int64(len(b)) || length > int64(len(b))-offset:
		return nil, fmt.Errorf("%s: %w", sha, ErrNoBlob)
	}
	b = b[offset:]
	if length >= 0 {
		b = b[:length]
	}
	s.open++
	var r io.ReadCloser = &book{Reader: bytes.NewReader(b), s: s}
	if s.wrap != nil {
		r = s.wrap(r)
	}
	return r, nil
}

func (s *shelf) opened() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

func (s *shelf) setWrap(f func(io.ReadCloser) io.ReadCloser) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrap = f
}

func (s *shelf) setFail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

type book struct {
	io.Reader
	s *shelf
}

func (b *book) Close() error {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	b.s.open--
	return nil
}

func noise(n int) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(b)
	return b
}

// blobPair is two linked nodes, the second of which gives out a shelf.
func blobPair(t *testing.T, change func(*Config)) (a, b *testNode, s *shelf) {
	t.Helper()
	s = &shelf{}
	ca, f := newTestCA(t), newFabric(t, time.Millisecond)
	a, b = f.node(ca.identity(t, "a", "eu"), 1, nil), f.newNode(ca.identity(t, "b", "eu"), 2, change)
	b.OnBlob(s.Blob)
	b.start()
	meet(a, b)
	awaitUp(t, a, b)
	return a, b, s
}

func (n *testNode) fetch(ctx context.Context, from *testNode, sha string, offset, length int64) ([]byte, error) {
	r, err := n.Blob(ctx, from.id, sha, offset, length)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// carries is how many connections for blobs a node has, both ways.
func (n *testNode) carries() int { return len(n.blobs.open()) }

func TestBlob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, s := blobPair(t, nil)
		data := noise(3<<20 + 17)
		sha, none := s.put(data), s.put(nil)
		size := int64(len(data))
		for _, c := range []struct{ offset, length int64 }{{0, -1}, {0, size}, {0, 0}, {1, 5}, {size - 1, 1}, {size - 3, -1}, {size, -1}, {blobChunk - 1, 2*blobChunk + 1}} {
			got, err := a.fetch(t.Context(), b, sha, c.offset, c.length)
			want := data[c.offset:]
			if c.length >= 0 {
				want = want[:c.length]
			}
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes from %d: %d bytes, %v", c.length, c.offset, len(got), err)
			}
		}
		if got, err := a.fetch(t.Context(), b, none, 0, -1); err != nil || len(got) != 0 {
			t.Errorf("an empty blob: %d bytes, %v", len(got), err)
		}
		if a.carries() != 1 || b.carries() != 1 || a.connections("b") != 1 {
			t.Errorf("%d and %d connections for blobs, %d for the rest", a.carries(), b.carries(), a.connections("b"))
		}
		if s.opened() != 0 || len(b.blobs.places) != 0 {
			t.Errorf("%d blobs stay open, %d places are taken", s.opened(), len(b.blobs.places))
		}
		if got := b.value("akidb_peer_blobs_total", dirOut, codeOK); got != 9 || a.value("akidb_peer_blobs_total", dirIn, codeOK) != 9 {
			t.Errorf("%v blobs are counted", got)
		}
		if in, out := a.value("akidb_peer_blob_bytes_total", dirIn), b.value("akidb_peer_blob_bytes_total", dirOut); in != out || in < float64(2*size) {
			t.Errorf("%v and %v bytes are counted", in, out)
		}

		// The connection goes when nobody needs it, and comes again.
		time.Sleep(blobIdle - 2*time.Second)
		if a.carries() != 1 {
			t.Error("closed too early")
		}
		time.Sleep(4 * time.Second)
		if a.carries() != 0 || b.carries() != 0 || !a.see("b").Link.Up {
			t.Errorf("%d and %d connections for blobs after a while", a.carries(), b.carries())
		}
		if got, err := a.fetch(t.Context(), b, sha, 0, 3); err != nil || !bytes.Equal(got, data[:3]) {
			t.Errorf("after a while: %v, %v", got, err)
		}
	})
}

func TestBlobRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, s := blobPair(t, func(c *Config) { c.MaxBlobs = 1 })
		data := noise(8 << 20)
		sha, other := s.put(data), strings.Repeat("ab", 32)
		for what, c := range map[string]struct {
			sha            string
			offset, length int64
			want           error
		}{
			"unknown":      {other, 0, -1, ErrNoBlob},
			"after it":     {sha, int64(len(data)) + 1, -1, ErrNoBlob},
			"longer":       {sha, 0, int64(len(data)) + 1, ErrNoBlob},
			"its end":      {sha, 1, int64(len(data)), ErrNoBlob},
			"no name":      {"", 0, -1, nil},
			"no hex":       {strings.Repeat("xy", 32), 0, -1, nil},
			"capitals":     {strings.ToUpper(other), 0, -1, nil},
			"a path":       {"../" + sha[3:], 0, -1, nil},
			"before it":    {sha, -1, 1, nil},
			"far too long": {sha, 0, maxBlobOffset + 1, nil},
			"far too far":  {sha, maxBlobOffset + 1, 1, nil},
		} {
			if _, err := a.fetch(t.Context(), b, c.sha, c.offset, c.length); err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", what, err, c.want)
			}
		}
		s.setFail(ErrComing)
		if _, err := a.fetch(t.Context(), b, sha, 0, -1); !errors.Is(err, ErrComing) {
			t.Errorf("coming: %v", err)
		}
		s.setFail(errors.New("open /secret/path: I/O error"))
		if _, err := a.fetch(t.Context(), b, sha, 0, -1); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("failed: %v", err)
		}
		if !strings.Contains(b.logs.String(), "/secret/path") {
			t.Error("its log does not say why")
		}
		s.setFail(nil)

		// One at a time.
		r, err := a.Blob(t.Context(), b.id, sha, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.fetch(t.Context(), b, sha, 0, 1); !errors.Is(err, ErrBusy) {
			t.Errorf("a second one: %v", err)
		}
		_ = r.Close()
		await(t, "the place to be free", func() bool { return len(b.blobs.places) == 0 && s.opened() == 0 })
		if _, err := a.fetch(t.Context(), b, sha, 0, 1); err != nil {
			t.Errorf("after it: %v", err)
		}

		// One that is left unread gives its place back.
		r, err = a.Blob(t.Context(), b.id, sha, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if len(b.blobs.places) != 1 {
			t.Error("an unread blob has no place")
		}
		time.Sleep(blobStall)
		if len(b.blobs.places) != 0 || s.opened() != 0 {
			t.Error("an unread blob keeps its place")
		}
		if _, err := io.ReadAll(r); err == nil {
			t.Error("an unread blob ends well")
		}
		_ = r.Close()
	})
}

func TestBlobOfAnotherNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, s := blobPair(t, nil)
		sha := s.put(noise(100))
		if _, err := a.Blob(t.Context(), "carol", sha, 0, -1); err == nil {
			t.Error("a node of which nothing is known")
		}
		// The link knows better than an old address, and a wrong one leads to nobody else.
		stale := b.info()
		stale.Addr = "10.0.0.77:7946"
		a.SetMembers([]node.Info{stale, {ID: "carol", Region: "eu", Addr: b.Addr().String()}})
		if _, err := a.Blob(t.Context(), "carol", sha, 0, -1); !is[*nameError](err) {
			t.Errorf("another node at its address: %v", err)
		}
		r, err := a.Blob(t.Context(), "b", sha, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if _ = r.Close(); err != nil || len(got) != 100 {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		// A node that is denied is cut off, and gets nothing any more.
		s.setWrap(func(r io.ReadCloser) io.ReadCloser { return slowBook{r} })
		r, err = a.Blob(t.Context(), b.id, sha, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		b.ident.deny("a")
		if _, err := io.ReadAll(r); err == nil {
			t.Error("a denied node got all")
		}
		_ = r.Close()
		if _, err := a.fetch(t.Context(), b, sha, 0, -1); err == nil {
			t.Error("a denied node got a blob")
		}
		await(t, "its connections to go", func() bool { return a.carries() == 0 && b.carries() == 0 })
	})
}

// TestBlobsLeaveRequestsAlone: with as much of blobs on the way as their connection takes, unread, requests are
// answered all the same: they have a connection, and windows, of their own.
func TestBlobsLeaveRequestsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, s := blobPair(t, nil)
		sha := s.put(noise(64 << 20))
		var readers []io.ReadCloser
		for range 4 {
			r, err := a.Blob(t.Context(), b.id, sha, 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			readers = append(readers, r)
		}
		time.Sleep(5 * time.Second) // the windows are full
		sent := b.value("akidb_peer_blob_bytes_total", dirOut)
		time.Sleep(time.Second)
		if now := b.value("akidb_peer_blob_bytes_total", dirOut); now != sent || sent == 0 {
			t.Fatalf("%v bytes, then %v: the windows are not full", sent, now)
		}
		begin := time.Now()
		for range 100 {
			if _, err := a.Embed(t.Context(), b.info(), one("x")); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begin); took > 100*5*time.Millisecond { // a round trip each, 2 ms
			t.Errorf("100 requests took %v", took)
		}
		for _, r := range readers {
			_ = r.Close()
		}
	})
}

// TestBlobPace: all blobs together are given out at the configured pace.
func TestBlobPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const perSecond, size = 1 << 20, 5 << 20
		a, b, s := blobPair(t, func(c *Config) { c.BlobRate = perSecond })
		sha := s.put(noise(size))
		begin := time.Now()
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if got, err := a.fetch(t.Context(), b, sha, 0, -1); err != nil || len(got) != size {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(begin); took < 9*time.Second || took > 11*time.Second {
			t.Errorf("10 MiB took %v at 1 MiB/s", took)
		}
	})
}
