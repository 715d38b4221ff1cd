package api

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/akidb/akidbd/internal/embedding"
)

// scanner reads one JSON document in one pass. It is here, beside encoding/json, because a request's input is
// a union (text, list of texts, ids, list of ids), because messages name the field and the byte they are
// about, and because counting the inputs over a limit needs no memory. It accepts what encoding/json accepts,
// except invalid UTF-8 and more than maxDepth levels.
//
// Its methods return an *embedding.Error of code invalid, as an error.
type scanner struct {
	b    []byte
	i    int    // next byte
	at   string // path of the value being read, for messages: "texts[3]"
	deep int
}

const maxDepth = 64

// fail makes an error about the value at byte pos.
func (s *scanner) fail(pos int, format string, args ...any) error {
	e := embedding.Errorf(embedding.CodeInvalid, format+" (at byte %d of the body)", append(args, pos)...)
	e.Param = s.param()
	return e
}

// param is the top-level field of the path.
func (s *scanner) param() string {
	name, _, _ := strings.Cut(s.at, "[")
	return name
}

// subject names the value being read: its field, or the body.
func (s *scanner) subject() string {
	if s.at == "" {
		return "the body"
	}
	return strconv.Quote(s.at)
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

// next skips space and gives the next byte without taking it; 0 at the end, for a NUL is never valid there.
func (s *scanner) next() byte {
	s.space()
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

// kind names the JSON type that starts here.
func (s *scanner) kind() string {
	c := s.next()
	switch {
	case s.i >= len(s.b):
		return "the end of the body"
	case c == '{':
		return "an object"
	case c == '[':
		return "an array"
	case c == '"':
		return "a string"
	case c == 't' || c == 'f':
		return "a boolean"
	case c == 'n':
		return "null"
	case c == '-' || c >= '0' && c <= '9':
		return "a number"
	}
	return fmt.Sprintf("the byte 0x%02x", c)
}

// want fails unless the next value starts with open.
func (s *scanner) want(open byte, what string) error {
	if s.next() != open {
		return s.fail(s.i, "%s must be %s, got %s", s.subject(), what, s.kind())
	}
	return nil
}

// unexpected is a syntax error at the next byte.
func (s *scanner) unexpected(want string) error {
	return s.fail(s.i, "malformed JSON: expected %s, got %s", want, s.kind())
}

// literal takes word, which must be next.
func (s *scanner) literal(word string) error {
	s.space()
	if !bytes.HasPrefix(s.b[s.i:], []byte(word)) {
		return s.fail(s.i, "malformed JSON: expected %s", word)
	}
	s.i += len(word)
	return nil
}

// null takes a null, if one is next.
func (s *scanner) null() (bool, error) {
	if s.next() != 'n' {
		return false, nil
	}
	return true, s.literal("null")
}

// object reads an object and calls field for each key; field must take the value.
func (s *scanner) object(field func(key string) error) error {
	if err := s.want('{', "an object"); err != nil {
		return err
	}
	if err := s.enter(); err != nil {
		return err
	}
	s.i++
	outer := s.at
	for first := true; ; first = false {
		c := s.next()
		if c == '}' && first {
			break
		}
		if c != '"' {
			return s.unexpected("a field name in quotes")
		}
		key, err := s.rawString()
		if err != nil {
			return err
		}
		if s.next() != ':' {
			return s.unexpected("':' after a field name")
		}
		s.i++
		s.at = key
		if err := field(key); err != nil {
			return err
		}
		s.at = outer
		if c = s.next(); c == ',' {
			s.i++
			continue
		}
		if c != '}' {
			return s.unexpected("',' or '}' after a field")
		}
		break
	}
	s.i++
	s.deep--
	return nil
}

// array reads an array and calls element for each; element must take the value.
func (s *scanner) array(what string, element func(i int) error) error {
	if err := s.want('[', what); err != nil {
		return err
	}
	if err := s.enter(); err != nil {
		return err
	}
	s.i++
	for i := 0; ; i++ {
		c := s.next()
		if c == ']' && i == 0 {
			break
		}
		if err := element(i); err != nil {
			return err
		}
		if c = s.next(); c == ',' {
			s.i++
			continue
		}
		if c != ']' {
			return s.unexpected("',' or ']' after an element of " + s.subject())
		}
		break
	}
	s.i++
	s.deep--
	return nil
}

func (s *scanner) enter() error {
	if s.deep++; s.deep > maxDepth {
		return s.fail(s.i, "malformed JSON: nested more than %d levels deep", maxDepth)
	}
	return nil
}

// str reads a string.
func (s *scanner) str() (string, error) {
	if err := s.want('"', "a string"); err != nil {
		return "", err
	}
	return s.rawString()
}

// rawString reads the string that starts at i. Half of a surrogate pair becomes U+FFFD, as in encoding/json:
// clients cut texts in the middle of an emoji.
func (s *scanner) rawString() (string, error) {
	start := s.i
	s.i++
	body := s.b[s.i:]
	end := bytes.IndexByte(body, '"')
	if end < 0 {
		return "", s.fail(start, "malformed JSON: a string does not end")
	}
	plain := true
	for _, c := range body[:end] {
		if c < ' ' || c == '\\' {
			plain = false
			break
		}
	}
	if plain {
		if !utf8.Valid(body[:end]) {
			return "", s.invalidUTF8(start)
		}
		s.i += end + 1
		return string(body[:end]), nil
	}
	out := make([]byte, 0, end+16)
	for s.i < len(s.b) {
		c := s.b[s.i]
		switch {
		case c == '"':
			s.i++
			if !utf8.Valid(out) {
				return "", s.invalidUTF8(start)
			}
			return string(out), nil
		case c < ' ':
			return "", s.fail(s.i, "malformed JSON: the control character 0x%02x in a string must be escaped", c)
		case c != '\\':
			out = append(out, c)
			s.i++
		default:
			var err error
			if out, err = s.escape(out); err != nil {
				return "", err
			}
		}
	}
	return "", s.fail(start, "malformed JSON: a string does not end")
}

func (s *scanner) invalidUTF8(start int) error {
	return s.fail(start, "malformed JSON: the string is not valid UTF-8")
}

// escape takes one escape sequence, which starts at i.
func (s *scanner) escape(out []byte) ([]byte, error) {
	if s.i+1 >= len(s.b) {
		return out, s.fail(s.i, "malformed JSON: an escape sequence does not end")
	}
	c := s.b[s.i+1]
	if at := strings.IndexByte(`"\/bfnrt`, c); at >= 0 {
		s.i += 2
		return append(out, "\"\\/\b\f\n\r\t"[at]), nil
	}
	if c != 'u' {
		return out, s.fail(s.i, "malformed JSON: unknown escape sequence")
	}
	r := s.hex4(s.i)
	if r < 0 {
		return out, s.fail(s.i, `malformed JSON: \u needs four hex digits`)
	}
	s.i += 6
	if utf16.IsSurrogate(r) {
		if low := s.hex4(s.i); low >= 0 {
			if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
				s.i += 6
				return utf8.AppendRune(out, pair), nil
			}
		}
		r = utf8.RuneError
	}
	return utf8.AppendRune(out, r), nil
}

// hex4 gives the code unit of a \uXXXX at i, or -1.
func (s *scanner) hex4(i int) rune {
	if i+6 > len(s.b) || s.b[i] != '\\' || s.b[i+1] != 'u' {
		return -1
	}
	var r rune
	for _, c := range s.b[i+2 : i+6] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

func (s *scanner) boolean() (bool, error) {
	switch s.next() {
	case 't':
		return true, s.literal("true")
	case 'f':
		return false, s.literal("false")
	}
	return false, s.fail(s.i, "%s must be true or false, got %s", s.subject(), s.kind())
}

// integer reads a whole number of lo to hi.
func (s *scanner) integer(lo, hi int64) (int64, error) {
	if c := s.next(); c != '-' && (c < '0' || c > '9') {
		return 0, s.fail(s.i, "%s must be a whole number, got %s", s.subject(), s.kind())
	}
	start := s.i
	if err := s.number(); err != nil {
		return 0, err
	}
	text := s.b[start:s.i]
	if len(text) > 20 {
		return 0, s.fail(start, "%s must be a whole number between %d and %d", s.subject(), lo, hi)
	}
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || n < lo || n > hi {
		return 0, s.fail(start, "%s must be a whole number between %d and %d, got %s", s.subject(), lo, hi, text)
	}
	return n, nil
}

// number takes a number of JSON's grammar, which starts at i.
func (s *scanner) number() error {
	start := s.i
	digits := func() bool {
		from := s.i
		for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
			s.i++
		}
		return s.i > from
	}
	take := func(set string) bool {
		if s.i < len(s.b) && strings.IndexByte(set, s.b[s.i]) >= 0 {
			s.i++
			return true
		}
		return false
	}
	take("-")
	ok := take("0") || digits()
	if ok && take(".") {
		ok = digits()
	}
	if ok && take("eE") {
		take("+-")
		ok = digits()
	}
	if !ok {
		return s.fail(start, "malformed JSON: not a number")
	}
	return nil
}

// skip takes any value.
func (s *scanner) skip() error {
	switch c := s.next(); {
	case c == '{':
		return s.object(func(string) error { return s.skip() })
	case c == '[':
		return s.array("an array", func(int) error { return s.skip() })
	case c == '"':
		_, err := s.rawString()
		return err
	case c == 't':
		return s.literal("true")
	case c == 'f':
		return s.literal("false")
	case c == 'n':
		return s.literal("null")
	case c == '-' || c >= '0' && c <= '9':
		return s.number()
	}
	return s.unexpected("a value")
}

// end fails if anything but space is left.
func (s *scanner) end() error {
	s.space()
	if s.i < len(s.b) {
		return s.fail(s.i, "malformed JSON: %d bytes follow the end of the object", len(s.b)-s.i)
	}
	return nil
}
