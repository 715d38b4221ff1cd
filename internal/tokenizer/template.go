package tokenizer

import (
	"encoding/json"
	"fmt"
)

// maxSpecials bounds the special tokens around one text.
const maxSpecials = 64

// template is what the post-processor sets around the ids of a single text.
type template struct{ before, after []int32 }

func (t template) specials() int { return len(t.before) + len(t.after) }

// apply makes the Encoding of a text's own ids, cut to limit ids if limit > 0. It keeps nothing of ids.
func (t template) apply(ids []int32, limit int) Encoding {
	full := len(ids) + t.specials()
	if limit > 0 && full > limit {
		ids = ids[:max(0, limit-t.specials())]
	}
	out := make([]int32, 0, len(ids)+t.specials())
	out = append(append(append(out, t.before...), ids...), t.after...)
	if limit > 0 && len(out) > limit {
		out = out[:limit]
	}
	return Encoding{IDs: out, Full: full}
}

// loadTemplate reads the post_processor section; a missing or null one adds nothing.
func loadTemplate(raw json.RawMessage) (template, error) {
	if isNull(raw) {
		return template{}, nil
	}
	o, err := parseObject("post_processor", raw)
	if err != nil {
		return template{}, err
	}
	kind, err := o.kind()
	if err != nil {
		return template{}, err
	}
	switch kind {
	case "TemplateProcessing":
		return loadTemplateProcessing(o)
	case "BertProcessing", "RobertaProcessing":
		var t template
		cls, err := o.tokenPair("cls")
		if err != nil {
			return t, err
		}
		sep, err := o.tokenPair("sep")
		if err != nil {
			return t, err
		}
		return template{before: []int32{cls}, after: []int32{sep}}, nil
	default:
		return template{}, o.unsupported(kind)
	}
}

// tokenPair reads ["[CLS]", 101].
func (o object) tokenPair(name string) (int32, error) {
	items, err := list(o.at(name), o.fields[name])
	if err != nil {
		return 0, err
	}
	if len(items) != 2 {
		return 0, refusef(o.at(name), "must be a token and its id")
	}
	return parseID(o.at(name), items[1])
}

// loadTemplateProcessing reads the template for a single text.
func loadTemplateProcessing(o object) (template, error) {
	var t template
	pieces, err := list(o.at("single"), o.fields["single"])
	if err != nil {
		return t, err
	}
	tokens, err := parseObject(o.at("special_tokens"), o.fields["special_tokens"])
	if err != nil {
		return t, err
	}
	texts := 0
	for i, raw := range pieces {
		path := fmt.Sprintf("%s[%d]", o.at("single"), i)
		piece, err := parseObject(path, raw)
		if err != nil {
			return t, err
		}
		kind := "Sequence"
		if _, ok := piece.fields[kind]; !ok {
			kind = "SpecialToken"
		}
		inner, err := parseObject(piece.at(kind), piece.fields[kind])
		if err != nil {
			return t, err
		}
		id, err := inner.text("id")
		if err != nil {
			return t, err
		}
		typeID, err := inner.count("type_id")
		if err != nil {
			return t, err
		}
		if typeID != 0 {
			return t, refusef(inner.at("type_id"), "%d: not supported, must be 0", typeID)
		}
		if kind == "Sequence" {
			if id != "A" {
				return t, refusef(inner.at("id"), "%q: must be \"A\" in a single text", clip(id))
			}
			texts++
			continue
		}
		ids, err := specialIDs(tokens, id)
		if err != nil {
			return t, err
		}
		if texts == 0 {
			t.before = append(t.before, ids...)
		} else {
			t.after = append(t.after, ids...)
		}
		if t.specials() > maxSpecials {
			return t, refusef(o.at("single"), "more than %d special tokens, which is the limit", maxSpecials)
		}
	}
	if texts != 1 {
		return t, refusef(o.at("single"), "has the text %d times: not supported, must be once", texts)
	}
	return t, nil
}

// specialIDs looks a template's special token up.
func specialIDs(tokens object, name string) ([]int32, error) {
	token, err := parseObject(tokens.at(name), tokens.fields[name])
	if err != nil {
		return nil, err
	}
	items, err := list(token.at("ids"), token.fields["ids"])
	if err != nil {
		return nil, err
	}
	var ids []int32
	for _, raw := range items {
		id, err := parseID(token.at("ids"), raw)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}
