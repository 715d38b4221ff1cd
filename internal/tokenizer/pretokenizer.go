package tokenizer

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// preTokenizer cuts normalized text into words.
type preTokenizer interface {
	// split appends the words in text[in.start:in.end], none of them empty, to out.
	split(out []span, text []byte, in span, s *scratch) []span
}

// loadPreTokenizer reads the pre_tokenizer section; a missing or null one gives nil.
func loadPreTokenizer(raw json.RawMessage) (preTokenizer, error) {
	if isNull(raw) {
		return nil, nil
	}
	steps, err := appendPreTokenizers(nil, "pre_tokenizer", raw)
	if err != nil {
		return nil, err
	}
	switch len(steps) {
	case 0:
		return nil, nil
	case 1:
		return steps[0], nil
	default:
		return preTokenizers(steps), nil
	}
}

// appendPreTokenizers reads one pre-tokenizer; a Sequence becomes its members.
func appendPreTokenizers(steps []preTokenizer, path string, raw json.RawMessage) ([]preTokenizer, error) {
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
		items, err := list(o.at("pretokenizers"), o.fields["pretokenizers"])
		if err != nil {
			return nil, err
		}
		for i, item := range items {
			if steps, err = appendPreTokenizers(steps, fmt.Sprintf("%s[%d]", o.at("pretokenizers"), i), item); err != nil {
				return nil, err
			}
		}
		return steps, nil
	case "BertPreTokenizer":
		steps = append(steps, newSplitter(isSpace, isPunct, 0))
	case "WhitespaceSplit":
		steps = append(steps, newSplitter(isSpace, 0, 0))
	case "Whitespace":
		steps = append(steps, newSplitter(isSpace, 0, isWord))
	case "Punctuation":
		behavior := "Isolated"
		if _, ok := o.fields["behavior"]; ok {
			if behavior, err = o.text("behavior"); err != nil {
				return nil, err
			}
		}
		switch behavior {
		case "Isolated":
			steps = append(steps, newSplitter(0, isPunct, 0))
		case "Removed":
			steps = append(steps, newSplitter(isPunct, 0, 0))
		case "Contiguous":
			steps = append(steps, newSplitter(0, 0, isPunct))
		default:
			return nil, fmt.Errorf("%s %q: not supported", o.at("behavior"), clip(behavior))
		}
	default:
		return nil, o.unsupported(kind)
	}
	if len(steps) > maxSteps {
		return nil, refusef("pre_tokenizer", "more than %d steps, which is the limit", maxSteps)
	}
	return steps, nil
}

// preTokenizers run one after the other, each on the words of the one before.
type preTokenizers []preTokenizer

func (p preTokenizers) split(out []span, text []byte, in span, s *scratch) []span {
	words := append(out, in)
	other := s.more
	for _, step := range p {
		other = other[:0]
		for _, w := range words {
			other = step.split(other, text, w, s)
		}
		words, other = other, words
	}
	s.more = other
	return words
}

// splitter cuts by the classes of characters.
type splitter struct {
	chars *charTable
	flags uint16                // all flags that matter
	drop  uint16                // characters between words, dropped
	alone uint16                // characters that are a word each
	group uint16                // a word is only of characters with this flag, or only of others
	ascii [utf8.RuneSelf]uint16 // class of an ASCII character
}

func newSplitter(drop, alone, group uint16) *splitter {
	p := &splitter{chars: unicodeData(), flags: drop | alone | group, drop: drop, alone: alone, group: group}
	for b := range p.ascii {
		p.ascii[b] = p.chars.of(rune(b)).flags & p.flags
	}
	return p
}

func (p *splitter) split(out []span, text []byte, in span, _ *scratch) []span {
	word, group := -1, uint16(0) // where the current word began, and its group
	for i := in.start; i < in.end; {
		class, size := uint16(0), 1
		if b := text[i]; b < utf8.RuneSelf {
			class = p.ascii[b]
		} else {
			var r rune
			r, size = utf8.DecodeRune(text[i:])
			class = p.chars.of(r).flags & p.flags
		}
		switch {
		case class&(p.drop|p.alone) != 0:
			if word >= 0 {
				out = append(out, span{word, i})
				word = -1
			}
			if class&p.drop == 0 {
				out = append(out, span{i, i + size})
			}
		case word < 0:
			word, group = i, class&p.group
		case class&p.group != group:
			out = append(out, span{word, i})
			word, group = i, class&p.group
		}
		i += size
	}
	if word >= 0 {
		out = append(out, span{word, in.end})
	}
	return out
}
