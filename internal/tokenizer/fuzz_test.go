package tokenizer

import (
	"slices"
	"sync"
	"testing"
)

func FuzzLoad(f *testing.F) {
	f.Add([]byte(small))
	f.Add([]byte(`{"model": {"type": "WordPiece", "vocab": {"a": 0, "\"\\}": 1}}}`))
	f.Add([]byte(`{"a": [1, {"b": [[], {}, "]"]}, true], "model" : null }`))
	for _, n := range []string{
		`{"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "StripAccents"}, {"type": "Strip", "strip_left": true, "strip_right": true}]}`,
		`{"type": "Replace", "pattern": {"String": "a"}, "content": "b"}`,
	} {
		f.Add(patched(f, "normalizer", n))
	}
	f.Add(patched(f, "pre_tokenizer", `{"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, {"type": "Punctuation"}]}`))
	f.Add(patched(f, "added_tokens", `[{"id": 10, "content": " x", "single_word": true, "lstrip": true, "rstrip": true, "normalized": true}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		tok, err := Load(data)
		if err != nil {
			return
		}
		checkEncode(t, tok, "a abc\u0301 x! 字 \x00", 5)
	})
}

// checkEncode checks what holds of every text and tokenizer.
func checkEncode(t *testing.T, tok *Tokenizer, text string, limit int) {
	all := tok.Encode(text, 0)
	if all.Full != len(all.IDs) || all.Full < tok.SpecialTokens() {
		t.Fatalf("%q: %d ids, Full %d, %d specials", text, len(all.IDs), all.Full, tok.SpecialTokens())
	}
	for _, id := range all.IDs {
		if id < 0 || int(id) >= tok.VocabSize() {
			t.Fatalf("%q: id %d outside of %d", text, id, tok.VocabSize())
		}
	}
	cut := tok.Encode(text, limit)
	if cut.Full != all.Full || len(cut.IDs) > cut.Full || limit > 0 && len(cut.IDs) != min(limit, all.Full) {
		t.Fatalf("%q cut to %d: %d ids, Full %d, want Full %d", text, limit, len(cut.IDs), cut.Full, all.Full)
	}
	if limit <= 0 || limit >= tok.SpecialTokens() {
		before, after := len(tok.template.before), len(tok.template.after)
		own := len(cut.IDs) - before - after
		if !slices.Equal(cut.IDs[:before+own], all.IDs[:before+own]) || !slices.Equal(cut.IDs[before+own:], tok.template.after) {
			t.Fatalf("%q cut to %d: %v of %v", text, limit, cut.IDs, all.IDs)
		}
	}
}

func FuzzEncode(f *testing.F) {
	minilm := loadMinilm(f)
	flagged, err := Load(patched(f, "added_tokens", `[
		{"id": 10, "content": "  ", "single_word": false, "lstrip": true, "rstrip": true, "normalized": false},
		{"id": 11, "content": "Ab", "single_word": true, "lstrip": true, "rstrip": false, "normalized": true},
		{"id": 12, "content": "x ", "single_word": false, "lstrip": false, "rstrip": true, "normalized": true}]`))
	if err != nil {
		f.Fatal(err)
	}
	normal, err := Load(patched(f, "normalizer", `{"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "NFD"}, {"type": "NFC"}, {"type": "Lowercase"}]}`))
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{
		"", "Hello, world!", "naïve İstanbul 각 字", "[CLS][SEP] [MASK]s", "\x00\ufffd\u200b\ufeff", "a\u0301\u0327\u0345\u302e", "\xff\xc3\x28\xed\xa0\x80",
		"x   Ab x  ab", "\U0010ffff\U000e0001", "각\u11a8각", "👨‍👩‍👧",
	} {
		f.Add(text, 0)
		f.Add(text, 3)
	}
	f.Fuzz(func(t *testing.T, text string, limit int) {
		for _, tok := range []*Tokenizer{minilm, flagged, normal} {
			checkEncode(t, tok, text, limit)
		}
	})
}

func TestConcurrent(t *testing.T) {
	tok := loadMinilm(t)
	texts := []string{"Hello, world!", "naïve café 字 각", "a\u0301\u0327 [SEP] x", ""}
	var want [][]int32
	for _, text := range texts {
		want = append(want, tok.Encode(text, 0).IDs)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 500 {
				k := (g + i) % len(texts)
				if got := tok.Encode(texts[k], 0).IDs; !slices.Equal(got, want[k]) {
					t.Errorf("%q: %v, want %v", texts[k], got, want[k])
				}
			}
		})
	}
	wg.Wait()
}
