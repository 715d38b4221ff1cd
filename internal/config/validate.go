package config

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// RolePublic is the role of the routes that clients use.
const RolePublic = "public"

// DefaultName is what requests that name no model mean.
const DefaultName = "default"

// The closed sets.
var (
	roles      = []string{RolePublic}
	levels     = []string{"debug", "info", "warn", "error"}
	formats    = []string{"json", "text"}
	poolings   = []string{"cls", "mean", "max", "mean_sqrt_len", "weightedmean", "last", "mean_sqrt_len_tokens", "lasttoken"}
	precisions = []string{"fp32", "fp16"}
	providers  = []string{"cpu", "cuda", "tensorrt"}
	wides      = []string{"auto", "always", "never"}
	isolations = []string{"process", "none"}
	swaps      = []string{"beside", "unload"}
)

// The forms of names.
var (
	nodeName  = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9.-]{0,63}$`)
	placeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$`)
	labelName = regexp.MustCompile(`^[a-z0-9][a-z0-9._/-]{0,62}$`)
	modelName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$`)
	hubPath   = regexp.MustCompile(`^hf://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9][A-Za-z0-9._/-]*)?$`)
	aliasName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._/:-]{0,127}$`)
)

const (
	nodeNameRule  = "1 to 64 of a-z, A-Z, 0-9, '.' and '-', the first a letter or digit"
	placeNameRule = "1 to 63 of a-z, A-Z, 0-9, '.', '_' and '-', the first a letter or digit"
	labelNameRule = "1 to 63 of a-z, 0-9, '.', '_', '/' and '-', the first a letter or digit"
	modelNameRule = "1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-', the first a letter or digit"
	aliasNameRule = "1 to 128 of a-z, A-Z, 0-9, '.', '_', '/', ':' and '-', the first a letter or digit"
)

// maxSocketPath is the room for a path in sockaddr_un, less its final zero byte.
const maxSocketPath = 107

// checker reports broken rules where the value was set.
type checker struct {
	config *Config
	report *report
}

func (c *Config) validate(r *report) {
	k := checker{config: c, report: r}
	k.node(c.Node)
	k.listen(c.Listen)
	if n := len(c.Admin.Socket); n > maxSocketPath {
		k.problem("admin.socket", "%d bytes, a unix socket's path has at most %d", n, maxSocketPath)
	}
	k.path("admin.socket", c.Admin.Socket, false)
	k.oneOf("log.level", c.Log.Level, levels)
	k.oneOf("log.format", c.Log.Format, formats)
	k.models(c.Models)
	k.engine(c.Engine)
	k.api(c.API)
	k.mesh(c)
	k.sync(c.Sync)
	k.tracing(c.Tracing)
	if c.Metrics.RequireKey && c.API.KeysFile == "" {
		k.problem("metrics.require_key", "true, but there are no keys: set api.keys_file too")
	}
	k.path("state_dir", c.StateDir, true)
	k.path("cache_dir", c.CacheDir, true)
	within(k, "drain_delay", c.DrainDelay, 0, Duration(5*time.Minute))
	within(k, "drain_timeout", c.DrainTimeout, Duration(time.Millisecond), Duration(time.Hour))
}

func (k checker) problem(path, format string, args ...any) {
	p := Problem{Path: path, Message: fmt.Sprintf(format, args...)}
	// A value inside a list or a pair may have no place of its own, such as one that is missing.
	for at := path; at != ""; at = at[:max(0, strings.LastIndexAny(at, ".["))] {
		if o, ok := k.config.origins[at]; ok {
			p.Source, p.Line = o.source, o.line
			break
		}
	}
	k.report.add(p)
}

func (k checker) node(n Node) {
	if n.Name != "" && !nodeName.MatchString(n.Name) {
		k.problem("node.name", "%s, must be %s", quote(n.Name), nodeNameRule)
	}
	for _, p := range []struct{ path, value string }{
		{"node.region", n.Region}, {"node.zone", n.Zone}, {"node.cluster", n.Cluster}, {"node.environment", n.Environment},
	} {
		if p.value == "" && p.path != "node.region" {
			continue
		}
		if !placeName.MatchString(p.value) {
			k.problem(p.path, "%s, must be %s", quote(p.value), placeNameRule)
		}
	}
	k.atMost("node.labels", len(n.Labels), 32, "labels")
	for name, value := range sorted(n.Labels) {
		at := "node.labels." + clip(name)
		if !labelName.MatchString(name) {
			k.problem(at, "the name must be %s", labelNameRule)
		}
		if len(value) > 63 || !printable(value) {
			k.problem(at, "%s, must be at most 63 bytes (is %d) of printable text", quote(value), len(value))
		}
	}
}

func (k checker) listen(list []Listen) {
	if len(list) == 0 {
		k.problem("listen", "empty, a node needs at least one address")
	}
	k.atMost("listen", len(list), 16, "addresses")
	for i, l := range list {
		at := fmt.Sprintf("listen[%d]", i)
		if _, port, ok := k.address(at+".address", l.Address, `":8080" or "127.0.0.1:8080"`); ok && port != 0 {
			for j, earlier := range list[:i] {
				if earlier.Address == l.Address {
					k.problem(at+".address", "%s is the address of listen[%d] already", quote(l.Address), j)
				}
			}
		}
		k.subset(at+".roles", l.Roles, roles)
	}
}

func (k checker) models(list []Model) {
	k.atMost("models", len(list), 64, "models")
	owner := make(map[string]string)
	claim := func(at, name string) {
		if other, taken := owner[name]; taken {
			k.problem(at, "%s is taken by %s already", quote(name), other)
			return
		}
		owner[name] = at
	}
	for i, m := range list {
		at := fmt.Sprintf("models[%d]", i)
		switch {
		case m.Name == "":
			k.problem(at+".name", "missing, a model needs a name")
		case !modelName.MatchString(m.Name):
			k.problem(at+".name", "%s, must be %s", quote(m.Name), modelNameRule)
		default:
			claim(at+".name", m.Name)
		}
		switch {
		case m.Path == "" && !k.config.Synced():
			k.problem(at+".path", "missing, a model needs the directory of its files, or sync.bucket or peers to come from")
		case strings.HasPrefix(m.Path, "hf://") && !hubPath.MatchString(m.Path):
			k.problem(at+".path", "%s is no model of the Hub, write hf://org/name or hf://org/name@revision", quote(m.Path))
		}
		k.path(at+".path", m.Path, false)
		k.atMost(at+".aliases", len(m.Aliases), 16, "aliases")
		for j, a := range m.Aliases {
			on := fmt.Sprintf("%s.aliases[%d]", at, j)
			if !aliasName.MatchString(a) {
				k.problem(on, "%s, must be %s", quote(a), aliasNameRule)
				continue
			}
			claim(on, a)
		}
		if m.Pooling != "" {
			k.oneOf(at+".pooling", m.Pooling, poolings)
		}
		if m.Precision != "" {
			k.oneOf(at+".precision", m.Precision, precisions)
		}
		within(k, at+".max_tokens", m.MaxTokens, 0, 131072)
		k.atMost(at+".prompts", len(m.Prompts), 64, "prompts")
		for name, text := range sorted(m.Prompts) {
			if name == "" || len(name) > 64 || !printable(name) {
				k.problem(at+".prompts", "the name %s must be 1 to 64 bytes (is %d) of printable text", quote(name), len(name))
			}
			if len(text) > 4096 || !utf8.ValidString(text) {
				k.problem(at+".prompts."+clip(name), "%d bytes, must be at most 4096 of UTF-8", len(text))
			}
		}
	}
	if claims := k.config.claimsDefault(); len(claims) > 1 {
		for _, i := range claims[1:] {
			k.problem(fmt.Sprintf("models[%d]", i), "%s is to be the default, but %s is already (by default: true or by that name)",
				quote(list[i].Name), quote(list[claims[0]].Name))
		}
	}
}

func (k checker) engine(e Engine) {
	k.path("engine.library_path", e.LibraryPath, false)
	k.oneOf("engine.isolation", e.Isolation, isolations)
	k.oneOf("engine.swap", e.Swap, swaps)
	within(k, "engine.hold", e.Hold, 0, Duration(time.Hour))
	k.subset("engine.providers", e.Providers, providers)
	within(k, "engine.threads", e.Threads, 0, 1024)
	within(k, "engine.batch_tokens", e.BatchTokens, 16, 1<<20)
	within(k, "engine.queue_tokens", e.QueueTokens, 16, 1<<30)
	if e.QueueTokens < e.BatchTokens {
		k.problem("engine.queue_tokens", "%d, must be at least engine.batch_tokens, %d", e.QueueTokens, e.BatchTokens)
	}
	k.oneOf("engine.wide", e.Wide, wides)
	within(k, "engine.run_timeout", e.RunTimeout, Duration(100*time.Millisecond), Duration(time.Hour))
	within(k, "engine.load_timeout", e.LoadTimeout, Duration(time.Second), Duration(24*time.Hour))
}

func (k checker) api(a API) {
	within(k, "api.deadline", a.Deadline, Duration(time.Millisecond), Duration(time.Hour))
	within(k, "api.max_body", a.MaxBody, 1<<10, 1<<30)
	within(k, "api.max_inputs", a.MaxInputs, 1, 65536)
	within(k, "api.max_input_bytes", a.MaxInputBytes, 1, 1<<30)
	k.path("api.keys_file", a.KeysFile, false)
	within(k, "api.retry_after", a.RetryAfter, Duration(time.Second), Duration(time.Hour))
}

func (k checker) oneOf(path, value string, allowed []string) {
	if slices.Contains(allowed, value) {
		return
	}
	hint := ""
	if meant := nearest(value, allowed); meant != "" {
		hint = ", did you mean " + meant + "?"
	}
	k.problem(path, "%s, must be one of %s%s", quote(value), strings.Join(allowed, ", "), hint)
}

// subset wants at least one value, none twice.
func (k checker) subset(path string, values, allowed []string) {
	if len(values) == 0 {
		k.problem(path, "empty, must be some of %s", strings.Join(allowed, ", "))
	}
	for i, v := range values[:min(len(values), 16)] {
		at := fmt.Sprintf("%s[%d]", path, i)
		k.oneOf(at, v, allowed)
		if slices.Contains(values[:i], v) {
			k.problem(at, "%s is there twice", quote(v))
		}
	}
	k.atMost(path, len(values), 16, "entries")
}

func (k checker) atMost(path string, n, most int, what string) {
	if n > most {
		k.problem(path, "%d %s, there may be %d", n, what, most)
	}
}

func (k checker) path(path, value string, required bool) {
	switch {
	case value == "" && required:
		k.problem(path, "empty, must be a directory")
	case strings.ContainsRune(value, 0) || len(value) > 4095:
		k.problem(path, "%s is no path (%d bytes; at most 4095, none of them zero)", quote(value), len(value))
	}
}

func within[T cmp.Ordered](k checker, path string, value, least, most T) {
	if value < least || value > most {
		k.problem(path, "%v, must be from %v to %v", value, least, most)
	}
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// sorted ranges over m in the order of its keys, so that reports do not change from run to run.
func sorted(m map[string]string) func(yield func(string, string) bool) {
	return func(yield func(string, string) bool) {
		names := make([]string, 0, len(m))
		for n := range m {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, n := range names {
			if !yield(n, m[n]) {
				return
			}
		}
	}
}
