package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"strconv"
	"strings"
)

// The file is found to be well-formed once, as a whole; what follows only cuts it up, without copying, so a
// large file costs no more memory than its size. encoding/json alone would hide duplicate tokens, and match
// field names without regard to case.

// maxFields bounds the fields of one object, and the items of one list; the vocabulary is apart.
const maxFields = 1 << 16

// object is one JSON object of the file with the path that errors call it by.
type object struct {
	path   string // "model", "normalizer.normalizers[1]"; "" for the whole file
	fields map[string]json.RawMessage
}

func parseObject(path string, raw json.RawMessage) (object, error) {
	o := object{path: path, fields: make(map[string]json.RawMessage)}
	if isNull(raw) {
		return o, refusef(path, "is missing")
	}
	if !isObject(raw) {
		return o, refusef(path, "must be an object")
	}
	for name, value := range members(raw) {
		if o.fields[name] = value; len(o.fields) > maxFields {
			return o, refusef(path, "has more than %d fields, which is the limit", maxFields)
		}
	}
	return o, nil
}

// list reads an array; a missing or null one is empty.
func list(path string, raw json.RawMessage) ([]json.RawMessage, error) {
	if isNull(raw) {
		return nil, nil
	}
	if raw[0] != '[' {
		return nil, refusef(path, "must be an array")
	}
	var items []json.RawMessage
	for item := range elements(raw) {
		if len(items) == maxFields {
			return nil, refusef(path, "has more than %d items, which is the limit", maxFields)
		}
		items = append(items, item)
	}
	return items, nil
}

func isNull(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

func isObject(raw json.RawMessage) bool { return len(raw) > 0 && raw[0] == '{' }

// members yields the names and values of an object in well-formed JSON.
func members(raw json.RawMessage) iter.Seq2[string, json.RawMessage] {
	return func(yield func(string, json.RawMessage) bool) {
		for rest := skipSpace(raw[1:]); rest[0] != '}'; {
			var name, value []byte
			name, rest = cutValue(rest)
			value, rest = cutValue(skipSpace(rest[1:])) // rest was at the colon
			if !yield(unquote(name), value) {
				return
			}
			if rest[0] == ',' {
				rest = skipSpace(rest[1:])
			}
		}
	}
}

// elements yields the items of an array in well-formed JSON.
func elements(raw json.RawMessage) iter.Seq[json.RawMessage] {
	return func(yield func(json.RawMessage) bool) {
		for rest := skipSpace(raw[1:]); rest[0] != ']'; {
			var value []byte
			value, rest = cutValue(rest)
			if !yield(value) {
				return
			}
			if rest[0] == ',' {
				rest = skipSpace(rest[1:])
			}
		}
	}
}

// cutValue cuts b, which begins with a value of well-formed JSON, into that value and what follows the spaces
// behind it.
func cutValue(b []byte) (value, rest []byte) {
	end, depth := 0, 0
	for {
		switch b[end] {
		case '"':
			for end++; b[end] != '"'; end++ {
				if b[end] == '\\' {
					end++
				}
			}
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		default:
			if depth == 0 { // a number or a name
				for end+1 < len(b) && strings.IndexByte(",}] \t\r\n", b[end+1]) < 0 {
					end++
				}
			}
		}
		end++
		if depth == 0 {
			return b[:end], skipSpace(b[end:])
		}
	}
}

func skipSpace(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\n' || b[0] == '\r' || b[0] == '\t') {
		b = b[1:]
	}
	return b
}

// unquote is the text of a string in well-formed JSON.
func unquote(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		panic(err) // it was found to be well-formed
	}
	return s
}

// refusef is an error that begins with the path of what is refused.
func refusef(path, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	if path == "" {
		return err
	}
	return fmt.Errorf("%s: %w", path, err)
}

// clip shortens text from a file for an error message.
func clip(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}

func (o object) at(name string) string {
	if o.path == "" {
		return name
	}
	return o.path + "." + clip(name)
}

// kind is the object's "type".
func (o object) kind() (string, error) { return o.text("type") }

func (o object) unsupported(kind string) error {
	return fmt.Errorf("%s %q: not supported", o.at("type"), clip(kind))
}

// value reads the required field name into v.
func (o object) value(name string, v any) error {
	raw := o.fields[name]
	if isNull(raw) {
		return refusef(o.at(name), "is missing")
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return refusef(o.at(name), "%w", err)
	}
	return nil
}

func (o object) text(name string) (s string, err error) {
	err = o.value(name, &s)
	return s, err
}

func (o object) flag(name string) (b bool, err error) {
	err = o.value(name, &b)
	return b, err
}

// count reads a whole number from 0 up to what an int holds.
func (o object) count(name string) (int, error) {
	var n int
	if err := o.value(name, &n); err != nil {
		return 0, err
	}
	if n < 0 {
		return 0, refusef(o.at(name), "%d: must not be negative", n)
	}
	return n, nil
}

// id reads a token id.
func (o object) id(name string) (int32, error) {
	return parseID(o.at(name), o.fields[name])
}

// parseID reads a token id: a whole number from 0 up to the limit.
func parseID(path string, raw json.RawMessage) (int32, error) {
	n, err := strconv.ParseUint(string(raw), 10, 32)
	if err != nil || n >= maxVocab {
		return 0, refusef(path, "id %s: must be a whole number from 0 to %d", clip(string(raw)), maxVocab-1)
	}
	return int32(n), nil
}
