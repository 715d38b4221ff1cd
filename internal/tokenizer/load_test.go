package tokenizer

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// small is a tokenizer.json with a few tokens.
const small = `{
  "version": "1.0", "truncation": {"max_length": 3}, "padding": {"pad_id": 4, "strategy": {"Fixed": 128}},
  "added_tokens": [
    {"id": 2, "content": "[CLS]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
    {"id": 3, "content": "[SEP]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
  "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
  "pre_tokenizer": {"type": "BertPreTokenizer"},
  "post_processor": {"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
    "pair": [], "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}, "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}},
  "decoder": null,
  "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 6,
    "vocab": {"a": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[PAD]": 4, "##b": 5, "##bc": 6, "\u00df": 7, "!": 8, "abc": 9}}
}`

func TestLoadSmall(t *testing.T) {
	tok, err := Load([]byte(small))
	if err != nil {
		t.Fatal(err)
	}
	if tok.VocabSize() != 10 || tok.PadID() != 4 || tok.SpecialTokens() != 2 {
		t.Errorf("VocabSize %d, PadID %d, SpecialTokens %d, want 10, 4, 2", tok.VocabSize(), tok.PadID(), tok.SpecialTokens())
	}
	for _, c := range []struct {
		text string
		max  int
		want []int32
		full int
	}{
		{"", 0, []int32{2, 3}, 2},
		{"a", 0, []int32{2, 0, 3}, 3},
		{"ABC abb! ß", 0, []int32{2, 9, 0, 5, 5, 8, 7, 3}, 8},
		{"ABC abb! ß", 8, []int32{2, 9, 0, 5, 5, 8, 7, 3}, 8},
		{"ABC abb! ß", 7, []int32{2, 9, 0, 5, 5, 8, 3}, 8},
		{"ABC abb! ß", 3, []int32{2, 9, 3}, 8},
		{"ABC abb! ß", 2, []int32{2, 3}, 8},
		{"ABC abb! ß", 1, []int32{2}, 8},
		{"ABC abb! ß", -1, []int32{2, 9, 0, 5, 5, 8, 7, 3}, 8},
		{"abbbbb", 0, []int32{2, 0, 5, 5, 5, 5, 5, 3}, 8}, // six characters: the longest word
		{"abbbbbb", 0, []int32{2, 1, 3}, 3},
		{"ab[SEP]a", 0, []int32{2, 0, 5, 3, 0, 3}, 6},
		{"ab\xffb", 0, []int32{2, 0, 5, 5, 3}, 5}, // U+FFFD is dropped by clean_text
		{"a\xed\xa0\x80", 0, []int32{2, 0, 3}, 3},
	} {
		got := tok.Encode(c.text, c.max)
		if !slices.Equal(got.IDs, c.want) || got.Full != c.full {
			t.Errorf("Encode(%q, %d) = %v, want %v, full %d", c.text, c.max, got, c.want, c.full)
		}
	}
}

func TestLoadMinilm(t *testing.T) {
	tok := loadMinilm(t)
	if tok.VocabSize() != 30522 || tok.PadID() != 0 || tok.SpecialTokens() != 2 {
		t.Errorf("VocabSize %d, PadID %d, SpecialTokens %d, want 30522, 0, 2", tok.VocabSize(), tok.PadID(), tok.SpecialTokens())
	}
	// The file itself cuts at 128 and pads to 128: neither may happen.
	if e := tok.Encode(strings.Repeat("word ", 300), 256); len(e.IDs) != 256 || e.Full != 302 || e.IDs[255] != 102 {
		t.Errorf("300 words: %d ids, full %d, last %d, want 256, 302, 102", len(e.IDs), e.Full, e.IDs[len(e.IDs)-1])
	}
	if e := tok.Encode("word", 256); len(e.IDs) != 3 {
		t.Errorf("one word: %v, want 3 ids", e.IDs)
	}
}

// patched is small with the JSON at path (dots between) replaced, or removed for "".
func patched(t testing.TB, path, value string) []byte {
	t.Helper()
	var file any
	if err := json.Unmarshal([]byte(small), &file); err != nil {
		t.Fatal(err)
	}
	names := strings.Split(path, ".")
	at := file.(map[string]any)
	for _, n := range names[:len(names)-1] {
		at = at[n].(map[string]any)
	}
	if last := names[len(names)-1]; value == "" {
		delete(at, last)
	} else {
		at[last] = json.RawMessage(value)
	}
	data, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestLoadRefuses(t *testing.T) {
	added := func(id int, content, flags string) string {
		f := `"single_word": false, "lstrip": false, "rstrip": false, "normalized": true`
		if flags != "" {
			f = flags
		}
		return fmt.Sprintf(`{"id": %d, "content": %q, %s}`, id, content, f)
	}
	deep := `{"type": "Lowercase"}`
	for range 20 {
		deep = `{"type": "Sequence", "normalizers": [` + deep + `,` + `{"type": "Lowercase"},{"type": "Lowercase"},{"type": "Lowercase"},{"type": "Lowercase"}]}`
	}
	for _, c := range []struct{ path, value, want string }{
		{"version", `"2.0"`, `version: "2.0": not supported`},
		{"model", "", "model: is missing"},
		{"model", "[]", "model: must be an object"},
		{"model.type", "", "model.type: is missing"},
		{"model.type", `"BPE"`, `model.type "BPE": not supported`},
		{"model.type", `"Unigram"`, `model.type "Unigram": not supported`},
		{"model.unk_token", `"nope"`, `model.unk_token: "nope" is not in model.vocab`},
		{"model.unk_token", `7`, "model.unk_token: "},
		{"model.max_input_chars_per_word", "", "model.max_input_chars_per_word: is missing"},
		{"model.max_input_chars_per_word", "-1", "model.max_input_chars_per_word: -1: must not be negative"},
		{"model.max_input_chars_per_word", "1.5", "model.max_input_chars_per_word: "},
		{"model.vocab", "", "model.vocab: must be an object"},
		{"model.vocab", "{}", "model.vocab: is empty"},
		{"model.vocab", `{"a": -1}`, `model.vocab: token "a": model.vocab: id -1: must be a whole number`},
		{"model.vocab", `{"a": 1.0}`, `id 1.0: must be a whole number`},
		{"model.vocab", `{"a": "1"}`, `id "1": must be a whole number`},
		{"model.vocab", `{"a": [1, {"b": "}"}], "c": 2}`, `must be a whole number`},
		{"model.vocab", `{"a": 4194304}`, `id 4194304: must be a whole number from 0 to 4194303`},
		{"model.vocab", `{"a": 99999999999999999999}`, `must be a whole number from 0 to 4194303`},
		{"model.vocab", `{"a": 0, "b": 1, "a": 2}`, `token "a" is there twice`},
		{"model.vocab", `{"a": 0, "b": 1, "\u0061": 2}`, `token "a" is there twice`},
		{"model.vocab", `{"a": 0, "b": 0}`, `token "b" has id 0, which another token has`},
		{"model.vocab", `{"` + strings.Repeat("x", 1025) + `": 0}`, `has 1025 bytes, the limit is 1024`},
		{"model.vocab", `{"\ud800": 0}`, `half a surrogate pair`},
		{"model.vocab", `{"\udc00\ud800": 0}`, `half a surrogate pair`},
		{"normalizer", `{"type": "Precompiled", "precompiled_charsmap": ""}`, `normalizer.type "Precompiled": not supported`},
		{"normalizer", `{"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Nmt"}]}`, `normalizer.normalizers[1].type "Nmt": not supported`},
		{"normalizer", `{"type": "Replace", "pattern": {"Regex": "a+"}, "content": ""}`, "normalizer.pattern: is not a String: not supported"},
		{"normalizer", `{"type": "Replace", "pattern": {"String": ""}, "content": ""}`, "normalizer.pattern.String: is empty"},
		{"normalizer", `{"type": "Replace", "pattern": {"String": "a"}, "content": "` + strings.Repeat("x", 100) + `"}`, "normalizer.content: 100 bytes for a pattern of 1"},
		{"normalizer", deep, "normalizer: more than 64 steps"},
		{"normalizer.lowercase", "", "normalizer.lowercase: is missing"},
		{"normalizer.strip_accents", `"yes"`, "normalizer.strip_accents: "},
		{"pre_tokenizer.type", `"ByteLevel"`, `pre_tokenizer.type "ByteLevel": not supported`},
		{"pre_tokenizer", `{"type": "Punctuation", "behavior": "MergedWithNext"}`, `pre_tokenizer.behavior "MergedWithNext": not supported`},
		{"post_processor.type", `"ByteLevel"`, `post_processor.type "ByteLevel": not supported`},
		{"post_processor.single", `[{"Sequence": {"id": "B", "type_id": 0}}]`, `post_processor.single[0].Sequence.id: "B": must be "A"`},
		{"post_processor.single", `[{"Sequence": {"id": "A", "type_id": 1}}]`, `post_processor.single[0].Sequence.type_id: 1: not supported`},
		{"post_processor.single", `[]`, `post_processor.single: has the text 0 times`},
		{"post_processor.single", `[{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]`, `post_processor.single: has the text 2 times`},
		{"post_processor.special_tokens", `{}`, `post_processor.special_tokens.[CLS]: is missing`},
		{"post_processor", `{"type": "BertProcessing", "cls": ["[CLS]", 2], "sep": ["[SEP]"]}`, `post_processor.sep: must be a token and its id`},
		{"post_processor", `{"type": "BertProcessing", "cls": ["[CLS]", 2], "sep": ["[SEP]", -3]}`, `post_processor.sep: id -3`},
		{"added_tokens", `{}`, "added_tokens: must be an array"},
		{"added_tokens", `[` + added(3, "[CLS]", "") + `]`, `added_tokens[0]: "[CLS]" has id 3, but its place in the vocabulary is 2`},
		{"added_tokens", `[` + added(11, "new", "") + `]`, `added_tokens[0]: "new" has id 11, but its place in the vocabulary is 10`},
		{"added_tokens", `[` + added(10, "new", `"single_word": false`) + `]`, `is missing`},
		{"added_tokens", `[` + added(10, "\u0300", "") + `]`, `is nothing after the normalizer`},
		{"added_tokens", `[` + added(10, "new", "") + `,` + added(11, "NEW", "") + `]`, `"new" and "NEW" are the same after the normalizer`},
		{"padding", `{"pad_id": -1}`, "padding.pad_id: id -1"},
	} {
		_, err := Load(patched(t, c.path, c.value))
		if err == nil {
			t.Errorf("%s = %s: loaded, want an error with %q", c.path, clip(c.value), c.want)
		} else if !strings.HasPrefix(err.Error(), "tokenizer.json: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s = %s: %q, want it to say %q", c.path, clip(c.value), err, c.want)
		}
	}
	for _, c := range []struct{ data, want string }{
		{"", "unexpected end of JSON input"},
		{"{", "unexpected end of JSON input"},
		{"[]", "must be an object"},
		{"{} {}", "invalid character"},
		{"{\"a\": \"\xff\"}", "not valid UTF-8"},
		{strings.Repeat(" ", maxFile) + "{}", "67108866 bytes, the limit is 67108864"},
	} {
		if _, err := Load([]byte(c.data)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want an error with %q", clip(c.data), err, c.want)
		}
	}
}

func TestLoadAcceptsAddedTokens(t *testing.T) {
	const flags = `"single_word": false, "lstrip": false, "rstrip": false, "normalized": false`
	tok, err := Load(patched(t, "added_tokens", `[{"id": 0, "content": "", `+flags+`}, {"id": 10, "content": "<pad>", `+flags+`},
		{"id": 2, "content": "[CLS]", `+flags+`}, {"id": 11, "content": "new", `+flags+`}, {"id": 11, "content": "new", `+flags+`}]`))
	if err != nil {
		t.Fatal(err)
	}
	if got := tok.Encode("anewa <pad>", 0).IDs; !slices.Equal(got, []int32{2, 0, 11, 0, 10, 3}) {
		t.Errorf("ids %v", got)
	}
	if tok.VocabSize() != 12 {
		t.Errorf("VocabSize %d, want 12", tok.VocabSize())
	}
	for path, want := range map[string]int32{"padding": 4, "nothing": 4} {
		tok, err := Load(patched(t, path, "null"))
		if err != nil || tok.PadID() != want {
			t.Errorf("%s: null: PadID %d (%v), want %d", path, tok.PadID(), err, want)
		}
	}
}
