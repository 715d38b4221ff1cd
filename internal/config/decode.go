package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// origin is where a value was set.
type origin struct {
	source string
	line   int
}

// maxNodes bounds the values read from one file after aliases are followed, so that a few kilobytes of
// aliases to aliases cannot stand for billions of values. yaml.v3's own guard sits in its decoder, which is
// not used here: it stops at the first unknown key and names no key path.
const maxNodes = 100_000

// maxMerges bounds how deep "<<" may lead to a mapping that has a "<<" of its own.
const maxMerges = 8

// decoder puts one YAML document over a Config.
type decoder struct {
	name    string
	config  *Config
	report  *report
	left    int // nodes that may still be read
	aborted bool
}

// decodeFile reads data over c.
func decodeFile(c *Config, data []byte, name string, r *report) {
	d := &decoder{name: name, config: c, report: r, left: maxNodes}
	in := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	switch err := in.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return
	case err != nil:
		line, message := syntaxError(err)
		d.problem(line, "", "%s", message)
		return
	}
	var second yaml.Node
	if err := in.Decode(&second); !errors.Is(err, io.EOF) {
		if err != nil {
			line, message := syntaxError(err)
			d.problem(line, "", "%s", message)
			return
		}
		d.problem(second.Line, "", "a second YAML document starts here, a configuration is one document")
		return
	}
	if len(doc.Content) == 1 && !isNull(doc.Content[0]) {
		d.section(doc.Content[0], reflect.ValueOf(c).Elem(), "")
	}
}

// yamlLine finds the line number in what yaml.v3 says.
var yamlLine = regexp.MustCompile(`line (\d+): `)

// parserErrors start the messages of yaml.v3's parser, as opposed to its scanner. Their line is one too low and
// often that of the start of the block in which the parser got lost.
var parserErrors = regexp.MustCompile(`^did not find expected (node content|'-' indicator|key|',' or)`)

func syntaxError(err error) (line int, message string) {
	message = strings.TrimPrefix(err.Error(), "yaml: ")
	if m := yamlLine.FindStringSubmatch(message); m != nil {
		line, _ = strconv.Atoi(m[1])
		message = strings.Replace(message, m[0], "", 1)
		if parserErrors.MatchString(message) {
			line++
			message += ", here or in what starts here"
		}
	}
	return line, "not YAML: " + message
}

func (d *decoder) problem(line int, path, format string, args ...any) {
	d.report.add(Problem{Source: d.name, Line: line, Path: path, Message: fmt.Sprintf(format, args...)})
}

// spend counts one node and says whether there was still room.
func (d *decoder) spend(n *yaml.Node) bool {
	if d.left--; d.left >= 0 {
		return true
	}
	if !d.aborted {
		d.aborted = true
		d.problem(n.Line, "", "more than %d values after aliases are followed, the limit of a configuration file", maxNodes)
	}
	return false
}

// follow gives the node behind an alias.
func follow(n *yaml.Node) *yaml.Node {
	for range maxMerges {
		if n.Kind != yaml.AliasNode {
			break
		}
		n = n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool {
	n = follow(n)
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		return "the single value " + quote(n.Value)
	}
	return "an alias that leads nowhere"
}

func quote(s string) string { return strconv.Quote(clip(s)) }

// section reads the mapping n into the struct v. Keys without a value keep their defaults.
func (d *decoder) section(n *yaml.Node, v reflect.Value, path string) {
	n = follow(n)
	if n.Kind != yaml.MappingNode {
		d.problem(n.Line, path, "%s where keys are expected", kindName(n))
		return
	}
	fields := keys(v.Type())
	for _, p := range d.pairs(n, path) {
		i := slices.IndexFunc(fields, func(k key) bool { return k.name == p.key })
		if i < 0 {
			d.unknown(p, fields, path)
			continue
		}
		if !isNull(p.value) {
			d.value(p.value, v.Field(fields[i].index), join(path, p.key))
		}
	}
}

func (d *decoder) unknown(p pair, fields []key, path string) {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	meant := nearest(p.key, names)
	if meant != "" {
		meant = join(path, meant)
	} else {
		// The right key in the wrong place is as common as the wrong key.
		for _, l := range leaves(reflect.ValueOf(Default()).Elem(), "") {
			if strings.HasSuffix(l.path, "."+p.key) {
				meant = l.path
				break
			}
		}
	}
	if meant != "" {
		d.problem(p.line, join(path, clip(p.key)), "unknown key, did you mean %s?", meant)
		return
	}
	slices.Sort(names)
	d.problem(p.line, join(path, clip(p.key)), "unknown key, there are %s", strings.Join(names, ", "))
}

// value reads n into v, which is anything that is not a section or a section itself.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	n = follow(n)
	if !d.spend(n) {
		return
	}
	t := v.Type()
	d.config.origins[path] = origin{source: d.name, line: n.Line}
	switch {
	case isSection(t):
		d.section(n, v, path)
	case isSectionList(t):
		d.sectionList(n, v, path)
	case t.Kind() == reflect.Slice:
		d.stringList(n, v, path)
	case t.Kind() == reflect.Map:
		d.stringMap(n, v, path)
	default:
		if n.Kind != yaml.ScalarNode {
			d.problem(n.Line, path, "%s where a single value is expected", kindName(n))
			return
		}
		if err := setScalar(v, n.Value); err != nil {
			d.problem(n.Line, path, "%s", err)
		}
	}
}

func (d *decoder) sectionList(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		d.problem(n.Line, path, "%s where a list is expected", kindName(n))
		return
	}
	list := reflect.MakeSlice(v.Type(), 0, min(len(n.Content), 64))
	for i, entry := range n.Content {
		if !d.spend(entry) {
			return
		}
		e := reflect.New(v.Type().Elem())
		if withDefaults, ok := e.Interface().(interface{ setDefaults() }); ok {
			withDefaults.setDefaults()
		}
		at := fmt.Sprintf("%s[%d]", path, i)
		d.config.origins[at] = origin{source: d.name, line: entry.Line}
		d.section(entry, e.Elem(), at)
		list = reflect.Append(list, e.Elem())
	}
	v.Set(list)
}

func (d *decoder) stringList(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		d.problem(n.Line, path, "%s where a list is expected, write [%s]", kindName(n), clip(n.Value))
		return
	}
	list := make([]string, 0, min(len(n.Content), 64))
	for i, entry := range n.Content {
		if !d.spend(entry) {
			return
		}
		at := fmt.Sprintf("%s[%d]", path, i)
		d.config.origins[at] = origin{source: d.name, line: entry.Line}
		if entry = follow(entry); entry.Kind != yaml.ScalarNode || isNull(entry) {
			d.problem(entry.Line, at, "%s where a text is expected", kindName(entry))
			continue
		}
		list = append(list, entry.Value)
	}
	v.Set(reflect.ValueOf(list))
}

func (d *decoder) stringMap(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.problem(n.Line, path, "%s where pairs of names and texts are expected", kindName(n))
		return
	}
	out := make(map[string]string)
	for _, p := range d.pairs(n, path) {
		at := join(path, clip(p.key))
		d.config.origins[join(path, p.key)] = origin{source: d.name, line: p.line}
		if value := follow(p.value); value.Kind != yaml.ScalarNode || isNull(value) {
			d.problem(p.line, at, "%s where a text is expected", kindName(value))
		} else {
			out[p.key] = value.Value
		}
	}
	v.Set(reflect.ValueOf(out))
}

// setScalar reads text into v, the same way for the file and for the environment.
func setScalar(v reflect.Value, text string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.Pointer:
		e := reflect.New(v.Type().Elem())
		if err := setScalar(e.Elem(), text); err != nil {
			return err
		}
		v.Set(e)
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		if text != "true" && text != "false" {
			return fmt.Errorf("%s is neither true nor false", quote(text))
		}
		v.SetBool(text == "true")
	case reflect.Int:
		i, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%s is not a whole number", quote(text))
		}
		v.SetInt(int64(i))
	default:
		return fmt.Errorf("cannot be set from a text")
	}
	return nil
}
