// Package tokenizer turns text into token ids exactly as Hugging Face's tokenizers library does with the same
// tokenizer.json. It is pure Go. A file that asks for something that is not done exactly here is refused by
// Load, which names the part.
//
// Known today: the models of the BERT family (WordPiece). Every stage is a small part of its own: added tokens
// (added.go), normalizer, preTokenizer, model, template.
//
// The Unicode data are not Go's: they are those of the library (several versions of Unicode at once), measured
// over all code points and kept in unicode.txt, so a newer Go does not change any id.
package tokenizer

import (
	"sync"
	"unicode/utf8"
)

// Encoding is one text as token ids.
type Encoding struct {
	IDs  []int32 // specials included, not padded, at most the limit that was asked for
	Full int     // how many ids there were before cutting; Full > len(IDs) when the text was cut
}

// Tokenizer is a loaded tokenizer.json. It does not change and is safe for concurrent use.
type Tokenizer struct {
	verbatim   *matcher   // added tokens looked for in the text itself; nil when there are none
	normalizer normalizer // nil leaves the text as it is
	normalized *matcher   // added tokens looked for in normalized text; nil when there are none
	pre        preTokenizer
	model      model
	template   template
	vocabSize  int
	padID      int32
	scratches  sync.Pool
}

// model turns one word into ids.
type model interface {
	// encode appends the ids of word, which is not empty and valid UTF-8.
	encode(ids []int32, word []byte) []int32
}

// maxKept is how large a buffer may be, in bytes, to be kept for the next call.
const maxKept = 1 << 20

// scratch is the working memory of one call of Encode.
type scratch struct {
	text  []byte // the text as valid UTF-8
	norm  []byte // a piece of text, normalized
	spare []byte // the other buffer of a sequence of normalizers
	runes []rune // characters waiting in a composition
	marks []mark // characters waiting to be put into canonical order
	words []span
	more  []span // the other list of a sequence of pre-tokenizers
	ids   []int32
}

// span is a half-open range of bytes.
type span struct{ start, end int }

func (s *scratch) size() int {
	return cap(s.text) + cap(s.norm) + cap(s.spare) + 4*(cap(s.runes)+cap(s.ids)) + 8*cap(s.marks) +
		16*(cap(s.words)+cap(s.more))
}

// Encode returns the ids of one text, with the special tokens of the model around them. maxTokens > 0 cuts
// the text's own ids from the right so that at most maxTokens remain with all specials; a limit smaller than
// SpecialTokens leaves the first maxTokens specials alone. maxTokens <= 0 cuts nothing. The text is tokenized
// whole in any case: Full is exact.
//
// Text that is not valid UTF-8 is taken as encoding/json takes it: every byte that is not part of a valid
// character counts as one U+FFFD.
func (t *Tokenizer) Encode(text string, maxTokens int) Encoding {
	s, _ := t.scratches.Get().(*scratch)
	if s == nil {
		s = new(scratch)
	}
	s.text = appendValid(s.text[:0], text)
	s.ids = s.ids[:0]
	t.encode(s)

	e := t.template.apply(s.ids, maxTokens)
	if s.size() <= maxKept {
		t.scratches.Put(s)
	}
	return e
}

// encode fills s.ids from s.text, without specials.
func (t *Tokenizer) encode(s *scratch) {
	if t.verbatim == nil {
		t.encodePiece(s, s.text)
		return
	}
	t.verbatim.split(s.text, func(piece []byte, id int32) {
		if id < 0 {
			t.encodePiece(s, piece)
			return
		}
		s.ids = append(s.ids, id)
	})
}

// encodePiece appends the ids of text in which no verbatim added token is left.
func (t *Tokenizer) encodePiece(s *scratch, text []byte) {
	if t.normalizer != nil {
		s.norm = t.normalizer.normalize(s.norm[:0], text, s)
		text = s.norm
	}
	if t.normalized == nil {
		t.encodeWords(s, text)
		return
	}
	t.normalized.split(text, func(piece []byte, id int32) {
		if id < 0 {
			t.encodeWords(s, piece)
			return
		}
		s.ids = append(s.ids, id)
	})
}

// encodeWords appends the ids of normalized text in which no added token is left.
func (t *Tokenizer) encodeWords(s *scratch, text []byte) {
	if len(text) == 0 {
		return
	}
	whole := span{0, len(text)}
	s.words = s.words[:0]
	if t.pre == nil {
		s.words = append(s.words, whole)
	} else {
		s.words = t.pre.split(s.words, text, whole, s)
	}
	for _, w := range s.words {
		s.ids = t.model.encode(s.ids, text[w.start:w.end])
	}
}

// VocabSize is one more than the greatest id there is: how many rows an embedding table must have at least.
func (t *Tokenizer) VocabSize() int { return t.vocabSize }

// PadID is the id to pad with: the padding section's, else the id of "[PAD]" or "<pad>", else 0.
func (t *Tokenizer) PadID() int32 { return t.padID }

// SpecialTokens is how many ids are set around every text.
func (t *Tokenizer) SpecialTokens() int { return t.template.specials() }

func appendValid(dst []byte, text string) []byte {
	if utf8.ValidString(text) {
		return append(dst, text...)
	}
	for _, r := range text {
		dst = utf8.AppendRune(dst, r)
	}
	return dst
}
