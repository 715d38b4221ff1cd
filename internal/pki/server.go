package pki

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
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"github.com/akidb/akidbd/internal/node"
)

const (
	serverLife      = 24 * time.Hour // of the server's own certificate, made anew at half of it
	serverConns     = 256            // at once
	serverPatience  = 15 * time.Second
	maxServerHeader = 16 << 10 // bytes
)

// ServerConfig has the knobs of the authority's server.
type ServerConfig struct {
	Dir     string        // of the authority; read again for each request, so that it may change
	Address string        // host:port (TCP)
	Life    time.Duration // of what it issues; default LeafLife
	Logger  *slog.Logger
}

// Server lets nodes join with a token and renew with the certificate that they hold.
type Server struct {
	cfg    ServerConfig
	log    *slog.Logger
	listen net.Listener

	mu   sync.Mutex
	own  *tls.Certificate // of the server
	half time.Time        // of its life
	by   [32]byte         // fingerprint of who issued it
}

// NewServer reads the authority and binds the address.
func NewServer(cfg ServerConfig) (*Server, error) {
	if cfg.Life == 0 {
		cfg.Life = LeafLife
	}
	if err := checkLife(cfg.Life); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, log: cfg.Logger}
	if _, err := s.certificate(); err != nil {
		return nil, err
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", cfg.Address)
	if err != nil {
		return nil, err
	}
	s.listen = l
	return s, nil
}

// Addr is where it listens.
func (s *Server) Addr() net.Addr { return s.listen.Addr() }

// Run serves until ctx ends, then ends what is under way.
func (s *Server) Run(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+pathJoin, s.answer(s.join))
	mux.HandleFunc("POST "+pathRenew, s.answer(s.renew))
	server := &http.Server{
		Handler: mux, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), MaxHeaderBytes: maxServerHeader,
		ReadHeaderTimeout: serverPatience, ReadTimeout: serverPatience, WriteTimeout: serverPatience, IdleTimeout: serverPatience,
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}, SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.certificate() },
		ClientAuth:     tls.RequestClientCert, // renew verifies it
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() {
		<-ctx.Done()
		grace, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer done()
		if server.Shutdown(grace) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(tls.NewListener(netutil.LimitListener(s.listen, serverConns), config))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// certificate is the server's own, issued by the authority of now.
func (s *Server) certificate() (*tls.Certificate, error) {
	ca, err := LoadCA(s.cfg.Dir)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now().Round(0) // by the wall clock: the host may have slept
	if s.own != nil && s.by == ca.Fingerprint() && now.Before(s.half) {
		return s.own, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leaf, err := ca.sign("akidbd pki serve", serverURI(ca.domain), key.Public(), serverLife, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return nil, err
	}
	// The authority goes along: a joining node knows it by its fingerprint only.
	s.own = &tls.Certificate{Certificate: [][]byte{leaf.Raw, ca.cert.Raw}, PrivateKey: key, Leaf: leaf}
	s.half, s.by = now.Add(serverLife/2), ca.Fingerprint()
	return s.own, nil
}

// refused is an answer for the one who asked; any other error is for the log alone.
type refused struct {
	status int
	err    error
}

func (r *refused) Error() string { return r.err.Error() }
func (r *refused) Unwrap() error { return r.err }

func refuse(status int, err error) error { return &refused{status, err} }

// answer is the HTTP around join and renew.
func (s *Server) answer(f func(*CA, denyList, *http.Request, []byte) (issued, *x509.Certificate, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		out, leaf, err := s.handle(f, w, r)
		w.Header().Set("Content-Type", "application/json")
		log := s.log.With("path", r.URL.Path, "remote", r.RemoteAddr)
		if err == nil {
			log.Info("certificate issued", "id", leaf.URIs[0].String(), "serial", leaf.SerialNumber.Text(16), "not_after", leaf.NotAfter)
			_ = json.NewEncoder(w).Encode(out) // who is gone gets nothing
			return
		}
		text := failure{Error: "the authority has a fault of its own: see its log"}
		status := http.StatusInternalServerError
		if e, ok := errors.AsType[*refused](err); ok {
			text.Error, status = e.Error(), e.status
		}
		log.Warn("no certificate issued", "status", status, "err", err)
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(text)
	}
}

func (s *Server) handle(f func(*CA, denyList, *http.Request, []byte) (issued, *x509.Certificate, error), w http.ResponseWriter, r *http.Request) (issued, *x509.Certificate, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return issued{}, nil, refuse(http.StatusRequestEntityTooLarge, fmt.Errorf("the request has more than the %d bytes that it may have", maxRequest))
		}
		return issued{}, nil, refuse(http.StatusBadRequest, err)
	}
	ca, err := LoadCA(s.cfg.Dir)
	if err != nil {
		return issued{}, nil, err
	}
	data, err := readDenyList(s.cfg.Dir)
	if err != nil {
		return issued{}, nil, err
	}
	denied, err := parseDenyList(data)
	if err != nil {
		return issued{}, nil, fmt.Errorf("%s of the authority: %w", DenyFile, err)
	}
	return f(ca, denied, r, body)
}

func (s *Server) join(ca *CA, denied denyList, _ *http.Request, body []byte) (issued, *x509.Certificate, error) {
	var in joinRequest
	if err := decode(body, &in); err != nil {
		return issued{}, nil, err
	}
	if len(in.Token) != tokenIDLen || len(in.Secret) != tokenSecretLen {
		return issued{}, nil, refuse(http.StatusBadRequest, errors.New("a token has 8 bytes and its secret 32"))
	}
	id := [tokenIDLen]byte(in.Token)
	t, err := ca.lookToken(id, in.Secret)
	if err != nil {
		return issued{}, nil, tokenRefused(err)
	}
	if by := denied.match(t.Node, nil); by != "" {
		return issued{}, nil, refuse(http.StatusForbidden, fmt.Errorf("%s is on the deny list of the authority", by))
	}
	out, leaf, err := s.sign(ca, t.Node, t.Region, in.CSR)
	if err != nil {
		return issued{}, nil, err
	}
	// Last, so that a fault before does not cost the token; nothing was given out yet.
	if err := ca.useToken(id); err != nil {
		return issued{}, nil, tokenRefused(err)
	}
	return out, leaf, nil
}

func tokenRefused(err error) error {
	if _, ended := errors.AsType[*expiredTokenError](err); ended || errors.Is(err, errToken) || errors.Is(err, errUsed) {
		return refuse(http.StatusForbidden, err)
	}
	return err
}

// renew issues for the name and region of the certificate that the node came with, whatever it asks for.
func (s *Server) renew(ca *CA, denied denyList, r *http.Request, body []byte) (issued, *x509.Certificate, error) {
	var in renewRequest
	if err := decode(body, &in); err != nil {
		return issued{}, nil, err
	}
	id, region, err := newTrust(ca.domain, ca.bundle, denied).verify(r.TLS.PeerCertificates, time.Now())
	if err != nil {
		return issued{}, nil, refuse(http.StatusForbidden, err)
	}
	return s.sign(ca, id, region, in.CSR)
}

func (s *Server) sign(ca *CA, id node.ID, region string, der []byte) (issued, *x509.Certificate, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return issued{}, nil, refuse(http.StatusBadRequest, fmt.Errorf("csr: %w", err))
	}
	if err := checkKey(csr.PublicKey); err != nil {
		return issued{}, nil, refuse(http.StatusBadRequest, fmt.Errorf("csr: %w", err))
	}
	leaf, err := ca.Sign(id, region, csr.PublicKey, s.cfg.Life)
	if err != nil {
		return issued{}, nil, err
	}
	return issued{Certificate: string(encodeCertificates(leaf)), Authorities: string(ca.BundlePEM())}, leaf, nil
}

func decode(body []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(into); err != nil {
		return refuse(http.StatusBadRequest, fmt.Errorf("request: %w", err))
	}
	return nil
}
