package telemetry

import (
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
)

// Build is which program this is.
type Build struct {
	Version   string `json:"version"`    // "v1.2.3", a pseudo-version, or "devel" when neither the linker nor the module says
	Revision  string `json:"revision"`   // VCS revision, "-dirty" behind it when files were changed; "unknown" when not recorded
	GoVersion string `json:"go_version"` // "go1.26.8"
}

// ReadBuild reads what the Go tools recorded in this program. A version that is not "" replaces the recorded
// one: main passes what `go build -ldflags "-X main.version=..."` set, because a build from a checkout without
// tags records none.
func ReadBuild(version string) Build {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return buildFrom(info, version)
}

func buildFrom(info *debug.BuildInfo, version string) Build {
	b := Build{Version: version, Revision: "unknown", GoVersion: runtime.Version()}
	if b.Version == "" && info.Main.Version != "(devel)" {
		b.Version = info.Main.Version
	}
	if b.Version == "" {
		b.Version = "devel"
	}
	modified := false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.modified":
			modified = s.Value == "true"
		}
	}
	if modified && b.Revision != "unknown" {
		b.Revision += "-dirty"
	}
	return b
}

func newBuildInfo(b Build) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "akidb_build_info",
		Help: "Always 1; which program this is.",
		ConstLabels: prometheus.Labels{
			"version": b.Version, "revision": b.Revision, "goversion": b.GoVersion,
		},
	})
	g.Set(1)
	return g
}
