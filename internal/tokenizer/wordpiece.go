package tokenizer

import (
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// wordPiece takes the longest token that begins a word, then the longest continuing token that begins the
// rest, and so on. A word that is too long, or at some point has no token, is the unknown token as a whole.
type wordPiece struct {
	trie       *trie
	start      uint32 // root of the tokens that begin a word
	continuing uint32 // root of the tokens that go on, without their prefix
	unknown    int32
	maxChars   int // longest word in characters
}

func (m *wordPiece) encode(ids []int32, word []byte) []int32 {
	if len(word) > m.maxChars && utf8.RuneCount(word) > m.maxChars {
		return append(ids, m.unknown)
	}
	before := len(ids)
	root := m.start
	for len(word) > 0 {
		id, n := m.trie.longest(root, word)
		if id < 0 {
			return append(ids[:before], m.unknown)
		}
		ids = append(ids, id)
		word = word[n:]
		root = m.continuing
	}
	return ids
}

// loadWordPiece reads the model section.
func loadWordPiece(o object) (*wordPiece, *vocabulary, error) {
	unknown, err := o.text("unk_token")
	if err != nil {
		return nil, nil, err
	}
	prefix, err := o.text("continuing_subword_prefix")
	if err != nil {
		return nil, nil, err
	}
	maxChars, err := o.count("max_input_chars_per_word")
	if err != nil {
		return nil, nil, err
	}
	vocab, err := parseVocabulary(o.path+".vocab", o.fields["vocab"])
	if err != nil {
		return nil, nil, err
	}
	id, ok := vocab.id(unknown)
	if !ok {
		return nil, nil, refusef(o.path+".unk_token", "%q is not in model.vocab", unknown)
	}

	starting := make([]trieEntry, 0, len(vocab.ids))
	var going []trieEntry
	for token, id := range vocab.ids {
		starting = append(starting, trieEntry{token, id})
		if rest, ok := strings.CutPrefix(token, prefix); ok {
			going = append(going, trieEntry{rest, id})
		}
	}
	t, roots, err := newTrie(starting, going)
	if err != nil {
		return nil, nil, refusef(o.path+".vocab", "%w", err)
	}
	return &wordPiece{trie: t, start: roots[0], continuing: roots[1], unknown: id, maxChars: maxChars}, vocab, nil
}

// loadModel reads the model section and returns its vocabulary too.
func loadModel(raw json.RawMessage) (model, *vocabulary, error) {
	o, err := parseObject("model", raw)
	if err != nil {
		return nil, nil, err
	}
	kind, err := o.kind()
	if err != nil {
		return nil, nil, err
	}
	switch kind {
	case "WordPiece":
		return loadWordPiece(o)
	default:
		return nil, nil, o.unsupported(kind)
	}
}
