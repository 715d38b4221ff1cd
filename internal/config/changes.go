package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Changes lists the key paths whose values differ between two configurations, sorted: those that a running
// daemon takes over on reload and those that wait for a restart. An entry of a list is named by its name
// ("models[minilm].max_tokens") or, without one, by its index; an entry that is only in one of the two is
// named alone ("models[minilm]").
func Changes(old, new *Config) (reloadable, needRestart []string) {
	d := differ{}
	d.section(reflect.ValueOf(old).Elem(), reflect.ValueOf(new).Elem(), "")
	slices.Sort(d.reloadable)
	slices.Sort(d.needRestart)
	return d.reloadable, d.needRestart
}

type differ struct{ reloadable, needRestart []string }

func (d *differ) add(path, reload string) {
	if reload == "yes" {
		d.reloadable = append(d.reloadable, path)
	} else {
		d.needRestart = append(d.needRestart, path)
	}
}

func (d *differ) section(a, b reflect.Value, path string) {
	for _, k := range keys(a.Type()) {
		x, y, at := a.Field(k.index), b.Field(k.index), join(path, k.name)
		switch {
		case isSection(x.Type()):
			d.section(x, y, at)
		case isSectionList(x.Type()):
			d.list(x, y, at, k.reload)
		case !equal(x, y):
			d.add(at, k.reload)
		}
	}
}

func (d *differ) list(a, b reflect.Value, path, reload string) {
	names := func(v reflect.Value) (order []string, byName map[string]reflect.Value) {
		byName = make(map[string]reflect.Value)
		for i := range v.Len() {
			name := fmt.Sprint(i)
			if f := v.Index(i).FieldByName("Name"); f.IsValid() && f.String() != "" {
				name = f.String()
			}
			order, byName[name] = append(order, name), v.Index(i)
		}
		return order, byName
	}
	oldOrder, olds := names(a)
	newOrder, news := names(b)
	alike := true
	for _, name := range oldOrder {
		if y, ok := news[name]; ok {
			d.section(olds[name], y, path+"["+name+"]")
		} else {
			alike = false
			d.add(path+"["+name+"]", reload)
		}
	}
	for _, name := range newOrder {
		if _, ok := olds[name]; !ok {
			alike = false
			d.add(path+"["+name+"]", reload)
		}
	}
	if alike && !slices.Equal(oldOrder, newOrder) { // the first of a list may be the default
		d.add(path, reload)
	}
}

// equal takes an empty list or map for the same as none.
func equal(x, y reflect.Value) bool {
	switch x.Kind() {
	case reflect.Slice, reflect.Map:
		if x.Len() == 0 && y.Len() == 0 {
			return true
		}
	}
	return reflect.DeepEqual(x.Interface(), y.Interface())
}

// Redacted is a deep copy for showing, in which every secret that is set reads "[redacted]".
func (c *Config) Redacted() *Config {
	out := *c
	out.origins = nil
	redact(reflect.ValueOf(&out).Elem())
	return &out
}

// redact replaces the secrets below v, which it may write to, and unshares lists and maps on its way.
func redact(v reflect.Value) {
	for _, k := range keys(v.Type()) {
		f := v.Field(k.index)
		switch {
		case isSection(f.Type()):
			redact(f)
		case f.Kind() == reflect.Slice:
			if f.IsNil() {
				continue
			}
			list := reflect.MakeSlice(f.Type(), f.Len(), f.Len())
			reflect.Copy(list, f)
			f.Set(list)
			for i := range list.Len() {
				if isSection(f.Type().Elem()) {
					redact(list.Index(i))
				} else if k.secret {
					list.Index(i).SetString(hide(list.Index(i).String()))
				}
			}
		case f.Kind() == reflect.Map:
			if f.IsNil() {
				continue
			}
			pairs := reflect.MakeMapWithSize(f.Type(), f.Len())
			for it := f.MapRange(); it.Next(); {
				value := it.Value().String()
				if k.secret {
					value = hide(value)
				}
				pairs.SetMapIndex(it.Key(), reflect.ValueOf(value))
			}
			f.Set(pairs)
		case k.secret && f.Kind() == reflect.String:
			f.SetString(hide(f.String()))
		case f.Kind() == reflect.Pointer && !f.IsNil():
			e := reflect.New(f.Type().Elem())
			e.Elem().Set(f.Elem())
			f.Set(e)
		}
	}
}

func hide(s string) string {
	if strings.TrimSpace(s) == "" {
		return s
	}
	return "[redacted]"
}
