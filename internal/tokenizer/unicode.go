package tokenizer

import (
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

//go:embed unicode.txt
var unicodeText string

// unicodeData parses unicode.txt at its first use (about 10 ms) and gives the same tables ever after.
var unicodeData = sync.OnceValue(func() *charTable { return parseUnicode(unicodeText) })

// Properties of a character, as Hugging Face's library sees them.
const (
	isControl    = 1 << iota // dropped by BertNormalizer's clean_text
	isCleanSpace             // made a space by BertNormalizer's clean_text
	isChinese                // set between spaces by BertNormalizer's handle_chinese_chars
	isSpace                  // White_Space
	isNonspacing             // Mn
	isMark                   // Mn, Mc or Me
	isPunct                  // ASCII punctuation or P*
	isWord                   // \w of a regular expression
	isHangul                 // a precomposed Hangul syllable
	isSecond                 // may be composed with a character before it
	isMapped                 // has a lower case or a decomposition
)

// char is what is known of a character. The strings are empty where the character stands for itself.
type char struct {
	flags  uint16
	ccc    uint8  // canonical combining class, of characters that do not decompose
	lower  string // full lower case, without context
	canon  string // full canonical decomposition; not of Hangul syllables
	compat string // full compatibility decomposition where it is not canon
}

const blockBits = 8

// charTable holds a char for every code point.
type charTable struct {
	blockOf [(utf8.MaxRune + 1) >> blockBits]uint16
	blocks  [][1 << blockBits]uint16 // indices into chars
	chars   []char
	compose map[[2]rune]rune // canonical compositions, without Hangul
}

// of returns what is known of r, a valid code point.
func (u *charTable) of(r rune) *char {
	return &u.chars[u.blocks[u.blockOf[uint32(r)>>blockBits]][r&(1<<blockBits-1)]]
}

const (
	hangulFirst = 0xac00
	hangulLast  = hangulFirst + 11172 - 1
	jamoL       = 0x1100
	jamoV       = 0x1161
	jamoT       = 0x11a7 // one before the first trailing consonant
	jamoLCount  = 19
	jamoVCount  = 21
	jamoTCount  = 28
)

// parseUnicode reads the format that testdata/make_unicode.py describes. The text is part of the program: a
// mistake in it panics, and the tests see it.
func parseUnicode(text string) *charTable {
	const points = utf8.MaxRune + 1
	type basic struct {
		flags uint16
		ccc   uint8
	}
	base := make([]basic, points)
	maps := make(map[rune]*char)
	mapped := func(r rune) *char {
		c := maps[r]
		if c == nil {
			c = new(char)
			maps[r] = c
			base[r].flags |= isMapped
		}
		return c
	}
	flags := map[string]uint16{
		"control": isControl, "cleanspace": isCleanSpace, "chinese": isChinese, "space": isSpace,
		"nonspacing": isNonspacing, "mark": isMark, "punct": isPunct, "word": isWord,
	}
	u := &charTable{compose: make(map[[2]rune]rune, 1024)}
	for r := rune(hangulFirst); r <= hangulLast; r++ {
		base[r].flags |= isHangul
	}
	for r := rune(jamoV); r < jamoT+jamoTCount; r++ {
		base[r].flags |= isSecond
	}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch kind := fields[0]; kind {
		case "#":
		case "ccc":
			class, err := strconv.ParseUint(fields[1], 10, 8)
			if err != nil {
				panic(err)
			}
			for _, f := range fields[2:] {
				first, last := parseRange(f)
				for r := first; r <= last; r++ {
					base[r].ccc = uint8(class)
				}
			}
		case "lower":
			for _, f := range fields[1:] {
				if r, codes, ok := strings.Cut(f, "="); ok {
					mapped(parseCode(r)).lower = parseCodes(codes)
					continue
				}
				reach, change, _ := strings.Cut(f, "/")
				sign := strings.IndexAny(change, "+-")
				difference := parseCode(change[sign+1:])
				if change[sign] == '-' {
					difference = -difference
				}
				first, last := parseRange(reach)
				for r := first; r <= last; r += parseCode(change[:sign]) {
					mapped(r).lower = string(r + difference)
				}
			}
		case "canon", "compat":
			for _, f := range fields[1:] {
				r, codes, _ := strings.Cut(f, "=")
				if kind == "canon" {
					mapped(parseCode(r)).canon = parseCodes(codes)
				} else {
					mapped(parseCode(r)).compat = parseCodes(codes)
				}
			}
		case "compose":
			for _, f := range fields[1:] {
				pair, r, _ := strings.Cut(f, "=")
				first, second, _ := strings.Cut(pair, ",")
				u.compose[[2]rune{parseCode(first), parseCode(second)}] = parseCode(r)
				base[parseCode(second)].flags |= isSecond
			}
		default:
			flag, ok := flags[kind]
			if !ok {
				panic(fmt.Sprintf("unicode.txt: unknown line %q", kind))
			}
			for _, f := range fields[1:] {
				first, last := parseRange(f)
				for r := first; r <= last; r++ {
					base[r].flags |= flag
				}
			}
		}
	}

	plain := make(map[basic]uint16)
	blocks := make(map[[1 << blockBits]uint16]uint16)
	for start := rune(0); start < points; start += 1 << blockBits {
		var block [1 << blockBits]uint16
		for i := range block {
			r := start + rune(i)
			if base[r].flags&isMapped != 0 {
				m := maps[r]
				m.flags, m.ccc = base[r].flags, base[r].ccc
				block[i] = uint16(len(u.chars))
				u.chars = append(u.chars, *m)
				continue
			}
			if i > 0 && base[r] == base[r-1] {
				block[i] = block[i-1]
				continue
			}
			index, ok := plain[base[r]]
			if !ok {
				index = uint16(len(u.chars))
				plain[base[r]] = index
				u.chars = append(u.chars, char{flags: base[r].flags, ccc: base[r].ccc})
			}
			block[i] = index
		}
		index, ok := blocks[block]
		if !ok {
			index = uint16(len(u.blocks))
			blocks[block] = index
			u.blocks = append(u.blocks, block)
		}
		u.blockOf[start>>blockBits] = index
	}
	return u
}

func parseRange(s string) (first, last rune) {
	a, b, ok := strings.Cut(s, "-")
	if !ok {
		return parseCode(a), parseCode(a)
	}
	return parseCode(a), parseCode(b)
}

func parseCode(s string) rune {
	n, err := strconv.ParseUint(s, 16, 21)
	if err != nil || n > utf8.MaxRune {
		panic(fmt.Sprintf("unicode.txt: %q is not a code point", s))
	}
	return rune(n)
}

func parseCodes(s string) string {
	var b strings.Builder
	for code := range strings.SplitSeq(s, "+") {
		b.WriteRune(parseCode(code))
	}
	return b.String()
}
