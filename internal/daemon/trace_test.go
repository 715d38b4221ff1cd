package daemon

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/akidb/akidbd/internal/config"
	"github.com/akidb/akidbd/internal/telemetry/otlptest"
)

// TestOneRequestIsOneTrace: a request that crosses a region shows what each node did, and for which region.
func TestOneRequestIsOneTrace(t *testing.T) {
	r := otlptest.Listen(t)
	fleet := newFleet(t, 3, func(i int, c *config.Config) {
		c.Tracing.Endpoint, c.Tracing.SamplePercent = r.Endpoint, 100
		if i != 2 {
			c.Models = nil // only n3, in us
		}
	})
	code, body, _ := fleet[0].embed(t, `{"text":"x"}`)
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	for _, n := range fleet {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := n.opt.Telemetry.Shutdown(ctx); err != nil {
			t.Fatal(err)
		}
	}
	parent, trace := "", ""
	for _, want := range []struct{ name, region string }{{"embed_request", "eu"}, {"cross_region_call", "eu"}, {"embed_request", "us"}} {
		found := 0
		for _, s := range r.Spans() {
			if s.Name == want.name && s.Parent() == parent && s.Resource["cloud.region"] == want.region {
				found++
				parent, trace = s.ID(), string(s.TraceId)
				break
			}
		}
		if found != 1 {
			t.Fatalf("no span %s of region %s below %q in %v", want.name, want.region, parent, r.Spans())
		}
	}
	parts := map[string]bool{}
	for _, s := range r.Spans() {
		if string(s.TraceId) == trace && s.Parent() == parent {
			parts[s.Name] = s.EndTimeUnixNano >= s.StartTimeUnixNano && s.Resource["service.instance.id"] == "n3"
		}
	}
	if len(parts) != 3 || !parts["tokenize"] || !parts["queue"] || !parts["inference"] {
		t.Errorf("the engine's parts are %v", parts)
	}
}
