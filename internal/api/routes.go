package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/gen/akidb/v1/akidbv1connect"
)

// family says in which form a route answers errors.
type family int

const (
	familyPlain  family = iota // native form, for all that is not below
	familyNative               // /api/v1/*
	familyOpenAI               // /v1/*
	familyRPC                  // gRPC, gRPC-Web, Connect
)

// route is one entry of the surface.
type route struct {
	name    string // the metric label
	family  family
	method  string // GET allows HEAD too
	public  bool   // needs no key
	embeds  bool   // may fail with every code
	streams bool   // lives as long as the client wants
	serve   func(c *call, r *http.Request)
}

// codes are the codes a route may answer with, which its metrics are made for.
func (r *route) codes() []embedding.Code {
	codes := []embedding.Code{codeOK, codeNotFound, codeMethodNotAllowed}
	if r.name == routeOther {
		return append(codes[1:], embedding.CodeUnauthenticated)
	}
	if r.embeds {
		return append(append(codes[:1], codeMethodNotAllowed), embedding.Codes()...)
	}
	return append(codes[:1], codeMethodNotAllowed, embedding.CodeUnauthenticated, embedding.CodeModelNotFound,
		embedding.CodeUnavailable, embedding.CodeInvalid, embedding.CodeInternal, embedding.CodeCanceled)
}

const routeOther = "other"

// routing finds the route of a path.
type routing struct {
	byPath map[string]*route
	models *route // GET /v1/models/{id}
	other  *route
}

// all lists the routes, each once.
func (t *routing) all() []*route {
	seen := map[*route]bool{t.models: true, t.other: true}
	out := []*route{t.models, t.other}
	for _, r := range t.byPath {
		if !seen[r] {
			seen[r] = true
			out = append(out, r)
		}
	}
	return out
}

func (t *routing) find(path string) (*route, bool) {
	if r, ok := t.byPath[path]; ok {
		return r, true
	}
	if id, ok := strings.CutPrefix(path, "/v1/models/"); ok && id != "" {
		return t.models, true
	}
	other := *t.other
	other.family = familyOf(path)
	return &other, false
}

// familyOf gives the form of errors for a path no route has.
func familyOf(path string) family {
	switch {
	case strings.HasPrefix(path, "/v1/"):
		return familyOpenAI
	case strings.HasPrefix(path, "/api/"):
		return familyNative
	}
	return familyPlain
}

func (a *surface) makeRoutes() *routing {
	t := &routing{
		models: &route{name: "/v1/models/{id}", family: familyOpenAI, method: http.MethodGet, serve: a.serveOpenAIModel},
		other:  &route{name: routeOther},
		byPath: map[string]*route{},
	}
	add := func(path string, r route) {
		if r.name == "" {
			r.name = path
		}
		t.byPath[path] = &r
	}
	add("/", route{method: http.MethodGet, serve: a.serveIndex, public: true})
	add("/health", route{method: http.MethodGet, serve: a.serveHealth, public: true})
	add("/livez", route{method: http.MethodGet, serve: a.serveLivez, public: true})
	add("/readyz", route{method: http.MethodGet, serve: a.serveReadyz, public: true})
	add("/api/v1/embed", route{method: http.MethodPost, family: familyNative, embeds: true, serve: a.serveNativeEmbed})
	add("/api/v1/models", route{method: http.MethodGet, family: familyNative, serve: a.serveNativeModels})
	add("/v1/embeddings", route{method: http.MethodPost, family: familyOpenAI, embeds: true, serve: a.serveOpenAIEmbed})
	add("/v1/models", route{method: http.MethodGet, family: familyOpenAI, serve: a.serveOpenAIModels})
	if a.cfg.Gatherer != nil {
		metrics := promhttp.HandlerFor(a.cfg.Gatherer, promhttp.HandlerOpts{
			EnableOpenMetrics: true,
			ErrorLog:          metricsLog{a.log},
		})
		add("/metrics", route{method: http.MethodGet, public: !a.cfg.RequireKeyForMetrics,
			serve: func(c *call, r *http.Request) { metrics.ServeHTTP(c, r) }})
	}
	a.addRPC(t)
	return t
}

// addRPC adds the gRPC surface. Every procedure is a path of its own, so that none needs a prefix match.
func (a *surface) addRPC(t *routing) {
	opts := []connect.HandlerOption{
		connect.WithReadMaxBytes(int(a.cfg.MaxBodyBytes)),
		// Vectors hardly compress; requests may come compressed, answers do not go so.
		connect.WithCompressMinBytes(1 << 30),
		connect.WithRecover(a.recoverRPC),
	}
	a.rpcErrors = connect.NewErrorWriter(opts...)
	add := func(name string, h http.Handler, r route, procedures ...string) {
		r.name, r.family, r.method = name, familyRPC, http.MethodPost
		r.serve = func(c *call, req *http.Request) { h.ServeHTTP(c, req) }
		for _, p := range procedures {
			t.byPath[p] = &r
		}
	}
	_, h := akidbv1connect.NewEmbeddingServiceHandler(&rpc{a}, opts...)
	add("grpc/Embed", h, route{embeds: true}, akidbv1connect.EmbeddingServiceEmbedProcedure)
	add("grpc/EmbedStream", h, route{embeds: true, streams: true}, akidbv1connect.EmbeddingServiceEmbedStreamProcedure)
	add("grpc/ListModels", h, route{}, akidbv1connect.EmbeddingServiceListModelsProcedure)

	// These take no more than a name, and the first needs no key.
	small := append(slices.Clone(opts), connect.WithReadMaxBytes(4<<10))
	path, h := grpchealth.NewHandler(&rpcHealth{a}, small...)
	add("grpc/health.Check", h, route{public: true}, path+"Check")
	add("grpc/health.Watch", h, route{public: true, streams: true}, path+"Watch")

	reflector := grpcreflect.NewStaticReflector(akidbv1connect.EmbeddingServiceName, grpchealth.HealthV1ServiceName)
	v1, h1 := grpcreflect.NewHandlerV1(reflector, small...)
	add("grpc/reflection", h1, route{streams: true}, v1+"ServerReflectionInfo")
	alpha, hAlpha := grpcreflect.NewHandlerV1Alpha(reflector, small...)
	add("grpc/reflection.v1alpha", hAlpha, route{streams: true}, alpha+"ServerReflectionInfo")
}

// serveUnknown answers a path that is not there, or a method that a path does not take.
func (a *surface) serveUnknown(c *call, r *http.Request, found bool) {
	var e *embedding.Error
	switch {
	case !found:
		e = embedding.Errorf(codeNotFound, "there is nothing at %.200q: GET / lists the routes", r.URL.Path)
	default:
		allow := []string{c.route.method}
		if c.route.method == http.MethodGet {
			allow = append(allow, http.MethodHead)
		}
		c.Header().Set("Allow", strings.Join(allow, ", "))
		e = embedding.Errorf(codeMethodNotAllowed, "%.200s takes %s, not %.20s", r.URL.Path, strings.Join(allow, " and "), r.Method)
	}
	if a.isRPC(c, r) {
		a.failRPC(c, r, e)
		return
	}
	c.fail(e)
}

// isRPC says whether the client speaks gRPC, gRPC-Web or Connect, also to a path that is not there.
func (a *surface) isRPC(c *call, r *http.Request) bool {
	return c.route.family == familyRPC && r.Method == http.MethodPost && a.rpcErrors.IsSupported(r) ||
		strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

func (r *route) allows(method string) bool {
	return r.method == method || r.method == http.MethodGet && method == http.MethodHead
}

// metricsLog lets promhttp report what it cannot gather.
type metricsLog struct {
	log interface{ Error(string, ...any) }
}

func (l metricsLog) Println(v ...any) { l.log.Error("gather metrics", "error", fmt.Sprint(v...)) }
