package config

import (
	"reflect"
	"slices"
	"testing"
)

func TestChanges(t *testing.T) {
	yes := true
	old := Default()
	old.Models = []Model{{Name: "a", Path: "/a"}, {Name: "b", Path: "/b"}, {Name: "gone", Path: "/g"}}
	next := Default()
	next.Models = []Model{{Name: "b", Path: "/b", Normalize: &yes}, {Name: "a", Path: "/a2", Aliases: []string{}}, {Name: "new", Path: "/n"}}
	next.Log = Log{Level: "debug", Format: "text"}
	next.Listen[0].Address = ":1"
	next.Node.Labels = map[string]string{"a": "b"}
	next.API.Deadline = 5
	reloadable, restart := Changes(old, next)
	if want := []string{"api.deadline", "log.level", "models[a].path", "models[b].normalize", "models[gone]", "models[new]"}; !slices.Equal(reloadable, want) {
		t.Errorf("reloadable %q, want %q", reloadable, want)
	}
	if want := []string{"listen[0].address", "log.format", "node.labels"}; !slices.Equal(restart, want) {
		t.Errorf("restart %q, want %q", restart, want)
	}
	if r, s := Changes(old, old); len(r)+len(s) > 0 {
		t.Errorf("the same differs in %q %q", r, s)
	}
}

func TestChangedOrderOfModelsIsAChange(t *testing.T) {
	old, next := Default(), Default()
	old.Models = []Model{{Name: "a"}, {Name: "b"}}
	next.Models = []Model{{Name: "b"}, {Name: "a"}}
	if got, _ := Changes(old, next); !slices.Equal(got, []string{"models"}) {
		t.Errorf("%q", got)
	}
}

// TestEveryChangeIsSeen changes each leaf in turn: none may be missed, and none may be of the wrong kind.
func TestEveryChangeIsSeen(t *testing.T) {
	base := func() *Config {
		c := Default()
		c.Models = []Model{{Name: "a", Path: "/a"}}
		c.Sync.Remotes = []Remote{{Region: "eu", Bucket: "s3://b"}}
		return c
	}
	var visit func(get func(*Config) reflect.Value)
	n := 0
	visit = func(get func(*Config) reflect.Value) {
		for _, k := range keys(get(base()).Type()) {
			field := func(c *Config) reflect.Value { return get(c).Field(k.index) }
			v := field(base())
			if isSection(v.Type()) {
				visit(field)
				continue
			}
			if isSectionList(v.Type()) {
				visit(func(c *Config) reflect.Value { return field(c).Index(0) })
				continue
			}
			c := base()
			alter(field(c))
			yes, restart := Changes(base(), c)
			got := yes
			if k.reload == "restart" {
				got, restart = restart, yes
			}
			if len(got) == 0 || len(restart) > 0 {
				t.Errorf("%s, tagged %s: seen as %q, and the other kind %q", k.name, k.reload, got, restart)
			}
			n++
		}
	}
	visit(func(c *Config) reflect.Value { return reflect.ValueOf(c).Elem() })
	if n < 40 {
		t.Errorf("altered %d leaves only", n)
	}
}

func alter(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int, reflect.Int64:
		v.SetInt(v.Int() + 1)
	case reflect.Slice:
		v.Set(reflect.ValueOf([]string{"altered"}))
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"altered": "x"}))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	}
}

func TestRedact(t *testing.T) {
	type inner struct {
		Key string `yaml:"key" secret:"yes"`
	}
	yes := true
	type outer struct {
		Plain string            `yaml:"plain"`
		Key   string            `yaml:"key" secret:"yes"`
		Empty string            `yaml:"empty" secret:"yes"`
		Keys  []string          `yaml:"keys" secret:"yes"`
		Pairs map[string]string `yaml:"pairs" secret:"yes"`
		In    inner             `yaml:"in"`
		List  []inner           `yaml:"list"`
		Flag  *bool             `yaml:"flag"`
	}
	orig := outer{"p", "s", "", []string{"s"}, map[string]string{"k": "s"}, inner{"s"}, []inner{{"s"}}, &yes}
	shown := orig
	redact(reflect.ValueOf(&shown).Elem())
	const x = "[redacted]"
	if want := (outer{"p", x, "", []string{x}, map[string]string{"k": x}, inner{x}, []inner{{x}}, &yes}); !reflect.DeepEqual(shown, want) {
		t.Errorf("%+v", shown)
	}
	if orig.Keys[0] != "s" || orig.Pairs["k"] != "s" || orig.List[0].Key != "s" {
		t.Errorf("the original was changed: %+v", orig)
	}
	if shown.Flag == orig.Flag {
		t.Error("the copy shares a pointer")
	}
}
