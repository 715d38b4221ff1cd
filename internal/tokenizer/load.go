package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"
)

// maxFile is the largest tokenizer.json that is read, in bytes.
const maxFile = 64 << 20

// Load reads the bytes of a tokenizer.json. It refuses what it cannot do exactly, with an error that names
// the JSON part (`model.type "BPE": not supported`), and what breaks a limit: 64 MiB, ids below 4,194,304,
// tokens of 1,024 bytes.
//
// The file's truncation and padding are ignored (all-MiniLM-L6-v2's cut at 128 while its limit is 256), but
// for the id to pad with. The decoder is ignored.
func Load(data []byte) (*Tokenizer, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("tokenizer.json: %d bytes, the limit is %d", len(data), maxFile)
	}
	if !utf8.Valid(data) {
		return nil, errors.New("tokenizer.json: not valid UTF-8")
	}
	if !json.Valid(data) {
		var whatever any
		return nil, fmt.Errorf("tokenizer.json: %w", json.Unmarshal(data, &whatever))
	}
	if err := checkSurrogates(data); err != nil {
		return nil, fmt.Errorf("tokenizer.json: %w", err)
	}
	t, err := load(bytes.TrimSpace(data))
	if err != nil {
		return nil, fmt.Errorf("tokenizer.json: %w", err)
	}
	return t, nil
}

func load(data []byte) (*Tokenizer, error) {
	top, err := parseObject("", data)
	if err != nil {
		return nil, err
	}
	if raw, ok := top.fields["version"]; ok && string(raw) != `"1.0"` {
		return nil, refusef("version", "%s: not supported, must be \"1.0\"", clip(string(raw)))
	}
	t := new(Tokenizer)
	var vocab *vocabulary
	if t.model, vocab, err = loadModel(top.fields["model"]); err != nil {
		return nil, err
	}
	if t.normalizer, err = loadNormalizer(top.fields["normalizer"]); err != nil {
		return nil, err
	}
	if t.pre, err = loadPreTokenizer(top.fields["pre_tokenizer"]); err != nil {
		return nil, err
	}
	added, err := loadAdded(top.fields["added_tokens"], vocab)
	if err != nil {
		return nil, err
	}
	if t.verbatim, t.normalized, err = newMatchers(added, t.normalizer); err != nil {
		return nil, err
	}
	if t.template, err = loadTemplate(top.fields["post_processor"]); err != nil {
		return nil, err
	}

	if t.padID, err = loadPadID(top.fields["padding"], added, vocab); err != nil {
		return nil, err
	}
	t.vocabSize = int(vocab.max) + 1
	for _, a := range added {
		t.vocabSize = max(t.vocabSize, int(a.id)+1)
	}
	for _, id := range slices.Concat(t.template.before, t.template.after, []int32{t.padID}) {
		t.vocabSize = max(t.vocabSize, int(id)+1)
	}
	return t, nil
}

// loadPadID looks for the id to pad with in the padding section, then among the tokens.
func loadPadID(raw json.RawMessage, added []addedToken, vocab *vocabulary) (int32, error) {
	if !isNull(raw) {
		o, err := parseObject("padding", raw)
		if err != nil {
			return 0, err
		}
		return o.id("pad_id")
	}
	for _, name := range []string{"[PAD]", "<pad>"} {
		for _, a := range added {
			if a.content == name {
				return a.id, nil
			}
		}
		if id, ok := vocab.id(name); ok {
			return id, nil
		}
	}
	return 0, nil
}

// checkSurrogates refuses \u escapes of half a surrogate pair, which encoding/json would take for U+FFFD.
func checkSurrogates(data []byte) error {
	escape := func(i int) (uint64, bool) {
		if i+6 > len(data) || data[i] != '\\' || data[i+1] != 'u' {
			return 0, false
		}
		n, err := strconv.ParseUint(string(data[i+2:i+6]), 16, 16)
		return n, err == nil
	}
	for i := 0; i < len(data); i++ {
		if data[i] != '\\' {
			continue
		}
		n, ok := escape(i)
		if ok && n >= 0xd800 && n <= 0xdfff {
			low, pair := escape(i + 6)
			if n > 0xdbff || !pair || low < 0xdc00 || low > 0xdfff {
				return fmt.Errorf("byte %d: %q is half a surrogate pair", i, data[i:i+6])
			}
			i += 6
		}
		i++
	}
	return nil
}
