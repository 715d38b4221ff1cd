package api

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/akidb/akidbd/internal/embedding"
)

func TestHealth(t *testing.T) {
	d := newDoor(t, Config{})
	type document struct {
		Status, Region, Cluster, Node, Version string
		Timestamp                              int64
		Checks, Reasons                        map[string]string
	}
	for _, tc := range []struct {
		name    string
		change  func(*Health)
		status  int
		says    string
		checks  map[string]string
		reasons map[string]string
	}{
		{"healthy", func(*Health) {}, 200, "healthy",
			map[string]string{"database": "disabled", "s3": "disabled", "model_cache": "ok", "cross_region_connectivity": "disabled"}, nil},
		{"S3 fails", func(h *Health) {
			h.Status = Degraded
			h.Checks = map[string]Check{"s3": {State: CheckFailing, Reason: "timeout"}, "database": {State: CheckOK}, "extra": {State: CheckOK}}
		}, 200, "degraded",
			map[string]string{"database": "ok", "s3": "failing", "model_cache": "disabled", "cross_region_connectivity": "disabled", "extra": "ok"},
			map[string]string{"s3": "timeout"}},
		{"not able", func(h *Health) { h.Status, h.Ready, h.Reason, h.Checks = Unhealthy, false, "no model", nil }, 503, "unhealthy",
			map[string]string{"database": "disabled", "s3": "disabled", "model_cache": "disabled", "cross_region_connectivity": "disabled"},
			map[string]string{"node": "no model"}},
		{"status from ready", func(h *Health) { h.Status, h.Ready, h.Reason = "", true, "" }, 200, "healthy", nil, nil},
		{"status from not ready", func(h *Health) { h.Status, h.Ready = "", false }, 503, "unhealthy", nil, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d.node.set(tc.change)
			w := d.do("GET", "/health", "")
			got := decodeJSON[document](t, w.Body.Bytes())
			if w.Code != tc.status || got.Status != tc.says {
				t.Errorf("got %d %q, want %d %q", w.Code, got.Status, tc.status, tc.says)
			}
			if tc.checks != nil && !maps.Equal(got.Checks, tc.checks) {
				t.Errorf("checks are %v, want %v", got.Checks, tc.checks)
			}
			if tc.checks != nil && !maps.Equal(got.Reasons, tc.reasons) {
				t.Errorf("reasons are %v, want %v", got.Reasons, tc.reasons)
			}
			if got.Region != "eu-central-1" || got.Cluster != "edge" || got.Node != "n1" || got.Version != "1.2.3" ||
				time.Since(time.Unix(got.Timestamp, 0)).Abs() > time.Minute {
				t.Errorf("got %+v", got)
			}
			if (w.Header().Get("Retry-After") != "") != (tc.status == 503) || w.Header().Get("Cache-Control") != "no-store" {
				t.Errorf("headers are %v", w.Header())
			}
		})
	}
}

func TestProbes(t *testing.T) {
	d := newDoor(t, Config{})
	for _, tc := range []struct {
		live, ready bool
	}{{true, true}, {true, false}, {false, false}, {false, true}} {
		d.node.set(func(h *Health) { h.Live, h.Ready, h.Reason = tc.live, tc.ready, "engine stalled" })
		for path, well := range map[string]bool{"/livez": tc.live, "/readyz": tc.ready} {
			w := d.do("GET", path, "")
			want := 503
			if well {
				want = 200
			}
			if w.Code != want || strings.Contains(w.Body.String(), "engine stalled") == well || !json.Valid(w.Body.Bytes()) {
				t.Errorf("%s of %+v: got %d %s", path, tc, w.Code, w.Body)
			}
		}
	}
}

func TestIndexAndMetrics(t *testing.T) {
	d := newDoor(t, Config{})
	w := d.do("GET", "/", "")
	doc := decodeJSON[struct {
		Program, Version, Node, Region string
		Routes                         map[string]string
	}](t, w.Body.Bytes())
	if doc.Program != "akidbd" || doc.Version != "1.2.3" || doc.Node != "n1" {
		t.Errorf("got %+v", doc)
	}
	for route := range doc.Routes { // what the index lists is there
		method, path, ok := strings.Cut(route, " ")
		if !ok {
			continue
		}
		if w := d.do(method, path, ""); w.Code == 404 || w.Code == 405 {
			t.Errorf("%s gave %d", route, w.Code)
		}
	}
	plain := d.do("GET", "/metrics", "").Body.String()
	for _, want := range []string{
		`akidb_api_requests_total{code="overloaded",route="/api/v1/embed"} 0`, // made before it happens
		`akidb_api_requests_total{code="not_found",route="other"} 0`,
		`akidb_embed_requests_total{code="ok",region="eu-central-1"} 0`,
		`akidb_api_request_seconds_bucket{route="/api/v1/embed",le="0.0005"}`,
		`akidb_api_inflight 1`, // the one that asks
		"akidb_api_panics_total 0", "akidb_api_keys 0",
	} {
		if !strings.Contains(plain, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	open := d.do("GET", "/metrics", "", "Accept", "application/openmetrics-text; version=1.0.0")
	if !strings.HasPrefix(open.Header().Get("Content-Type"), "application/openmetrics-text") || !strings.HasSuffix(open.Body.String(), "# EOF\n") {
		t.Errorf("OpenMetrics was asked for, got %s", open.Header().Get("Content-Type"))
	}
	a, err := New(Config{}, d.fake, d.node)
	if err != nil {
		t.Fatal(err)
	}
	if w := (&door{API: a, t: t}).do("GET", "/metrics", ""); w.Code != 404 {
		t.Errorf("/metrics without a gatherer gave %d", w.Code)
	}
}

func TestAccessLog(t *testing.T) {
	d := newDoor(t, Config{})
	d.do("POST", "/api/v1/embed", `{"texts":["my private text","y"]}`, "x-request-id", "r1")
	d.do("POST", "/api/v1/embed", `{"texts":["my private text"],"model":"nope"}`, "x-request-id", "r2")
	d.do("POST", "/api/v1/embed", `{"my private text":1}`, "x-request-id", "r3")
	d.fake.edit = func(*embedding.Result) { panic("boom") }
	d.do("POST", "/api/v1/embed", `{"text":"my private text"}`, "x-request-id", "r4")
	lines := strings.Split(strings.TrimSpace(d.log.String()), "\n")
	if len(lines) != 4 {
		t.Fatalf("%d lines for 4 requests:\n%s", len(lines), d.log)
	}
	type line struct {
		Time, Level, Msg, Method, Route, Code, Remote, Error string
		RequestID                                            string  `json:"request_id"`
		Duration                                             float64 `json:"duration_seconds"`
		ResponseBytes                                        int64   `json:"response_bytes"`
		Status, Inputs, Tokens                               int
	}
	want := []line{
		{Level: "DEBUG", RequestID: "r1", Code: "ok", Status: 200, Inputs: 2, Tokens: 16},
		{Level: "DEBUG", RequestID: "r2", Code: "model_not_found", Status: 404, Inputs: 1},
		{Level: "DEBUG", RequestID: "r3", Code: "invalid", Status: 400},
		{Level: "INFO", RequestID: "r4", Code: "internal", Status: 500, Inputs: 1},
	}
	for i, raw := range lines {
		got := decodeJSON[line](t, []byte(raw))
		if got.Msg != "request" || got.Method != "POST" || got.Route != "/api/v1/embed" || got.ResponseBytes == 0 || got.Duration <= 0 || got.Remote == "" {
			t.Errorf("line %d is %s", i, raw)
		}
		if w := want[i]; got.Level != w.Level || got.RequestID != w.RequestID || got.Code != w.Code || got.Status != w.Status ||
			got.Inputs != w.Inputs || got.Tokens != w.Tokens || (got.Error != "") != (i > 0) {
			t.Errorf("line %d is %s\nwant %+v", i, raw, w)
		}
		if i < 2 && strings.Contains(raw, "private") {
			t.Errorf("a text is in the log: %s", raw)
		}
	}
}
