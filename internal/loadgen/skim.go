package loadgen

import (
	"bytes"
	"errors"
)

// fields are the values of a JSON object that a sender needs, undecoded; nil when the object lacks them.
type fields struct {
	usage, servedBy, errorValue, code, message, embeddings, data []byte
}

var errNotObject = errors.New("the answer is not a JSON object")

// skim finds the fields of an answer without decoding the vectors in it, which are nearly all of its bytes. It
// checks no more of the grammar than it needs to find its way, and gives an error when it loses it.
func skim(body []byte) (fields, error) {
	var f fields
	i := skipSpace(body, 0)
	if i == len(body) || body[i] != '{' {
		return f, errNotObject
	}
	i = skipSpace(body, i+1)
	if i < len(body) && body[i] == '}' {
		return f, nil
	}
	for {
		if i >= len(body) || body[i] != '"' {
			return f, errNotObject
		}
		end, ok := skipString(body, i)
		if !ok {
			return f, errNotObject
		}
		key := body[i+1 : end-1]
		i = skipSpace(body, end)
		if i == len(body) || body[i] != ':' {
			return f, errNotObject
		}
		i = skipSpace(body, i+1)
		end, ok = skipValue(body, i)
		if !ok {
			return f, errNotObject
		}
		f.set(key, body[i:end])
		i = skipSpace(body, end)
		switch {
		case i == len(body):
			return f, errNotObject
		case body[i] == '}':
			return f, nil
		case body[i] != ',':
			return f, errNotObject
		}
		i = skipSpace(body, i+1)
	}
}

func (f *fields) set(key, value []byte) {
	switch string(key) {
	case "usage":
		f.usage = value
	case "served_by":
		f.servedBy = value
	case "error":
		f.errorValue = value
	case "code":
		f.code = value
	case "message":
		f.message = value
	case "embeddings":
		f.embeddings = value
	case "data":
		f.data = value
	}
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// skipString gives the place after the string that starts at b[i].
func skipString(b []byte, i int) (int, bool) {
	i++
	for i < len(b) {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return len(b), false
		}
		i += n
		slashes := 0
		for b[i-1-slashes] == '\\' {
			slashes++
		}
		i++
		if slashes%2 == 0 {
			return i, true
		}
	}
	return i, false
}

// skipValue gives the place after the value that starts at b[i].
func skipValue(b []byte, i int) (int, bool) {
	depth := 0
	first := i
	for i < len(b) {
		if depth > 0 && b[i]-',' <= '9'-',' { // numbers and commas, which vectors are made of
			i++
			continue
		}
		switch b[i] {
		case '"':
			end, ok := skipString(b, i)
			if !ok {
				return end, false
			}
			i = end
			if depth == 0 {
				return i, true
			}
			continue
		case '[', '{':
			depth++
		case ']', '}':
			if depth == 0 {
				return i, i > first
			}
			depth--
			if depth == 0 {
				return i + 1, true
			}
		case ',', ' ', '\n', '\t', '\r':
			if depth == 0 {
				return i, i > first
			}
		}
		i++
	}
	return i, depth == 0 && i > first
}
