package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// problems parses text as f.yaml and gives the lines of the error.
func problems(t *testing.T, text string, env ...string) []string {
	t.Helper()
	c, err := Parse([]byte(text), "f.yaml", env)
	if err == nil {
		return nil
	}
	if c != nil {
		t.Error("a configuration came with the error")
	}
	if _, ok := errors.AsType[*Error](err); !ok {
		t.Fatalf("%T, must be *Error", err)
	}
	return strings.Split(err.Error(), "\n")
}

func TestParseReadsEveryKind(t *testing.T) {
	c, err := Parse([]byte(`
node: {name: n1, labels: {gpu: orin, rack: 2}}
listen:
  - address: 127.0.0.1:9000
engine: {providers: [cuda, cpu], threads: 4, run_timeout: 1m30s}
api:
  max_body: 2MiB
  token_ids: true
models:
  - {name: a, path: /a, normalize: false, precision: fp16, prompts: {query: "query: "}}
  - name: b
    path: /b
    aliases: [text-embedding-3-small, "sentence-transformers/all-MiniLM-L6-v2"]
    default: true
drain_delay: 0
`), "f.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Node.Name != "n1" || c.Node.Labels["rack"] != "2" || c.Node.Region != "local" {
		t.Errorf("node is %+v", c.Node)
	}
	if len(c.Listen) != 1 || c.Listen[0].Address != "127.0.0.1:9000" || !slices.Equal(c.Listen[0].Roles, []string{"public"}) {
		t.Errorf("listen is %+v", c.Listen)
	}
	e := c.Engine
	if !slices.Equal(e.Providers, []string{"cuda", "cpu"}) || e.Threads != 4 || e.RunTimeout.Std() != 90*time.Second || e.BatchTokens != 256 {
		t.Errorf("engine is %+v", e)
	}
	if c.API.MaxBody != 2<<20 || !c.API.TokenIDs || c.API.MaxInputs != 2048 || c.DrainDelay != 0 {
		t.Errorf("api is %+v, drain_delay %v", c.API, c.DrainDelay)
	}
	a, b := c.Models[0], c.Models[1]
	if a.Normalize == nil || *a.Normalize || a.Truncate != nil || a.Precision != "fp16" || a.Prompts["query"] != "query: " {
		t.Errorf("model a is %+v", a)
	}
	if b.Precision != "fp32" || len(b.Aliases) != 2 || !b.Default {
		t.Errorf("model b is %+v", b)
	}
}

func TestNothingIsTheDefaults(t *testing.T) {
	for _, text := range []string{"", "# a comment\n", "---\n", "node:\nlisten:\napi: ~\nengine:\n  threads:\n"} {
		c, err := Parse([]byte(text), "f.yaml", nil)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if yes, restart := Changes(Default(), c); len(yes)+len(restart) > 0 {
			t.Errorf("%q changes %q %q", text, yes, restart)
		}
	}
}

func TestProblemsOfTheFile(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"unknown key", "engine:\n  thread: 4", "f.yaml:2: engine.thread: unknown key, did you mean engine.threads?"},
		{"unknown section", "enigne: {}", "f.yaml:1: enigne: unknown key, did you mean engine?"},
		{"right key, wrong place", "batch_tokens: 64", "f.yaml:1: batch_tokens: unknown key, did you mean engine.batch_tokens?"},
		{"unknown key, nothing near", "metrics: {qqqqqqqq: 1}", "f.yaml:1: metrics.qqqqqqqq: unknown key, there are require_key"},
		{"unknown key of an entry", "models:\n- name: a\n  path: /a\n  alias: [x]", "f.yaml:4: models[0].alias: unknown key, did you mean models[0].aliases?"},
		{"twice", "log:\n  level: info\n  level: warn", "f.yaml:3: log.level: set twice, first on line 2"},
		{"not a number", "engine: {threads: many}", `f.yaml:1: engine.threads: "many" is not a whole number`},
		{"not a number either", "engine: {threads: 1.5}", `f.yaml:1: engine.threads: "1.5" is not a whole number`},
		{"huge number", "engine: {threads: 99999999999999999999}", `f.yaml:1: engine.threads: "99999999999999999999" is not a whole number`},
		{"not a bool", "api: {token_ids: yes}", `f.yaml:1: api.token_ids: "yes" is neither true nor false`},
		{"no unit", "drain_delay: 10", `f.yaml:1: drain_delay: "10" has no unit, write 10s, 10ms or 10m`},
		{"no duration", "drain_delay: soon", `f.yaml:1: drain_delay: "soon" is not a duration, write for example 250ms, 10s or 1h30m`},
		{"no size", "api: {max_body: 8M}", `f.yaml:1: api.max_body: "8M" is not a size, write a whole number of bytes or for example 64KiB, 8MiB, 1GiB`},
		{"list for a scalar", "log: {level: [info]}", "f.yaml:1: log.level: a list where a single value is expected"},
		{"scalar for a list", "engine:\n  providers: cpu", `f.yaml:2: engine.providers: the single value "cpu" where a list is expected, write [cpu]`},
		{"scalar for a section", "engine: 5", `f.yaml:1: engine: the single value "5" where keys are expected`},
		{"scalar for a list of sections", "models: minilm", `f.yaml:1: models: the single value "minilm" where a list is expected`},
		{"mapping in a list", "engine: {providers: [{a: b}]}", "f.yaml:1: engine.providers[0]: a mapping where a text is expected"},
		{"nothing in a pair", "node: {labels: {gpu: }}", `f.yaml:1: node.labels.gpu: the single value "" where a text is expected`},
		{"list as a document", "- a", "f.yaml:1: a list where keys are expected"},
		{"mapping as a key", "{a: b}: c", "f.yaml:1: a mapping where a key is expected"},
		{"two documents", "log: {level: info}\n---\nlog: {level: warn}", "f.yaml:2: a second YAML document starts here, a configuration is one document"},
		{"syntax", "log:\n  level: [info", "f.yaml:2: not YAML: did not find expected ',' or ']', here or in what starts here"},
		{"indentation", "log:\n  level: info\n   format: json", "f.yaml:3: not YAML: mapping values are not allowed in this context"},
		{"no colon", "log:\n  level: info\n  format", "f.yaml:3: not YAML: could not find expected ':'"},
		{"tab", "log:\n\tlevel: info", "f.yaml:2: not YAML: found character that cannot start any token"},
		{"unknown anchor", "log: *nope", "f.yaml: not YAML: unknown anchor 'nope' referenced"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := problems(t, tt.text)
			if !slices.Contains(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestManyProblemsAtOnceInTheOrderOfTheLines(t *testing.T) {
	got := problems(t, `
log: {level: loud}
engine:
  threads: -1
  wide: sometimes
  nonsense_key: 1
api:
  max_inputs: x
`, "AKIDB_API_DEADLINE=never")
	want := []string{
		`AKIDB_API_DEADLINE: api.deadline: "never" is not a duration, write for example 250ms, 10s or 1h30m`,
		`f.yaml:2: log.level: "loud", must be one of debug, info, warn, error`,
		`f.yaml:4: engine.threads: -1, must be from 0 to 1024`,
		`f.yaml:5: engine.wide: "sometimes", must be one of auto, always, never`,
		`f.yaml:6: engine.nonsense_key: unknown key, there are batch_tokens, hold, isolation, library_path, load_timeout, providers, queue_tokens, run_timeout, swap, threads, wide`,
		`f.yaml:8: api.max_inputs: "x" is not a whole number`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestReportIsBounded(t *testing.T) {
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, "key%d: 1\n", i)
	}
	got := problems(t, b.String())
	if len(got) != maxProblems+1 || got[maxProblems] != "and 950 more problems" {
		t.Errorf("%d lines, the last %q", len(got), got[len(got)-1])
	}
}

func TestAnchorsAndMergeKeys(t *testing.T) {
	c, err := Parse([]byte(`
models:
  - &base {name: a, path: /a, max_tokens: 128, pooling: cls, prompts: &p {query: "q: "}}
  - <<: *base
    name: b
    pooling: mean
  - {name: c, path: /c, prompts: *p, <<: [{max_tokens: 7}, *base]}
`), "f.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	b, cc := c.Models[1], c.Models[2]
	if b.Name != "b" || b.Path != "/a" || b.Pooling != "mean" || b.MaxTokens != 128 || b.Prompts["query"] != "q: " {
		t.Errorf("b is %+v", b)
	}
	if cc.Name != "c" || cc.MaxTokens != 7 || cc.Pooling != "cls" || cc.Prompts["query"] != "q: " {
		t.Errorf("c is %+v", cc)
	}
}

func TestAliasBombsEndEarly(t *testing.T) {
	list := func(n int, of string) string { return "[" + strings.Repeat(of+",", n) + "]" }
	var deep strings.Builder // each mapping merges the one before twice
	deep.WriteString("node:\n  labels:\n    <<: *m40\n")
	chain := "models: [{prompts: &m0 {q: x}}"
	for i := 1; i <= 40; i++ {
		chain += fmt.Sprintf(", {prompts: &m%d {<<: [*m%d, *m%d]}}", i, i-1, i-1)
	}
	for name, text := range map[string]string{
		"list of aliases to lists": "models:\n- prompts: &p {" + strings.Repeat("k: v, ", 1) + "}\n- &m {name: a, path: /a, aliases: &l " + list(20000, "x") + "}\n" + strings.Repeat("- *m\n", 20000),
		"doubling merges":          chain + "]\n" + deep.String(),
		"merge of itself":          "node: &n\n  labels: &l {<<: *l, a: b}\n",
		"section of itself":        "node: &n {<<: *n}\n",
		"list of itself":           "listen: &l [*l, *l]\n",
		"nine lols":                "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nengine: {providers: *c}\n",
	} {
		t.Run(name, func(t *testing.T) {
			if len(text) > maxFile {
				t.Fatalf("the bomb has %d bytes, over the limit of the file itself", len(text))
			}
			got := problems(t, text)
			if len(got) == 0 {
				t.Error("no problem found")
			}
			for _, line := range got {
				if len(line) > 600 {
					t.Errorf("a line of %d bytes: %.200s", len(line), line)
				}
			}
		})
	}
	got := problems(t, "models:\n- &m {name: a, path: /a, aliases: &l "+list(20000, "x")+"}\n"+strings.Repeat("- *m\n", 20))
	if !slices.ContainsFunc(got, func(s string) bool {
		return strings.Contains(s, "more than 100000 values after aliases are followed")
	}) {
		t.Errorf("the limit is not told in %q", got)
	}
}

func TestFileLimits(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big.yaml")
	if err := os.WriteFile(big, []byte(strings.Repeat("# comment\n", maxFile/10+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	want := big + ": longer than 1048576 bytes, the limit of a configuration file"
	if _, err := Load(big, nil); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if _, err := Load(filepath.Join(dir, "none.yaml"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Load(dir, nil); err == nil || !strings.Contains(err.Error(), "a directory") {
		t.Errorf("directory: %v", err)
	}
	if c, err := Load("", nil); err != nil || c.Listen[0].Address != ":8080" {
		t.Errorf("no file: %+v, %v", c, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, file := range []string{exampleFile, "../../conf/akidbd.minimal.yaml"} {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, "")
	}
	for _, s := range []string{
		"node: &n {<<: *n}", "a: &a [*a]", "models: [{name: a, <<: [*a]}]", "listen: [{address: ':0'}, ~]", "{a: b}: c",
		"? [x]\n: y", "--- !!binary x", "engine: {threads: .nan}", "api: {max_body: 99999999TiB}", "\xff", "node: {labels: {\"\\x00\": \"\\n\"}}",
	} {
		f.Add([]byte(s), "engine.threads")
	}
	f.Fuzz(func(t *testing.T, data []byte, value string) {
		c, err := Parse(data, "f", []string{"AKIDB_NODE_LABELS=" + value, "AKIDB_ENGINE_PROVIDERS=" + value, "AKIDB_" + value})
		if err != nil {
			e, ok := errors.AsType[*Error](err)
			if !ok || len(e.Problems) == 0 || len(e.Problems) > maxProblems+1 {
				t.Fatalf("%T with %v", err, err)
			}
			for _, p := range e.Problems {
				if s := p.String(); s == "" || len(s) > 2000 {
					t.Errorf("a problem of %d bytes", len(s))
				}
			}
			return
		}
		if err := c.Validate(); err != nil {
			t.Errorf("valid once, then %v", err)
		}
		if yes, restart := Changes(c, c.Redacted()); len(yes)+len(restart) > 0 {
			t.Errorf("the copy differs in %q %q", yes, restart)
		}
	})
}
