package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// addedToken is a token that is found in the text before the model sees it.
type addedToken struct {
	content    string
	id         int32
	singleWord bool // only where no word character touches it
	lstrip     bool // takes the spaces before it
	rstrip     bool // takes the spaces after it
	normalized bool // found in normalized text, by its normalized content
}

// loadAdded reads the added_tokens section. The library does not believe the ids of this section: it takes
// the vocabulary's, or counts on from the vocabulary's size. Where that gives another id than the file says,
// two readers of the file would disagree, so it is refused.
func loadAdded(raw json.RawMessage, vocab *vocabulary) ([]addedToken, error) {
	items, err := list("added_tokens", raw)
	if err != nil {
		return nil, err
	}
	var added []addedToken
	index := make(map[string]int)
	next := len(vocab.ids)
	for i, item := range items {
		path := fmt.Sprintf("added_tokens[%d]", i)
		a, err := parseAdded(path, item)
		if err != nil {
			return nil, err
		}
		if a.content == "" {
			continue
		}
		at, again := index[a.content]
		id, known := vocab.id(a.content)
		switch {
		case again:
			id = added[at].id
		case !known:
			if next <= int(vocab.max) {
				return nil, refusef(path, "%q is not in model.vocab, whose ids have gaps: not supported", clip(a.content))
			}
			id = int32(next)
			next++
		}
		if a.id != id {
			return nil, refusef(path, "%q has id %d, but its place in the vocabulary is %d", clip(a.content), a.id, id)
		}
		if again {
			added[at] = a
			continue
		}
		index[a.content] = len(added)
		added = append(added, a)
	}
	return added, nil
}

func parseAdded(path string, raw json.RawMessage) (addedToken, error) {
	var a addedToken
	o, err := parseObject(path, raw)
	if err != nil {
		return a, err
	}
	if a.content, err = o.text("content"); err != nil {
		return a, err
	}
	if len(a.content) > maxTokenLen {
		return a, refusef(o.at("content"), "%d bytes, the limit is %d", len(a.content), maxTokenLen)
	}
	if a.id, err = o.id("id"); err != nil {
		return a, err
	}
	for name, flag := range map[string]*bool{
		"single_word": &a.singleWord, "lstrip": &a.lstrip, "rstrip": &a.rstrip, "normalized": &a.normalized,
	} {
		if *flag, err = o.flag(name); err != nil {
			return a, err
		}
	}
	return a, nil
}

// matcher cuts a text at the added tokens it contains.
type matcher struct {
	tokens []addedToken
	trie   *trie // values are indices into tokens
	root   uint32
	begins [256]bool // bytes that a token begins with
	only   int       // the one byte that all tokens begin with, or -1
	chars  *charTable
}

// newMatchers sorts the tokens by where they are looked for. A matcher without tokens is nil.
func newMatchers(added []addedToken, n normalizer) (verbatim, normalized *matcher, err error) {
	var plain, changed []addedToken
	var plainKeys, changedKeys []trieEntry
	seen := make(map[string]string)
	s := new(scratch)
	for _, a := range added {
		if !a.normalized {
			plainKeys = append(plainKeys, trieEntry{a.content, int32(len(plain))})
			plain = append(plain, a)
			continue
		}
		content := a.content
		if n != nil {
			s.norm = n.normalize(s.norm[:0], []byte(content), s)
			content = string(s.norm)
		}
		if content == "" {
			return nil, nil, refusef("added_tokens", "%q is nothing after the normalizer", clip(a.content))
		}
		if other, twice := seen[content]; twice {
			return nil, nil, refusef("added_tokens", "%q and %q are the same after the normalizer", clip(other), clip(a.content))
		}
		seen[content] = a.content
		changedKeys = append(changedKeys, trieEntry{content, int32(len(changed))})
		changed = append(changed, a)
	}
	if verbatim, err = newMatcher(plain, plainKeys); err != nil {
		return nil, nil, err
	}
	if normalized, err = newMatcher(changed, changedKeys); err != nil {
		return nil, nil, err
	}
	return verbatim, normalized, nil
}

func newMatcher(tokens []addedToken, keys []trieEntry) (*matcher, error) {
	if len(tokens) == 0 {
		return nil, nil
	}
	m := &matcher{tokens: tokens, only: int(keys[0].key[0]), chars: unicodeData()}
	for _, k := range keys {
		m.begins[k.key[0]] = true
		if int(k.key[0]) != m.only {
			m.only = -1
		}
	}
	t, roots, err := newTrie(keys)
	if err != nil {
		return nil, refusef("added_tokens", "%w", err)
	}
	m.trie, m.root = t, roots[0]
	return m, nil
}

// find returns the first token at or after from, the longest where several begin.
func (m *matcher) find(text []byte, from int) (start, end int, token *addedToken) {
	for start = from; start < len(text); start++ {
		if m.only >= 0 {
			next := bytes.IndexByte(text[start:], byte(m.only))
			if next < 0 {
				break
			}
			start += next
		} else if !m.begins[text[start]] {
			continue
		}
		if i, n := m.trie.longest(m.root, text[start:]); n > 0 {
			return start, start + n, &m.tokens[i]
		}
	}
	return 0, 0, nil
}

// split calls emit for every part of text in order: with an id for an added token, with -1 for the text
// between. A token that asks to be a single word and is not uses up its text all the same, as in the library.
func (m *matcher) split(text []byte, emit func(piece []byte, id int32)) {
	done := 0   // up to here the text is used up
	spaces := 0 // end of the spaces last taken; not counted again, or a run of tokens in them would be quadratic
	for from := 0; ; {
		start, end, token := m.find(text, from)
		if token == nil {
			break
		}
		from = end
		if token.singleWord && (m.lastIs(text[:start], isWord) || m.firstIs(text[end:], isWord)) {
			continue
		}
		if token.lstrip {
			start = done + m.trimRight(text[done:max(start, done)])
		}
		if token.rstrip {
			if end >= spaces {
				spaces = end + m.leading(text[end:])
			}
			end = spaces
		}
		if done < start {
			emit(text[done:start], -1)
		}
		if start < end { // else the token was among the spaces of the one before, and took them itself
			emit(nil, token.id)
		}
		done = end
	}
	if done < len(text) {
		emit(text[done:], -1)
	}
}

func (m *matcher) lastIs(text []byte, flag uint16) bool {
	if len(text) == 0 {
		return false
	}
	r, _ := utf8.DecodeLastRune(text)
	return m.chars.of(r).flags&flag != 0
}

func (m *matcher) firstIs(text []byte, flag uint16) bool {
	if len(text) == 0 {
		return false
	}
	r, _ := utf8.DecodeRune(text)
	return m.chars.of(r).flags&flag != 0
}

// trimRight is the length of text without the spaces at its end.
func (m *matcher) trimRight(text []byte) int {
	for m.lastIs(text, isSpace) {
		_, n := utf8.DecodeLastRune(text)
		text = text[:len(text)-n]
	}
	return len(text)
}

// leading is the length of the spaces text begins with.
func (m *matcher) leading(text []byte) int {
	total := 0
	for m.firstIs(text[total:], isSpace) {
		_, n := utf8.DecodeRune(text[total:])
		total += n
	}
	return total
}
