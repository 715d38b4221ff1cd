package daemon

import (
	"cmp"
	"fmt"
	"os"
	"time"

	"github.com/akidb/akidbd/internal/api"
	"github.com/akidb/akidbd/internal/embedding"
	"github.com/akidb/akidbd/internal/infer"
	"github.com/akidb/akidbd/internal/node"
)

// heartbeatLimit is how old the engine's heartbeat may be before the process counts as stuck. The engine beats
// four times a second, whatever it computes.
const heartbeatLimit = 10 * time.Second

// Models says what this node serves or tries to.
func (d *Daemon) Models() []embedding.ModelInfo { return d.engine.Models() }

// Health says how this node is.
func (d *Daemon) Health() api.Health {
	h := api.Health{
		Live: true, Node: string(d.self.ID), Region: d.self.Region, Cluster: d.opt.Config.Node.Cluster, Version: d.opt.Version,
		Checks: map[string]api.Check{
			api.CheckS3:          d.checkBucket(),
			api.CheckCrossRegion: d.checkFleet(),
			api.CheckDatabase:    d.checkStore(),
		},
	}
	if err := d.live(); err != nil { // nothing more is asked of an engine that may hang
		h.Live, h.Reason, h.Status = false, err.Error(), api.Unhealthy
		return h
	}
	serving, reason := d.serving()
	if reason == "" {
		reason = d.engine.Unsteady()
	}
	h.Checks[api.CheckModelCache] = api.Check{State: api.CheckOK}
	if reason != "" {
		h.Checks[api.CheckModelCache] = api.Check{State: api.CheckFailing, Reason: reason}
	}
	if d.opt.Board != "" {
		h.Checks[checkAccelerator] = d.checkAccelerator()
	}
	able := serving || d.helped()
	switch state := d.nodeState(); {
	case d.drained.Load() && d.draining.Err() == nil:
		h.Reason = "drained by an operator: akidbd undrain takes it back into service"
	case state == node.Draining:
		h.Reason = "draining: this node is shutting down"
	case !able:
		h.Reason = reason
	case state == node.Ready:
		h.Ready = true
	default:
		h.Reason = "starting: not all models are loaded"
	}
	h.Status = status(h, able)
	return h
}

// status: a node that still answers, be it through a peer, is at worst degraded, so that a load balancer which looks
// at /health keeps it.
func status(h api.Health, able bool) api.HealthStatus {
	if !able {
		return api.Unhealthy
	}
	for _, c := range h.Checks {
		if c.State == api.CheckFailing {
			return api.Degraded
		}
	}
	return api.Healthy
}

// serving says whether one model at least answers, and names the first that does not.
func (d *Daemon) serving() (ok bool, reason string) {
	models := d.engine.Models()
	if len(models) == 0 {
		return false, fmt.Sprintf("no model is configured: akidbd model pull NAME, or set models in %s, then systemctl reload akidbd",
			cmp.Or(d.opt.ConfigFile, "the configuration"))
	}
	for _, m := range models {
		switch {
		case m.State == embedding.ModelReady:
			ok = true
		case reason == "" && m.Reason != "":
			reason = fmt.Sprintf("model %s: %s", m.Model.Name, m.Reason)
		case reason == "":
			reason = fmt.Sprintf("model %s is %s", m.Model.Name, m.State)
		}
	}
	return ok, reason
}

// checkAccelerator is there on machines that are made for their GPU: one that computes on its CPU serves, at a tenth
// of its speed, and nobody would notice.
const checkAccelerator = "accelerator"

func (d *Daemon) checkAccelerator() api.Check {
	for _, m := range d.engine.Models() {
		if m.State == embedding.ModelReady && m.Provider == infer.ProviderCPU {
			return api.Check{State: api.CheckFailing, Reason: fmt.Sprintf("model %s runs on the CPU of %s: akidbd doctor says how to use its GPU", m.Model.Name, d.opt.Board)}
		}
	}
	return api.Check{State: api.CheckOK}
}

func (d *Daemon) checkStore() api.Check {
	if _, err := os.Stat(d.opt.Config.StateDir); err != nil {
		return api.Check{State: api.CheckFailing, Reason: "state_dir: " + err.Error()}
	}
	return api.Check{State: api.CheckOK}
}
