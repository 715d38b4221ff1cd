package config

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestRules(t *testing.T) {
	model := func(change func(*Model)) func(*Config) {
		return func(c *Config) {
			m := Model{Name: "a", Path: "/a"}
			change(&m)
			c.Models = []Model{m}
		}
	}
	for _, tt := range []struct {
		change func(*Config)
		want   string // start of the only problem; "" when there must be none
	}{
		{func(c *Config) { c.Node.Name = "Box-1.lan" }, ""},
		{func(c *Config) { c.Node.Name = "my_box" }, `node.name: "my_box", must be 1 to 64 of`},
		{func(c *Config) { c.Node.Name = strings.Repeat("x", 65) }, `node.name: "xxx`},
		{func(c *Config) { c.Node.Region = "" }, `node.region: "", must be 1 to 63`},
		{func(c *Config) { c.Node.Zone = "a b" }, `node.zone: "a b", must be`},
		{func(c *Config) { c.Node.Labels = map[string]string{"GPU": "x"} }, "node.labels.GPU: the name must be"},
		{func(c *Config) { c.Node.Labels = map[string]string{"gpu": "a\nb"} }, `node.labels.gpu: "a\nb", must be at most 63 bytes (is 3)`},
		{func(c *Config) {
			c.Node.Labels = map[string]string{}
			for i := range 33 {
				c.Node.Labels[fmt.Sprintf("l%d", i)] = "x"
			}
		}, "node.labels: 33 labels, there may be 32"},
		{func(c *Config) { c.Listen = nil }, "listen: empty, a node needs at least one address"},
		{func(c *Config) { c.Listen[0].Address = "" }, "listen[0].address: missing"},
		{func(c *Config) { c.Listen[0].Address = "8080" }, `listen[0].address: "8080" is not host:port`},
		{func(c *Config) { c.Listen[0].Address = "::1:8080" }, `listen[0].address: "::1:8080" is not host:port`},
		{func(c *Config) { c.Listen[0].Address = "[::1]:0" }, ""},
		{func(c *Config) { c.Listen[0].Address = "h:65536" }, `listen[0].address: port "65536", must be a number from 0 to 65535`},
		{func(c *Config) { c.Listen[0].Address = "http://h:80" }, `listen[0].address: "http://h:80" is not host:port`},
		{func(c *Config) { c.Listen[0].Address = "a/b:80" }, `listen[0].address: "a/b:80" has no valid host`},
		{func(c *Config) { c.Listen = append(c.Listen, c.Listen[0]) }, `listen[1].address: ":8080" is the address of listen[0] already`},
		{func(c *Config) { c.Listen[0].Roles = nil }, "listen[0].roles: empty, must be some of public"},
		{func(c *Config) { c.Listen[0].Roles = []string{"public", "public"} }, `listen[0].roles[1]: "public" is there twice`},
		{func(c *Config) { c.Listen[0].Roles = []string{"mesh"} }, `listen[0].roles[0]: "mesh", must be one of public`},
		{func(c *Config) { c.Admin.Socket = "/" + strings.Repeat("x", 107) }, "admin.socket: 108 bytes, a unix socket's path has at most 107"},
		{func(c *Config) { c.Log.Level = "INFO" }, `log.level: "INFO", must be one of debug, info, warn, error, did you mean info?`},
		{func(c *Config) { c.Log.Format = "logfmt" }, `log.format: "logfmt", must be one of json, text`},
		{model(func(m *Model) {}), ""},
		{model(func(m *Model) { m.Name = "" }), "models[0].name: missing"},
		{model(func(m *Model) { m.Name = "Mini LM" }), `models[0].name: "Mini LM", must be 1 to 64 of a-z`},
		{model(func(m *Model) { m.Name = "../x" }), `models[0].name: "../x", must be`},
		{model(func(m *Model) { m.Path = "" }), "models[0].path: missing"},
		{model(func(m *Model) { m.Path = "/a\x00b" }), `models[0].path: "/a\x00b" is no path`},
		{model(func(m *Model) { m.Aliases = []string{"x@y"} }), `models[0].aliases[0]: "x@y", must be`},
		{model(func(m *Model) { m.Aliases = []string{"a"} }), `models[0].aliases[0]: "a" is taken by models[0].name already`},
		{model(func(m *Model) { m.Aliases = make([]string, 17) }), "models[0].aliases: 17 aliases, there may be 16"},
		{model(func(m *Model) { m.Pooling = "avg" }), `models[0].pooling: "avg", must be one of cls, mean,`},
		{model(func(m *Model) { m.Precision = "int8" }), `models[0].precision: "int8", must be one of fp32, fp16`},
		{model(func(m *Model) { m.MaxTokens = -1 }), "models[0].max_tokens: -1, must be from 0 to 131072"},
		{model(func(m *Model) { m.Prompts = map[string]string{"": "x"} }), `models[0].prompts: the name "" must be 1 to 64 bytes (is 0)`},
		{model(func(m *Model) { m.Prompts = map[string]string{"q": strings.Repeat("x", 4097)} }), "models[0].prompts.q: 4097 bytes, must be at most 4096"},
		{func(c *Config) { c.Models = []Model{{Name: "a", Path: "/a"}, {Name: "a", Path: "/b"}} }, `models[1].name: "a" is taken by models[0].name already`},
		{func(c *Config) {
			c.Models = []Model{{Name: "a", Path: "/a", Default: true}, {Name: "b", Path: "/b", Aliases: []string{"default"}}}
		}, `models[1]: "b" is to be the default, but "a" is already`},
		{func(c *Config) { c.Models = make([]Model, 65) }, "models: 65 models, there may be 64"},
		{func(c *Config) { c.Engine.Isolation = "procs" }, `engine.isolation: "procs", must be one of process, none, did you mean process?`},
		{func(c *Config) { c.Engine.Swap = "" }, `engine.swap: "", must be one of beside, unload`},
		{func(c *Config) { c.Engine.Hold = -1 }, "engine.hold: -1ns, must be from 0s to 1h"},
		{func(c *Config) { c.Engine.Providers = nil }, "engine.providers: empty, must be some of cpu, cuda, tensorrt"},
		{func(c *Config) { c.Engine.Providers = []string{"gpu"} }, `engine.providers[0]: "gpu", must be one of`},
		{func(c *Config) { c.Engine.BatchTokens = 15 }, "engine.batch_tokens: 15, must be from 16 to 1048576"},
		{func(c *Config) { c.Engine.QueueTokens = 100 }, "engine.queue_tokens: 100, must be at least engine.batch_tokens, 256"},
		{func(c *Config) { c.Engine.RunTimeout = 1 }, "engine.run_timeout: 1ns, must be from 100ms to 1h"},
		{func(c *Config) { c.Engine.LoadTimeout = -1 }, "engine.load_timeout: -1ns, must be from 1s to 24h"},
		{func(c *Config) { c.API.Deadline = 0 }, "api.deadline: 0s, must be from 1ms to 1h"},
		{func(c *Config) { c.API.MaxBody = 2 << 30 }, "api.max_body: 2GiB, must be from 1KiB to 1GiB"},
		{func(c *Config) { c.API.MaxInputs = 0 }, "api.max_inputs: 0, must be from 1 to 65536"},
		{func(c *Config) { c.API.MaxInputBytes = 0 }, "api.max_input_bytes: 0, must be from 1 to 1GiB"},
		{model(func(m *Model) { m.Pooling = "lasttoken" }), ""},
		{func(c *Config) { c.API.RetryAfter = 5 }, "api.retry_after: 5ns, must be from 1s to 1h"},
		{func(c *Config) { c.Metrics.RequireKey = true }, "metrics.require_key: true, but there are no keys"},
		{func(c *Config) { c.Metrics.RequireKey, c.API.KeysFile = true, "/keys" }, ""},
		{func(c *Config) { c.PKI.RenewURL = "http://ca" }, `pki.renew_url: "http://ca", must begin with https://`},
		{func(c *Config) { c.Peer.Address = "7946" }, `peer.address: "7946" is not host:port, write for example ":7946"`},
		{func(c *Config) { c.Peer.Advertise = ":7946" }, `peer.advertise: ":7946" cannot be dialled`},
		{func(c *Config) { c.Peer.Advertise = "[::]:7946" }, `peer.advertise: "[::]:7946" cannot be dialled`},
		{func(c *Config) { c.Peer.MaxForeign = 0 }, "peer.max_foreign: 0, must be from 1 to 64"},
		{func(c *Config) { c.PKI.Dir, c.Gossip.Seeds = "/pki", []string{"seed.example.org:7946", "[fe80::1]:1"} }, ""},
		{func(c *Config) { c.PKI.Dir, c.Gossip.Seeds = "/pki", []string{"seed"} }, `gossip.seeds[0]: "seed" is not host:port`},
		{func(c *Config) { c.Gossip.Seeds = []string{"a:1"} }, "gossip.seeds: set, but this node has no certificate"},
		{func(c *Config) { c.Router.CrossRegion = "yes" }, `router.cross_region: "yes", must be one of on, off`},
		{func(c *Config) { c.Router.Attempts = 11 }, "router.attempts: 11, must be from 1 to 10"},
		{func(c *Config) { c.Router.TryTimeout = 1 }, "router.try_timeout: 1ns, must be from 10ms to 1h"},
		{func(c *Config) { c.Router.SpillAfter = 0 }, "router.spill_after: 0s, must be from 1ms to 1h"},
		{func(c *Config) { c.Router.ShardTokens = 1 }, "router.shard_tokens: 1, must be from 256 to 16777216"},
		{func(c *Config) { c.StateDir = "" }, "state_dir: empty, must be a directory"},
		{func(c *Config) { c.DrainDelay = Duration(1e12) }, "drain_delay: 16m40s, must be from 0s to 5m"},
		{func(c *Config) { c.DrainTimeout = -5 }, "drain_timeout: -5ns, must be from 1ms to 1h"},
	} {
		c := Default()
		tt.change(c)
		err := c.Validate()
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("must be valid: %v", err)
		case tt.want != "" && err == nil:
			t.Errorf("must be a problem: %s", tt.want)
		case tt.want != "":
			lines := strings.Split(err.Error(), "\n")
			if !strings.HasPrefix(lines[0], tt.want) && !slices.ContainsFunc(lines, func(s string) bool { return strings.HasPrefix(s, tt.want) }) {
				t.Errorf("got  %q\nwant %q", lines, tt.want)
			}
		}
	}
}

func TestRulesNameTheLine(t *testing.T) {
	got := problems(t, `
models:
  - name: a
    path: /a
    aliases:
      - ok
      - "not ok"
  - name: b
node:
  labels:
    good: x
    Bad: x
`)
	want := []string{
		`f.yaml:7: models[0].aliases[1]: "not ok", must be ` + aliasNameRule,
		`f.yaml:8: models[1].path: missing, a model needs the directory of its files, or sync.bucket or peers to come from`,
		`f.yaml:12: node.labels.Bad: the name must be ` + labelNameRule,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestNearest(t *testing.T) {
	for _, tt := range []struct{ word, want string }{
		{"thread", "threads"}, {"Threads", "threads"}, {"treads", "threads"}, {"wdie", "wide"}, {"x", ""}, {"colour", ""},
	} {
		if got := nearest(tt.word, []string{"threads", "wide", "batch_tokens"}); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.word, got, tt.want)
		}
	}
}

func TestSyncRules(t *testing.T) {
	key := "RW" + strings.Repeat("A", 54)
	for _, tt := range []struct {
		change func(*Sync)
		want   string // "": valid
	}{
		{func(s *Sync) {
			s.Bucket, s.Endpoint, s.Remotes = "s3://eu/p", "http://127.0.0.1:9000", []Remote{{Region: "us", Bucket: "s3://us"}}
		}, ""},
		{func(s *Sync) { s.Bucket = "models" }, `sync.bucket: "models" is no bucket`},
		{func(s *Sync) { s.Bucket = "s3://a:b@models" }, "is no bucket"},
		{func(s *Sync) { s.Endpoint = "http://x" }, "sync.endpoint: set, but sync.bucket is not"},
		{func(s *Sync) { s.Bucket, s.Endpoint = "s3://eu", "minio:9000" }, "is no endpoint"},
		{func(s *Sync) { s.Remotes = []Remote{{Bucket: "s3://us"}} }, `sync.remotes[0].region: ""`},
		{func(s *Sync) { s.Remotes = []Remote{{Region: "us"}} }, "sync.remotes[0].bucket: missing"},
		{func(s *Sync) { s.Bucket, s.Remotes = "s3://eu", []Remote{{Region: "us", Bucket: "s3://eu"}} }, "is sync.bucket"},
		{func(s *Sync) { s.Remotes = make([]Remote, 17) }, "17 buckets, there may be 16"},
		{func(s *Sync) { s.Replicate = "yes" }, "sync.replicate"},
		{func(s *Sync) { s.Interval = 1 }, "sync.interval"},
		{func(s *Sync) { s.Rate = 10 }, "sync.rate"},
		{func(s *Sync) { s.Keep = 0 }, "sync.keep"},
		{func(s *Sync) { s.TrustedKeys = []string{key} }, ""},
		{func(s *Sync) { s.TrustedKeys = []string{key, "x"} }, `sync.trusted_keys[1]: "x" is no minisign public key`},
	} {
		c := Default()
		tt.change(&c.Sync)
		err := c.Validate()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
	c := Default()
	c.Models = []Model{{Name: "a"}, {Name: "b", Path: "/b"}, {Name: "c", Path: "hf://org/c@main"}}
	c.Sync.Bucket = "s3://eu"
	if err := c.Validate(); err != nil || !slices.Equal(c.SyncedModels(), []string{"a"}) {
		t.Errorf("%v, %v", err, c.SyncedModels())
	}
	c.Models[2].Path = "hf://c"
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "no model of the Hub") {
		t.Errorf("%v", err)
	}
}
