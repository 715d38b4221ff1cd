package config

import (
	"reflect"
	"strings"
)

// key is one field of the configuration's structs.
type key struct {
	name   string // as in the file
	reload string
	secret bool
	index  int
}

// keys lists the fields of a struct that are keys of the file, in their order.
func keys(t reflect.Type) []key {
	var out []key
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		out = append(out, key{name: name, reload: f.Tag.Get("reload"), secret: f.Tag.Get("secret") == "yes", index: i})
	}
	return out
}

// isSection says that t has keys of its own.
func isSection(t reflect.Type) bool { return t.Kind() == reflect.Struct }

// isSectionList says that t is a list whose entries have keys of their own.
func isSectionList(t reflect.Type) bool { return t.Kind() == reflect.Slice && isSection(t.Elem()) }

// leaf is one value of a Config that is not a section.
type leaf struct {
	path  string // "engine.threads"
	key   key
	value reflect.Value
}

// leaves lists the values below v, a settable struct, in the order of the fields. A list of sections is one
// leaf.
func leaves(v reflect.Value, prefix string) []leaf {
	var out []leaf
	for _, k := range keys(v.Type()) {
		f := v.Field(k.index)
		if isSection(f.Type()) {
			out = append(out, leaves(f, join(prefix, k.name))...)
			continue
		}
		out = append(out, leaf{path: join(prefix, k.name), key: k, value: f})
	}
	return out
}

func join(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}
