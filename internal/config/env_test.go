package config

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestEnvironmentNamesAreDistinct(t *testing.T) {
	seen := make(map[string]string)
	for _, l := range leaves(reflect.ValueOf(Default()).Elem(), "") {
		name := envName(l.path)
		if other, twice := seen[name]; twice {
			t.Errorf("%s sets both %s and %s", name, other, l.path)
		}
		if slices.Contains(otherVars, name) || serviceVars.MatchString(name) {
			t.Errorf("%s, of %s, is also something else", name, l.path)
		}
		seen[name] = l.path
	}
}

func TestEnvironmentOverFileOverPlainVariables(t *testing.T) {
	file := []byte("node: {region: file, zone: z}\nengine: {providers: [cuda, cpu]}\napi: {max_body: 1MiB}\n")
	c, err := Parse(file, "f.yaml", []string{
		"REGION=plain", "CLUSTER_NAME=plain", "ENVIRONMENT=staging", "PATH=/bin", "broken",
		"AKIDB_NODE_ZONE=env", "AKIDB_ENGINE_PROVIDERS=tensorrt, cpu", "AKIDB_ENGINE_THREADS=3", "AKIDB_API_MAX_BODY=2MiB",
		"AKIDB_NODE_LABELS=gpu=orin, rack=2", "AKIDB_DRAIN_DELAY=1s", "AKIDB_METRICS_REQUIRE_KEY=", "AKIDB_ADMIN_SOCKET=/tmp/a.sock", "AKIDB_API_TOKEN_IDS=true",
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.Node.Region != "file" || c.Node.Cluster != "plain" || c.Node.Environment != "staging" || c.Node.Zone != "env" {
		t.Errorf("node is %+v", c.Node)
	}
	if !slices.Equal(c.Engine.Providers, []string{"tensorrt", "cpu"}) || c.Engine.Threads != 3 {
		t.Errorf("engine is %+v", c.Engine)
	}
	if c.API.MaxBody != 2<<20 || !c.API.TokenIDs || c.Admin.Socket != "/tmp/a.sock" || c.Metrics.RequireKey {
		t.Errorf("api is %+v, admin %+v, metrics %+v", c.API, c.Admin, c.Metrics)
	}
	if c.Node.Labels["gpu"] != "orin" || c.Node.Labels["rack"] != "2" || len(c.Node.Labels) != 2 {
		t.Errorf("labels are %v", c.Node.Labels)
	}
}

func TestProblemsOfTheEnvironment(t *testing.T) {
	for _, tt := range []struct{ env, want string }{
		{"AKIDB_ENGINE_THREAD=3", "AKIDB_ENGINE_THREAD: sets no key, did you mean AKIDB_ENGINE_THREADS?"},
		{"AKIDB_XYZ=3", "AKIDB_XYZ: sets no key: a variable is AKIDB_ and the key path in capitals, AKIDB_ENGINE_THREADS for engine.threads"},
		{"AKIDB_ENGINE_THREADS=x", `AKIDB_ENGINE_THREADS: engine.threads: "x" is not a whole number`},
		{"AKIDB_ENGINE_THREADS=2000", "AKIDB_ENGINE_THREADS: engine.threads: 2000, must be from 0 to 1024"},
		{"AKIDB_ENGINE_PROVIDERS=cuda,gpu", `AKIDB_ENGINE_PROVIDERS: engine.providers[1]: "gpu", must be one of cpu, cuda, tensorrt, did you mean cpu?`},
		{"AKIDB_NODE_LABELS=gpu", `AKIDB_NODE_LABELS: node.labels: "gpu" is no pair, write name=value,name=value`},
		{"AKIDB_LISTEN=:80", "AKIDB_LISTEN: listen: cannot be set by a variable, set it in the file"},
		{"REGION=US East", `REGION: node.region: "US East", must be 1 to 63 of a-z, A-Z, 0-9, '.', '_' and '-', the first a letter or digit`},
	} {
		got := problems(t, "engine:\n  providers: [cpu, cuda]\n", tt.env)
		if !slices.Equal(got, []string{tt.want}) {
			t.Errorf("%s:\ngot  %q\nwant %q", tt.env, got, tt.want)
		}
	}
}

func TestOtherVariablesPass(t *testing.T) {
	got := problems(t, "", "AKIDB_API_KEY=x", "AKIDB_CACHE=x", "AKIDB_CONFIG=x", "AKIDB_URL=x", "AKIDB_ADMIN_SOCKET=x",
		"AKIDB_SERVICE_HOST=10.0.0.1", "AKIDB_SERVICE_PORT=80", "AKIDB_SERVICE_PORT_HTTP=80", "AKIDB_PORT=tcp://10.0.0.1:80",
		"AKIDB_PORT_80_TCP=x", "AKIDB_PORT_80_TCP_ADDR=x", "AKIDB_REST_SERVICE_HOST=x", "AKIDB_REST_PORT_80_TCP_PROTO=tcp")
	if len(got) > 0 {
		t.Error(strings.Join(got, "\n"))
	}
}

func TestAVariableIsNotRepeatedInItsError(t *testing.T) {
	for _, line := range problems(t, "", "AKIDB_API_KEYZ=s3cret-value") {
		if strings.Contains(line, "s3cret") {
			t.Errorf("the value of an unknown variable, which may be a secret, is shown: %s", line)
		}
	}
}
