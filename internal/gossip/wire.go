package gossip

import (
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/akidb/akidbd/internal/node"
)

// Messages are protobuf's wire format, written by hand: small, and unknown fields of a newer release are skipped.
//
//	meta    1 region · 2 zone · 3 addr · 4 version · 5 epoch · 6 label{1 key · 2 value}*
//	word    1 id · 2 epoch · 3 seq · 4 state · 5 load in 1/1000 · 6 queue delay in us · 7 seq of the list
//	        8 what of the list is here (0 nothing, 1 its beginning, 2 all) · 9 model* · 10 label*
//	model   1 name · 2 digest, 32 bytes · 3 digest, else · 4 precision · 5 active · 6 since · 7 alias*
//	words   1 word*

// Limits of what is read.
const (
	maxModels     = 256
	maxAliases    = 64
	maxText       = 256
	maxWordBytes  = 256 << 10
	maxStateBytes = 4 << 20
	maxWords      = 8192
	maxDelay      = time.Hour
	maxNews       = 900 // bytes of a word that goes into a packet
)

// facts are what does not change while a node runs.
type facts struct {
	region, zone, addr, version string
	epoch                       uint64
	labels                      map[string]string
}

// spoken is a word with its speaker. Its models and labels, the list, change seldom: most words come without.
type spoken struct {
	id node.ID
	node.Word
	listSeq uint64 // Seq of the word that first had this list
	list    listKind
	labels  map[string]string // those that are not in the facts
}

type listKind uint8

const (
	listNone listKind = iota
	listPart
	listAll
)

func appendString(b []byte, num protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
}

func appendBytes(b []byte, num protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
}

func appendUint(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func appendLabel(b []byte, num protowire.Number, k, v string) []byte {
	return appendBytes(b, num, appendString(appendString(nil, 1, k), 2, v))
}

// encodeMeta fits the facts into limit bytes; the labels that it returns have to travel otherwise.
func encodeMeta(f facts, limit int) (meta []byte, rest map[string]string) {
	b := appendString(nil, 1, f.region)
	b = appendString(b, 2, f.zone)
	b = appendString(b, 3, f.addr)
	b = appendString(b, 4, f.version)
	b = appendUint(b, 5, f.epoch)
	for _, k := range slices.Sorted(maps.Keys(f.labels)) {
		if with := appendLabel(b, 6, k, f.labels[k]); len(with) <= limit {
			b = with
			continue
		}
		if rest == nil {
			rest = map[string]string{}
		}
		rest[k] = f.labels[k]
	}
	return b, rest
}

// encodeWord writes a word; where there is a limit, the list is cut to what fits.
func encodeWord(w spoken, limit int) []byte {
	b := appendString(nil, 1, string(w.id))
	b = appendUint(b, 2, w.Epoch)
	b = appendUint(b, 3, w.Seq)
	b = appendUint(b, 4, uint64(slices.Index(node.States(), w.State)+1))
	if w.Load > 0 { // neither NaN
		b = appendUint(b, 5, uint64(min(1, w.Load)*1000+0.5))
	}
	b = appendUint(b, 6, uint64(min(maxDelay, max(0, w.QueueDelay)).Microseconds()))
	b = appendUint(b, 7, w.listSeq)
	if w.list == listNone {
		return b
	}
	kind := w.list
	b = appendUint(b, 8, uint64(kind))
	mark := len(b) - 1
	fits := func(with []byte) {
		if limit > 0 && len(with) > limit {
			kind = listPart
			return
		}
		b = with
	}
	for _, m := range w.Models[:min(len(w.Models), maxModels)] {
		fits(appendBytes(b, 9, encodeServed(m)))
	}
	for _, k := range slices.Sorted(maps.Keys(w.labels)) {
		fits(appendLabel(b, 10, k, w.labels[k]))
	}
	b[mark] = byte(kind)
	return b
}

func encodeServed(s node.Served) []byte {
	b := appendString(nil, 1, s.Name)
	if raw, err := hex.DecodeString(strings.TrimPrefix(s.Digest, digestPrefix)); err == nil && len(raw) == 32 && digestText(raw) == s.Digest {
		b = appendBytes(b, 2, raw)
	} else {
		b = appendString(b, 3, s.Digest)
	}
	b = appendString(b, 4, s.Precision)
	if s.Active {
		b = appendUint(b, 5, 1)
	}
	b = appendUint(b, 6, uint64(max(0, s.Since)))
	for _, a := range s.Aliases[:min(len(s.Aliases), maxAliases)] {
		b = appendString(b, 7, a)
	}
	return b
}

const digestPrefix = "sha256-"

func digestText(raw []byte) string { return digestPrefix + hex.EncodeToString(raw) }

func encodeWords(words []spoken) []byte {
	var b []byte
	for _, w := range words {
		if one := encodeWord(w, maxWordBytes); len(b)+len(one)+8 <= maxStateBytes {
			b = appendBytes(b, 1, one)
		}
	}
	return b
}

var errTorn = errors.New("not a message of this protocol")

// field is one field of a message: a number, or bytes that belong to the message.
type field struct {
	num   protowire.Number
	typ   protowire.Type
	value uint64
	bytes []byte
}

// fields walks a message. Groups and what cannot be read end it with an error.
func fields(b []byte) iter.Seq2[field, error] {
	return func(yield func(field, error) bool) {
		for len(b) > 0 {
			num, typ, n := protowire.ConsumeTag(b)
			if n < 0 || typ == protowire.StartGroupType || typ == protowire.EndGroupType {
				yield(field{}, errTorn)
				return
			}
			b = b[n:]
			f := field{num: num, typ: typ}
			switch typ {
			case protowire.VarintType:
				f.value, n = protowire.ConsumeVarint(b)
			case protowire.BytesType:
				f.bytes, n = protowire.ConsumeBytes(b)
			default:
				n = protowire.ConsumeFieldValue(num, typ, b)
			}
			if n < 0 {
				yield(field{}, errTorn)
				return
			}
			b = b[n:]
			if !yield(f, nil) {
				return
			}
		}
	}
}

func (f field) text(p *string, limit int) error {
	if len(f.bytes) > limit {
		return fmt.Errorf("field %d has %d bytes, %d are possible", f.num, len(f.bytes), limit)
	}
	*p = strings.ToValidUTF8(string(f.bytes), "?")
	return nil
}

func (f field) label(into *map[string]string) error {
	if len(*into) >= maxLabels || len(f.bytes) > maxLabelText+8 {
		return fmt.Errorf("more than %d labels or one of more than %d bytes", maxLabels, maxLabelText)
	}
	var k, v string
	for g, err := range fields(f.bytes) {
		if err != nil {
			return err
		}
		switch g.num {
		case 1:
			err = g.text(&k, maxLabelText)
		case 2:
			err = g.text(&v, maxLabelText)
		}
		if err != nil {
			return err
		}
	}
	if *into == nil {
		*into = map[string]string{}
	}
	(*into)[k] = v
	return nil
}

func decodeMeta(b []byte) (facts, error) {
	var m facts
	for f, err := range fields(b) {
		if err != nil {
			return facts{}, err
		}
		switch f.num {
		case 1:
			err = f.text(&m.region, maxNameBytes)
		case 2:
			err = f.text(&m.zone, maxNameBytes)
		case 3:
			err = f.text(&m.addr, maxAddrBytes)
		case 4:
			err = f.text(&m.version, maxNameBytes)
		case 5:
			m.epoch = f.value
		case 6:
			err = f.label(&m.labels)
		}
		if err != nil {
			return facts{}, err
		}
	}
	return m, nil
}

// decodeWord reads a word; nothing of b is kept.
func decodeWord(b []byte) (spoken, error) {
	w := spoken{Word: node.Word{State: node.Starting}} // also for states not known here: nothing is sent there
	if len(b) > maxWordBytes {
		return w, fmt.Errorf("a word of %d bytes, %d are possible", len(b), maxWordBytes)
	}
	for f, err := range fields(b) {
		if err != nil {
			return w, err
		}
		switch f.num {
		case 1:
			var id string
			err = f.text(&id, maxNameBytes)
			w.id = node.ID(id)
		case 2:
			w.Epoch = f.value
		case 3:
			w.Seq = f.value
		case 4:
			w.State = node.Starting
			if states := node.States(); f.value >= 1 && f.value <= uint64(len(states)) {
				w.State = states[f.value-1]
			}
		case 5:
			w.Load = float64(min(f.value, 1000)) / 1000
		case 6:
			w.QueueDelay = time.Duration(min(f.value, uint64(maxDelay.Microseconds()))) * time.Microsecond
		case 7:
			w.listSeq = f.value
		case 8:
			w.list = listKind(min(f.value, uint64(listAll)))
		case 9:
			var m node.Served
			if m, err = decodeServed(f.bytes); err == nil && len(w.Models) >= maxModels {
				err = fmt.Errorf("more than %d models", maxModels)
			}
			w.Models = append(w.Models, m)
		case 10:
			err = f.label(&w.labels)
		}
		if err != nil {
			return w, err
		}
	}
	if !w.id.Valid() {
		return w, fmt.Errorf("a word of %.80q, which cannot be a node", w.id)
	}
	return w, nil
}

func decodeServed(b []byte) (node.Served, error) {
	var s node.Served
	for f, err := range fields(b) {
		if err != nil {
			return s, err
		}
		switch f.num {
		case 1:
			err = f.text(&s.Name, maxText)
		case 2:
			if len(f.bytes) != 32 {
				return s, fmt.Errorf("a sha256 of %d bytes", len(f.bytes))
			}
			s.Digest = digestText(f.bytes)
		case 3:
			err = f.text(&s.Digest, maxText)
		case 4:
			err = f.text(&s.Precision, maxText)
		case 5:
			s.Active = f.value != 0
		case 6:
			s.Since = int64(min(f.value, 1<<62))
		case 7:
			var a string
			if err = f.text(&a, maxText); err == nil && len(s.Aliases) >= maxAliases {
				err = fmt.Errorf("more than %d aliases", maxAliases)
			}
			s.Aliases = append(s.Aliases, a)
		}
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

// decodeWords gives each word of a push/pull, or why it is none.
func decodeWords(b []byte) iter.Seq2[spoken, error] {
	return func(yield func(spoken, error) bool) {
		if len(b) > maxStateBytes {
			yield(spoken{}, fmt.Errorf("words of %d bytes, %d are possible", len(b), maxStateBytes))
			return
		}
		n := 0
		for f, err := range fields(b) {
			if err != nil {
				yield(spoken{}, err)
				return
			}
			if f.num != 1 {
				continue
			}
			if n++; n > maxWords {
				yield(spoken{}, fmt.Errorf("more than %d words", maxWords))
				return
			}
			if w, err := decodeWord(f.bytes); !yield(w, err) {
				return
			}
		}
	}
}
