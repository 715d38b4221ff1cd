package config

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"go.uber.org/goleak"
	"gopkg.in/yaml.v3"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// everyKey calls visit for each key of t and of the sections below it; list entries have the path of the list.
func everyKey(t reflect.Type, prefix string, visit func(path string, f reflect.StructField)) {
	for _, k := range keys(t) {
		f := t.Field(k.index)
		path := join(prefix, k.name)
		visit(path, f)
		switch {
		case isSection(f.Type):
			everyKey(f.Type, path, visit)
		case isSectionList(f.Type):
			everyKey(f.Type.Elem(), path, visit)
		}
	}
}

func TestEveryFieldSaysWhatAChangeNeeds(t *testing.T) {
	n := 0
	everyKey(reflect.TypeFor[Config](), "", func(path string, f reflect.StructField) {
		n++
		if f.Tag.Get("yaml") == "" {
			t.Errorf("%s: no yaml tag", path)
		}
		if strings.ContainsFunc(f.Tag.Get("yaml"), func(r rune) bool { return r != '_' && !unicode.IsLower(r) }) {
			t.Errorf("%s: yaml tag %q is not snake_case", path, f.Tag.Get("yaml"))
		}
		reload := f.Tag.Get("reload")
		if isSection(f.Type) {
			if reload != "" {
				t.Errorf("%s: a section is tagged reload:%q, its keys must be", path, reload)
			}
		} else if reload != "yes" && reload != "restart" {
			t.Errorf(`%s: reload:%q, must be "yes" or "restart"`, path, reload)
		}
	})
	if n < 40 {
		t.Errorf("walked %d keys only", n)
	}
}

func TestEveryLeafIsOfAReadableType(t *testing.T) {
	everyKey(reflect.TypeFor[Config](), "", func(path string, f reflect.StructField) {
		switch {
		case isSection(f.Type), isSectionList(f.Type):
		case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.String:
		case f.Type == reflect.TypeFor[map[string]string]():
		default:
			v := reflect.New(f.Type).Elem()
			for _, text := range []string{"1", "1s", "true"} {
				if setScalar(v, text) == nil {
					return
				}
			}
			t.Errorf("%s: %s can be set from no text", path, f.Type)
		}
	})
}

func TestDefaultIsValidAndFresh(t *testing.T) {
	a, b := Default(), Default()
	if err := a.Validate(); err != nil {
		t.Fatal(err)
	}
	a.Listen[0].Roles[0], a.Engine.Providers[0] = "x", "x"
	if b.Listen[0].Roles[0] != "public" || b.Engine.Providers[0] != "cpu" {
		t.Error("two defaults share memory")
	}
}

const exampleFile = "../../conf/akidbd.yaml"

func TestExampleFileIsTheDefaults(t *testing.T) {
	c, err := Load(exampleFile, nil)
	if err != nil {
		t.Fatal(err)
	}
	if yes, restart := Changes(Default(), c); len(yes)+len(restart) > 0 {
		t.Errorf("%s differs from the defaults in %q", exampleFile, append(yes, restart...))
	}
}

func TestExampleFileHasEveryKey(t *testing.T) {
	data, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	// The keys of a list entry are in a commented one, which counts once it is uncommented.
	full := uncomment(t, uncomment(t, data, "models", ""), "remotes", "  ")
	var doc map[string]any
	if err := yaml.Unmarshal(full, &doc); err != nil {
		t.Fatal(err)
	}
	everyKey(reflect.TypeFor[Config](), "", func(path string, _ reflect.StructField) {
		at := any(doc)
		for step := range strings.SplitSeq(path, ".") {
			if list, ok := at.([]any); ok && len(list) > 0 {
				at = list[0]
			}
			m, _ := at.(map[string]any)
			var ok bool
			if at, ok = m[step]; !ok {
				t.Errorf("%s has no %s", exampleFile, path)
				return
			}
		}
	})
	c, err := Parse(full, exampleFile, nil)
	if err != nil {
		t.Fatal("with its model: ", err)
	}
	if len(c.Sync.Remotes) != 1 || c.Sync.Remotes[0].Bucket != "s3://models-us" {
		t.Errorf("the example bucket was read as %+v", c.Sync.Remotes)
	}
	if len(c.Models) != 1 || c.Models[0].Prompts["query"] != "query: " || c.DefaultModel() != "minilm" {
		t.Errorf("the example model was read as %+v", c.Models)
	}
}

// uncomment puts the commented example entry of a list in the place of the empty list.
func uncomment(t *testing.T, data []byte, list, indent string) []byte {
	t.Helper()
	block := regexp.MustCompile(`(?m)^` + indent + `# ` + list + `:\n(` + indent + `#   .*\n)+` + indent + list + `: \[\]\n`)
	found := false
	out := block.ReplaceAllFunc(data, func(b []byte) []byte {
		found = true
		b = []byte(strings.TrimSuffix(string(b), indent+list+": []\n"))
		return regexp.MustCompile(`(?m)^`+indent+`# `).ReplaceAll(b, []byte(indent))
	})
	if !found {
		t.Fatalf("no commented entry of %s found", list)
	}
	return out
}

func TestMinimalFile(t *testing.T) {
	c, err := Load("../../conf/akidbd.minimal.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	yes, restart := Changes(Default(), c)
	if !slices.Equal(yes, []string{"models[minilm]"}) || len(restart) > 0 {
		t.Errorf("it sets %q and %q, must set one model", yes, restart)
	}
}

func TestShownConfigCanBeReadAgain(t *testing.T) {
	no := false
	c := Default()
	c.Node.Labels = map[string]string{"gpu": "orin"}
	c.Models = []Model{{Name: "a", Path: "/a", Truncate: &no, Precision: "fp16", Prompts: map[string]string{"q": "Q: "}}}
	c.API.MaxBody, c.API.Deadline = 12345, Duration(90e9)
	shown, err := yaml.Marshal(c.Redacted())
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(shown, "shown", nil)
	if err != nil {
		t.Fatalf("%v in\n%s", err, shown)
	}
	if yes, restart := Changes(c, got); len(yes)+len(restart) > 0 {
		t.Errorf("lost on the way: %q %q in\n%s", yes, restart, shown)
	}
}

func TestNodeName(t *testing.T) {
	host := func() (string, error) { return "box-1.example.org", nil }
	c := Default()
	if name, err := c.NodeName(host); err != nil || name != "box-1.example.org" {
		t.Errorf("%q, %v", name, err)
	}
	c.Node.Name = "n1"
	if name, err := c.NodeName(host); err != nil || name != "n1" {
		t.Errorf("%q, %v", name, err)
	}
	c.Node.Name = ""
	if name, err := c.NodeName(func() (string, error) { return "my_box", nil }); err == nil || !strings.Contains(err.Error(), "node.name") {
		t.Errorf("%q, %v", name, err)
	}
}

func TestDefaultAdminSocket(t *testing.T) {
	for _, tt := range []struct {
		env  map[string]string
		uid  int
		want string
	}{
		{nil, 0, "/run/akidbd/admin.sock"},
		{nil, 1000, "/run/akidbd/admin.sock"},
		{map[string]string{"XDG_RUNTIME_DIR": "/run/user/1000"}, 1000, "/run/user/1000/akidbd/admin.sock"},
		{map[string]string{"XDG_RUNTIME_DIR": "/run/user/0"}, 0, "/run/akidbd/admin.sock"},
		{map[string]string{"XDG_RUNTIME_DIR": "/run/user/1000", "RUNTIME_DIRECTORY": "/run/akidbd:/run/x"}, 999, "/run/akidbd/admin.sock"},
	} {
		if got := DefaultAdminSocket(func(k string) string { return tt.env[k] }, tt.uid); got != tt.want {
			t.Errorf("%v as %d: %s, want %s", tt.env, tt.uid, got, tt.want)
		}
	}
}

func TestDefaultModel(t *testing.T) {
	for want, list := range map[string][]Model{
		"":  nil,
		"a": {{Name: "a"}, {Name: "b"}},
		"b": {{Name: "a"}, {Name: "b", Default: true}},
		"c": {{Name: "a"}, {Name: "c", Aliases: []string{"x", "default"}}},
	} {
		if got := (&Config{Models: list}).DefaultModel(); got != want {
			t.Errorf("%+v: %q, want %q", list, got, want)
		}
	}
}
