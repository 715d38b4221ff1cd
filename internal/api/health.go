package api

import (
	"encoding/json"
	"maps"
	"net/http"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
)

// Node is what this node says of itself. Both methods answer at once, from memory.
type Node interface {
	Models() []embedding.ModelInfo
	Health() Health
}

// Health is a node's state at one moment.
type Health struct {
	Live   bool   // the process and the engine's heartbeat are well: false asks the supervisor for a restart
	Ready  bool   // this node can answer an embedding request now
	Reason string // why it is not ready or not live, for people

	Status HealthStatus     // "" is taken as healthy when Ready, else unhealthy
	Checks map[string]Check // by name; the PRD's four are shown as disabled where they are missing

	Node, Region, Cluster, Version string
}

// HealthStatus sums up a node.
type HealthStatus string

// The three states of GET /health.
const (
	Healthy   HealthStatus = "healthy"
	Degraded  HealthStatus = "degraded"  // something configured fails, but embedding requests are answered
	Unhealthy HealthStatus = "unhealthy" // cannot answer, not even through a peer
)

// Check is one thing a node depends on.
type Check struct {
	State  CheckState
	Reason string // why it fails, for people
}

// CheckState is the state of a Check.
type CheckState string

// States of a check.
const (
	CheckOK       CheckState = "ok"
	CheckFailing  CheckState = "failing"
	CheckDisabled CheckState = "disabled" // not configured; does not degrade
)

// Names of the checks every health document has.
const (
	CheckDatabase    = "database" // the node's local state store
	CheckS3          = "s3"
	CheckModelCache  = "model_cache" // at least one model is loaded
	CheckCrossRegion = "cross_region_connectivity"
)

// healthDocument is the body of GET /health.
type healthDocument struct {
	Status    HealthStatus          `json:"status"`
	Region    string                `json:"region"`
	Cluster   string                `json:"cluster"`
	Timestamp int64                 `json:"timestamp"` // Unix seconds
	Checks    map[string]CheckState `json:"checks"`
	Reasons   map[string]string     `json:"reasons,omitempty"` // of failing checks, and of "node" when not ready
	Node      string                `json:"node"`
	Version   string                `json:"version,omitempty"`
}

func (a *surface) health() Health {
	h := a.node.Health()
	if h.Status == "" {
		h.Status = Unhealthy
		if h.Ready {
			h.Status = Healthy
		}
	}
	if h.Node == "" {
		h.Node = a.cfg.NodeName
	}
	if h.Region == "" {
		h.Region = a.cfg.Region
	}
	if h.Version == "" {
		h.Version = a.cfg.Version
	}
	return h
}

// serveHealth answers GET /health: 503 only when the node is unhealthy, so that an S3 outage does not take
// every node out of every load balancer.
func (a *surface) serveHealth(c *call, _ *http.Request) {
	h := a.health()
	doc := healthDocument{
		Status: h.Status, Region: h.Region, Cluster: h.Cluster, Node: h.Node, Version: h.Version,
		Timestamp: time.Now().Unix(),
		Checks: map[string]CheckState{
			CheckDatabase: CheckDisabled, CheckS3: CheckDisabled, CheckModelCache: CheckDisabled,
			CheckCrossRegion: CheckDisabled,
		},
		Reasons: map[string]string{},
	}
	for name, check := range h.Checks {
		doc.Checks[name] = check.State
		if check.Reason != "" {
			doc.Reasons[name] = check.Reason
		}
	}
	if h.Reason != "" && (!h.Ready || !h.Live) {
		doc.Reasons["node"] = h.Reason
	}
	a.writeProbe(c, h.Status != Unhealthy, doc)
}

// probe is the body of /livez and /readyz.
type probe struct {
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
	Node   string `json:"node"`
}

func (a *surface) serveLivez(c *call, _ *http.Request) {
	h := a.health()
	if h.Live {
		a.writeProbe(c, true, probe{Status: "live", Node: h.Node})
		return
	}
	a.writeProbe(c, false, probe{Status: "not live", Reason: h.Reason, Node: h.Node})
}

func (a *surface) serveReadyz(c *call, _ *http.Request) {
	h := a.health()
	if h.Ready {
		a.writeProbe(c, true, probe{Status: "ready", Node: h.Node})
		return
	}
	a.writeProbe(c, false, probe{Status: "not ready", Reason: h.Reason, Node: h.Node})
}

func (a *surface) writeProbe(c *call, well bool, doc any) {
	status := http.StatusOK
	if !well {
		c.code = embedding.CodeUnavailable
		status = http.StatusServiceUnavailable
		c.Header().Set("Retry-After", a.retryAfter)
	}
	c.Header().Set("Cache-Control", "no-store")
	c.writeJSON(status, doc)
}

// index is the body of GET /.
func (a *surface) serveIndex(c *call, _ *http.Request) {
	h := a.health()
	doc := struct {
		Program string            `json:"program"`
		Version string            `json:"version,omitempty"`
		Node    string            `json:"node"`
		Region  string            `json:"region"`
		Routes  map[string]string `json:"routes"`
	}{"akidbd", h.Version, h.Node, h.Region, maps.Clone(indexRoutes())}
	c.writeJSON(http.StatusOK, doc)
}

func indexRoutes() map[string]string {
	return map[string]string{
		"POST /api/v1/embed":        "embeddings, native form",
		"GET /api/v1/models":        "models and their states",
		"POST /v1/embeddings":       "embeddings, OpenAI's form",
		"GET /v1/models":            "models, OpenAI's form",
		"akidb.v1.EmbeddingService": "gRPC, gRPC-Web and Connect, with reflection",
		"grpc.health.v1.Health":     "gRPC health checks",
		"GET /health":               "state of this node and of what it depends on",
		"GET /livez":                "200 while the process works",
		"GET /readyz":               "200 while this node can answer",
		"GET /metrics":              "metrics for Prometheus",
	}
}

// writeJSON answers with v. Only for small documents of our own types, which always marshal.
func (c *call) writeJSON(status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	c.write(status, "application/json", append(body, '\n'))
}
