package tokenizer

import (
	"slices"
	"unicode/utf8"
)

// fold says what a folder does with every character, in this order.
type fold struct {
	clean          bool // drop NUL, U+FFFD and control characters, make every space U+0020
	chinese        bool // set Chinese characters between spaces
	dropMarks      bool // drop combining marks
	decompose      bool // canonical decomposition, marks in canonical order
	compat         bool // with decompose: compatibility decomposition
	dropNonspacing bool // with decompose: drop nonspacing marks from what came out
	lower          bool // lower case, without context
}

// folder is the normalizer that goes through the text character by character: BertNormalizer, Lowercase,
// StripAccents, NFD and NFKD are the same loop with different folds.
type folder struct {
	fold
	chars *charTable
	ascii [utf8.RuneSelf]byte // what an ASCII character becomes; dropped for nothing
}

const dropped = 0xff

// mark is a character that waits for its place in canonical order.
type mark struct {
	r   rune
	ccc uint8
}

func newFolder(f fold) *folder {
	n := &folder{fold: f, chars: unicodeData()}
	for b := range n.ascii {
		n.ascii[b] = byte(b)
		flags := n.chars.of(rune(b)).flags
		switch {
		case f.clean && flags&isControl != 0:
			n.ascii[b] = dropped
		case f.clean && flags&isCleanSpace != 0:
			n.ascii[b] = ' '
		case f.lower && b >= 'A' && b <= 'Z':
			n.ascii[b] += 'a' - 'A'
		}
	}
	return n
}

func (n *folder) normalize(dst, src []byte, s *scratch) []byte {
	dst = slices.Grow(dst, len(src))
	s.marks = s.marks[:0]
	for i := 0; i < len(src); {
		if b := src[i]; b < utf8.RuneSelf {
			i++
			if b = n.ascii[b]; b != dropped {
				if len(s.marks) > 0 {
					dst = n.flush(dst, s)
				}
				dst = append(dst, b)
			}
			continue
		}
		r, size := utf8.DecodeRune(src[i:])
		raw := src[i : i+size]
		i += size
		c := n.chars.of(r)
		if n.clean {
			if c.flags&isControl != 0 {
				continue
			}
			if c.flags&isCleanSpace != 0 {
				dst = append(n.flush(dst, s), ' ')
				continue
			}
		}
		if n.dropMarks && c.flags&isMark != 0 {
			continue
		}
		around := n.chinese && c.flags&isChinese != 0
		if around {
			dst = append(n.flush(dst, s), ' ')
		}
		switch {
		case !n.decompose:
			dst = n.emit(dst, raw, c)
		case c.flags&isHangul != 0:
			dst = appendHangul(n.flush(dst, s), r)
		default:
			to := c.canon
			if n.compat && c.compat != "" {
				to = c.compat
			}
			if to == "" {
				dst = n.place(dst, r, raw, c, s)
				break
			}
			for j := 0; j < len(to); {
				d, size := utf8.DecodeRuneInString(to[j:])
				dst = n.place(dst, d, nil, n.chars.of(d), s)
				j += size
			}
		}
		if around {
			dst = append(n.flush(dst, s), ' ')
		}
	}
	return n.flush(dst, s)
}

// place appends a character that does not decompose, or has it wait when it has a combining class.
func (n *folder) place(dst []byte, r rune, raw []byte, c *char, s *scratch) []byte {
	if n.dropNonspacing && c.flags&isNonspacing != 0 {
		return dst
	}
	if c.ccc != 0 {
		s.marks = append(s.marks, mark{r, c.ccc})
		return dst
	}
	if len(s.marks) > 0 {
		dst = n.flush(dst, s)
	}
	if raw == nil {
		return n.emitRune(dst, r, c)
	}
	return n.emit(dst, raw, c)
}

// flush appends the waiting characters in canonical order.
func (n *folder) flush(dst []byte, s *scratch) []byte {
	if len(s.marks) == 0 {
		return dst
	}
	if len(s.marks) > 1 {
		slices.SortStableFunc(s.marks, func(a, b mark) int { return int(a.ccc) - int(b.ccc) })
	}
	for _, m := range s.marks {
		dst = n.emitRune(dst, m.r, n.chars.of(m.r))
	}
	s.marks = s.marks[:0]
	return dst
}

// emit appends the character whose bytes are raw in its final form.
func (n *folder) emit(dst, raw []byte, c *char) []byte {
	if n.lower && c.lower != "" {
		return append(dst, c.lower...)
	}
	return append(dst, raw...)
}

func (n *folder) emitRune(dst []byte, r rune, c *char) []byte {
	if n.lower && c.lower != "" {
		return append(dst, c.lower...)
	}
	return utf8.AppendRune(dst, r)
}

// appendHangul appends the jamo of a Hangul syllable, all of class 0 and without case.
func appendHangul(dst []byte, r rune) []byte {
	i := r - hangulFirst
	dst = utf8.AppendRune(dst, jamoL+i/(jamoVCount*jamoTCount))
	dst = utf8.AppendRune(dst, jamoV+i%(jamoVCount*jamoTCount)/jamoTCount)
	if t := i % jamoTCount; t > 0 {
		dst = utf8.AppendRune(dst, jamoT+t)
	}
	return dst
}

// composed is the canonical composition of two characters.
func (u *charTable) composed(a, b rune) (rune, bool) {
	switch {
	case a >= jamoL && a < jamoL+jamoLCount && b >= jamoV && b < jamoV+jamoVCount:
		return hangulFirst + ((a-jamoL)*jamoVCount+b-jamoV)*jamoTCount, true
	case a >= hangulFirst && a <= hangulLast && (a-hangulFirst)%jamoTCount == 0 && b > jamoT && b < jamoT+jamoTCount:
		return a + b - jamoT, true
	}
	r, ok := u.compose[[2]rune{a, b}]
	return r, ok
}
