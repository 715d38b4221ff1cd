package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// normalizer changes text before it is cut into words.
type normalizer interface {
	// normalize writes the normalized src, valid UTF-8, into the empty buffer dst, which is not part of src.
	normalize(dst, src []byte, s *scratch) []byte
}

// maxSteps bounds how many normalizers, or pre-tokenizers, a file may ask for.
const maxSteps = 64

// loadNormalizer reads the normalizer section; a missing or null one gives nil.
func loadNormalizer(raw json.RawMessage) (normalizer, error) {
	if isNull(raw) {
		return nil, nil
	}
	steps, err := appendNormalizers(nil, "normalizer", raw)
	if err != nil {
		return nil, err
	}
	switch len(steps) {
	case 0:
		return nil, nil
	case 1:
		return steps[0], nil
	default:
		return normalizers(steps), nil
	}
}

// appendNormalizers reads one normalizer; a Sequence becomes its members.
func appendNormalizers(steps []normalizer, path string, raw json.RawMessage) ([]normalizer, error) {
	o, err := parseObject(path, raw)
	if err != nil {
		return nil, err
	}
	kind, err := o.kind()
	if err != nil {
		return nil, err
	}
	switch kind {
	case "Sequence":
		items, err := list(o.at("normalizers"), o.fields["normalizers"])
		if err != nil {
			return nil, err
		}
		for i, item := range items {
			if steps, err = appendNormalizers(steps, fmt.Sprintf("%s[%d]", o.at("normalizers"), i), item); err != nil {
				return nil, err
			}
		}
		return steps, nil
	case "BertNormalizer":
		f, err := loadBert(o)
		if err != nil {
			return nil, err
		}
		steps = append(steps, newFolder(f))
	case "Lowercase":
		steps = append(steps, newFolder(fold{lower: true}))
	case "StripAccents":
		steps = append(steps, newFolder(fold{dropMarks: true}))
	case "NFD":
		steps = append(steps, newFolder(fold{decompose: true}))
	case "NFKD":
		steps = append(steps, newFolder(fold{decompose: true, compat: true}))
	case "NFC":
		steps = append(steps, newFolder(fold{decompose: true}), composer{unicodeData()})
	case "NFKC":
		steps = append(steps, newFolder(fold{decompose: true, compat: true}), composer{unicodeData()})
	case "Strip":
		n := stripper{chars: unicodeData()}
		if n.left, err = o.flag("strip_left"); err != nil {
			return nil, err
		}
		if n.right, err = o.flag("strip_right"); err != nil {
			return nil, err
		}
		steps = append(steps, n)
	case "Replace":
		n, err := loadReplacer(o)
		if err != nil {
			return nil, err
		}
		steps = append(steps, n)
	default:
		return nil, o.unsupported(kind)
	}
	if len(steps) > maxSteps {
		return nil, refusef("normalizer", "more than %d steps, which is the limit", maxSteps)
	}
	return steps, nil
}

// loadBert reads a BertNormalizer. Accents are stripped when the text is lowercased, unless the file says.
func loadBert(o object) (f fold, err error) {
	if f.clean, err = o.flag("clean_text"); err != nil {
		return f, err
	}
	if f.chinese, err = o.flag("handle_chinese_chars"); err != nil {
		return f, err
	}
	if f.lower, err = o.flag("lowercase"); err != nil {
		return f, err
	}
	f.decompose = f.lower
	if !isNull(o.fields["strip_accents"]) {
		if f.decompose, err = o.flag("strip_accents"); err != nil {
			return f, err
		}
	}
	f.dropNonspacing = f.decompose
	return f, nil
}

// normalizers run one after the other.
type normalizers []normalizer

func (n normalizers) normalize(dst, src []byte, s *scratch) []byte {
	other := s.spare
	for i, step := range n {
		if i > 0 {
			dst, other = other, dst
		}
		dst = step.normalize(dst[:0], src, s)
		src = dst
	}
	s.spare = other
	return dst
}

// stripper removes spaces at the ends.
type stripper struct {
	left, right bool
	chars       *charTable
}

func (n stripper) normalize(dst, src []byte, _ *scratch) []byte {
	space := func(r rune) bool { return n.chars.of(r).flags&isSpace != 0 }
	if n.left {
		src = bytes.TrimLeftFunc(src, space)
	}
	if n.right {
		src = bytes.TrimRightFunc(src, space)
	}
	return append(dst, src...)
}

// replacer puts content in the place of pattern.
type replacer struct{ pattern, content []byte }

// maxReplacement bounds how much longer than its pattern a replacement may be, in bytes.
const maxReplacement = 64

func loadReplacer(o object) (replacer, error) {
	p, err := parseObject(o.at("pattern"), o.fields["pattern"])
	if err != nil {
		return replacer{}, err
	}
	if _, ok := p.fields["String"]; !ok {
		return replacer{}, refusef(p.path, "is not a String: not supported")
	}
	pattern, err := p.text("String")
	if err != nil {
		return replacer{}, err
	}
	if pattern == "" {
		return replacer{}, refusef(p.at("String"), "is empty: not supported")
	}
	content, err := o.text("content")
	if err != nil {
		return replacer{}, err
	}
	if len(content) > len(pattern)+maxReplacement {
		return replacer{}, refusef(o.at("content"), "%d bytes for a pattern of %d, the limit is %d more", len(content), len(pattern), maxReplacement)
	}
	return replacer{[]byte(pattern), []byte(content)}, nil
}

func (n replacer) normalize(dst, src []byte, _ *scratch) []byte {
	for {
		i := bytes.Index(src, n.pattern)
		if i < 0 {
			return append(dst, src...)
		}
		dst = append(append(dst, src[:i]...), n.content...)
		src = src[i+len(n.pattern):]
	}
}

// composer is the second half of NFC and NFKC: it composes decomposed text.
type composer struct{ chars *charTable }

func (n composer) normalize(dst, src []byte, s *scratch) []byte {
	var (
		starter = rune(-1) // what following characters may be composed into
		blocked = -1       // class of the last character that could not be; -1 when there is none
		waiting = s.runes[:0]
	)
	flush := func() {
		if starter >= 0 {
			dst = utf8.AppendRune(dst, starter)
		}
		for _, r := range waiting {
			dst = utf8.AppendRune(dst, r)
		}
		waiting = waiting[:0]
		blocked = -1
	}
	for i := 0; i < len(src); {
		r, size := utf8.DecodeRune(src[i:])
		i += size
		c := n.chars.of(r)
		class := int(c.ccc)
		if starter < 0 {
			if class != 0 {
				dst = utf8.AppendRune(dst, r)
				continue
			}
			starter = r
			continue
		}
		if blocked < class && c.flags&isSecond != 0 {
			if both, ok := n.chars.composed(starter, r); ok {
				starter = both
				continue
			}
		}
		if class == 0 {
			flush()
			starter = r
			continue
		}
		waiting = append(waiting, r)
		blocked = class
	}
	flush()
	s.runes = waiting
	return dst
}
