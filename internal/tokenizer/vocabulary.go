package tokenizer

import "encoding/json"

const (
	maxVocab    = 4 << 20 // ids, and the number of tokens, are below
	maxTokenLen = 1024    // bytes of one token
)

// vocabulary is the model's own tokens. Every id is in use once.
type vocabulary struct {
	ids map[string]int32
	max int32 // greatest id
}

func (v *vocabulary) id(token string) (int32, bool) {
	id, ok := v.ids[token]
	return id, ok
}

// parseVocabulary reads an object of token: id. A vocabulary that has a token or an id twice is refused: which
// one counts would be chance.
func parseVocabulary(path string, raw json.RawMessage) (*vocabulary, error) {
	if !isObject(raw) {
		return nil, refusef(path, "must be an object of token: id")
	}
	v := &vocabulary{ids: make(map[string]int32), max: -1}
	var used []bool // by id
	for token, number := range members(raw) {
		if len(token) > maxTokenLen {
			return nil, refusef(path, "token %q has %d bytes, the limit is %d", clip(token), len(token), maxTokenLen)
		}
		id, err := parseID(path, number)
		if err != nil {
			return nil, refusef(path, "token %q: %w", clip(token), err)
		}
		if _, twice := v.ids[token]; twice {
			return nil, refusef(path, "token %q is there twice", clip(token))
		}
		for int(id) >= len(used) {
			used = append(used, make([]bool, len(used)+1024)...)
		}
		if used[id] {
			return nil, refusef(path, "token %q has id %d, which another token has", clip(token), id)
		}
		used[id] = true
		v.ids[token] = id
		v.max = max(v.max, id)
	}
	if len(v.ids) == 0 {
		return nil, refusef(path, "is empty")
	}
	return v, nil
}
