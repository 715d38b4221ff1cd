package api

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// TestDrainUnderLoad drains in the middle of a hammering by clients of every kind. A connect that is refused
// is fine; a request that was sent must be answered.
func TestDrainUnderLoad(t *testing.T) {
	for name, tc := range map[string]struct {
		delay   time.Duration
		client  func(*testing.T) *http.Client
		clients int
		oneShot bool // a new connection for every request
		pause   time.Duration
	}{
		"keep-alive":             {100 * time.Millisecond, h1Client, 16, false, 0},
		"keep-alive with pauses": {150 * time.Millisecond, h1Client, 32, false, 20 * time.Millisecond},
		"connection per request": {0, h1Client, 16, true, 0},
		"h2c":                    {100 * time.Millisecond, h2cClient, 16, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDoor(t, Config{})
			slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(time.Duration(time.Now().UnixNano()%3) * time.Millisecond) // spreads where the drain hits
				d.Handler().ServeHTTP(w, r)
			})
			url, s, _ := serveDoor(t, ServerConfig{DrainDelay: tc.delay}, slow)
			var ok, refused atomic.Int64
			var lost sync.Map
			started := make(chan struct{})
			var once sync.Once
			var clients sync.WaitGroup
			for i := range tc.clients {
				client := tc.client(t)
				if tr, isH1 := client.Transport.(*http.Transport); isH1 && tc.oneShot {
					tr.DisableKeepAlives = true
				}
				clients.Go(func() {
					for n := 0; ; n++ {
						body := fmt.Sprintf(`{"text":"client %d, request %d"}`, i, n)
						err := post(client, url+"/api/v1/embed", body)
						switch {
						case err == nil:
							if ok.Add(1) > int64(20*tc.clients) {
								once.Do(func() { close(started) })
							}
						case errors.Is(err, syscall.ECONNREFUSED):
							refused.Add(1)
							return
						default:
							lost.Store(fmt.Sprintf("client %d, request %d", i, n), err)
							return
						}
						if tc.pause > 0 {
							time.Sleep(tc.pause)
						}
					}
				})
			}
			<-started
			before := time.Now()
			if err := s.Drain(t.Context()); err != nil {
				t.Error(err)
			}
			took := time.Since(before)
			clients.Wait()
			lost.Range(func(what, err any) bool {
				t.Errorf("%v was lost: %v", what, err)
				return true
			})
			if refused.Load() != int64(tc.clients) {
				t.Errorf("%d of %d clients saw the listener closed", refused.Load(), tc.clients)
			}
			if took > tc.delay+3*time.Second {
				t.Errorf("the drain took %s", took)
			}
			t.Logf("%d answered, drain took %s", ok.Load(), took)
		})
	}
}

func post(client *http.Client, url, body string) error {
	resp, err := client.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != 200 || !json.Valid(answer) {
		return fmt.Errorf("status %d: %s", resp.StatusCode, answer)
	}
	return nil
}

// TestDrainSaysLeave: in a drain's delay answers say "Connection: close", also to requests from before.
func TestDrainSaysLeave(t *testing.T) {
	d := newDoor(t, Config{})
	d.fake.hold()
	url, s, _ := serveDoor(t, ServerConfig{}, d.Handler())
	client := h1Client(t)
	answers := make(chan *http.Response, 1)
	get := func(body string) *http.Response {
		resp, err := client.Post(url+"/api/v1/embed", "", strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return nil
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return resp
	}
	if get(`{"text":"x"}`).Close {
		t.Error("told to leave before the drain")
	}
	go func() { answers <- get(`{"text":"wait"}`) }()
	<-d.fake.waiting
	s.Leave()
	if !get(`{"text":"x"}`).Close {
		t.Error("a new request was not told to leave")
	}
	close(d.fake.gate)
	if !(<-answers).Close {
		t.Error("a request from before was not told to leave")
	}
}

// TestDrainGrace: a request that takes longer than the grace is cut off, and Run says so.
func TestDrainGrace(t *testing.T) {
	d := newDoor(t, Config{Deadline: time.Minute})
	d.fake.hold()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(ServerConfig{Grace: time.Hour}, d.Handler())
	s.SetDrain(0, 100*time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx, ln) }()
	cut := make(chan error)
	client := h1Client(t)
	go func() { cut <- post(client, "http://"+ln.Addr().String()+"/api/v1/embed", `{"text":"wait"}`) }()
	<-d.fake.waiting
	cancel()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "requests were cut off after 100ms") {
		t.Errorf("Run gave %v", err)
	}
	if err := <-cut; err == nil {
		t.Error("the request was answered")
	}
}

func TestServerListeners(t *testing.T) {
	d := newDoor(t, Config{})
	var lns []net.Listener
	for range 2 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		lns = append(lns, ln)
	}
	s := NewServer(ServerConfig{}, d.Handler())
	done := make(chan error)
	go func() { done <- s.Run(t.Context(), lns...) }()
	client := h1Client(t)
	for _, ln := range lns {
		if err := post(client, "http://"+ln.Addr().String()+"/api/v1/embed", `{"text":"x"}`); err != nil {
			t.Error(err)
		}
	}
	// A listener that fails ends the server, with a word why.
	_ = lns[1].Close()
	if err := <-done; err == nil || !strings.Contains(err.Error(), lns[1].Addr().String()) {
		t.Errorf("Run gave %v", err)
	}
	if _, err := net.Dial("tcp", lns[0].Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the other listener is still open: %v", err)
	}
	if err := s.Drain(t.Context()); err != nil {
		t.Errorf("a drain after the end gave %v", err)
	}
}

// TestHostileClients: headers that do not come or do not end, bodies that trickle or are announced too large.
func TestHostileClients(t *testing.T) {
	d := newDoor(t, Config{BodyTimeout: 50 * time.Millisecond, WriteTimeout: 50 * time.Millisecond})
	url, _, _ := serveDoor(t, ServerConfig{ReadHeaderTimeout: 50 * time.Millisecond, MaxHeaderBytes: 8 << 10}, d.Handler())
	address := strings.TrimPrefix(url, "http://")
	for name, tc := range map[string]struct{ send, want string }{
		"no headers":     {"", ""},
		"half a header":  {"POST /api/v1/embed HTTP/1.1\r\nHos", ""},
		"long headers":   {"GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 20<<10) + "\r\n\r\n", "HTTP/1.1 431"},
		"half a body":    {"POST /api/v1/embed HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", "HTTP/1.1 504"},
		"a huge body":    {"POST /api/v1/embed HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{", "HTTP/1.1 413"},
		"no HTTP at all": {"\x16\x03\x01\x00\x00\r\n\r\n", "HTTP/1.1 400"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, tc.send); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
			got, err := io.ReadAll(conn) // ends when the server closes
			if errors.Is(err, syscall.ECONNRESET) {
				err = nil
			}
			if err != nil || !bytes.HasPrefix(got, []byte(tc.want)) {
				t.Errorf("got %.80q, %v, want %q", got, err, tc.want)
			}
		})
	}
}

// TestKeepAliveOutlivesDeadlines: the deadlines of one answer must not hit the next on the same connection.
func TestKeepAliveOutlivesDeadlines(t *testing.T) {
	d := newDoor(t, Config{BodyTimeout: 30 * time.Millisecond, WriteTimeout: 30 * time.Millisecond, Deadline: time.Minute})
	d.fake.hold()
	url, _, _ := serveDoor(t, ServerConfig{}, d.Handler())
	client := h1Client(t)
	for _, path := range []string{"/api/v1/embed", "/health", "/akidb.v1.EmbeddingService/ListModels"} {
		body := `{"text":"x"}`
		var resp *http.Response
		var err error
		switch path {
		case "/health":
			resp, err = client.Get(url + path)
		default:
			if strings.Contains(path, "ListModels") {
				body = "{}"
			}
			resp, err = client.Post(url+path, "application/json", strings.NewReader(body))
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("%s: got %d", path, resp.StatusCode)
		}
		<-time.After(60 * time.Millisecond) // past both deadlines
	}
	// An embed may take longer than both: the body's time ends with the body, the answer's begins with it.
	for _, tc := range []struct{ path, body string }{
		{"/api/v1/embed", `{"text":"wait"}`}, {"/akidb.v1.EmbeddingService/Embed", `{"texts":["wait"]}`},
	} {
		d.fake.hold()
		done := make(chan error, 1)
		go func() { done <- post(client, url+tc.path, tc.body) }()
		<-d.fake.waiting
		<-time.After(80 * time.Millisecond)
		close(d.fake.gate)
		if err := <-done; err != nil {
			t.Errorf("%s: %v", tc.path, err)
		}
	}
}

// TestClientDoesNotRead: an answer that nobody takes ends by WriteTimeout and holds up no drain.
func TestClientDoesNotRead(t *testing.T) {
	d := newDoor(t, Config{WriteTimeout: 100 * time.Millisecond})
	d.fake.dims = 4096
	url, _, stop := serveDoor(t, ServerConfig{Grace: time.Minute}, d.Handler())
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := `{"texts":["a"` + strings.Repeat(`,"a"`, 1000) + `]}` // an answer of 40 MB: more than socket buffers hold
	if _, err := fmt.Fprintf(conn, "POST /api/v1/embed HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
		t.Fatal(err)
	}
	for d.fake.done.Load() == 0 {
		<-time.After(time.Millisecond)
	}
	before := time.Now()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(before); took > 30*time.Second {
		t.Errorf("the drain took %s", took)
	}
}
