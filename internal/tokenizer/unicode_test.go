package tokenizer

import (
	"testing"
	"unicode"
	"unicode/utf8"
)

// TestUnicodeAgainstGo compares the tables with Go's where all versions of Unicode agree, or nearly: a slip in
// unicode.txt or its parser would differ in many places.
func TestUnicodeAgainstGo(t *testing.T) {
	u := unicodeData()
	differ := map[string]int{}
	count := func(what string, r rune, a, b bool) {
		if a != b {
			if differ[what]++; differ[what] <= 3 {
				t.Logf("%s %U: ours %t, Go's %t", what, r, a, b)
			}
		}
	}
	for r := rune(0); r <= utf8.MaxRune; r++ {
		if !utf8.ValidRune(r) {
			continue
		}
		c := u.of(r)
		count("space", r, c.flags&isSpace != 0, unicode.IsSpace(r))
		count("hangul", r, c.flags&isHangul != 0, r >= 0xac00 && r <= 0xd7a3)
		count("nonspacing without Mn", r, c.flags&isNonspacing != 0 && !unicode.Is(unicode.Mn, r), false)
		count("mark without M", r, c.flags&isMark != 0 && !unicode.Is(unicode.M, r), false)
		count("nonspacing without mark", r, c.flags&isNonspacing != 0 && c.flags&isMark == 0, false)
		count("class without M", r, c.ccc != 0 && !unicode.Is(unicode.M, r), false)
		if r < 0x250 {
			count("punct", r, c.flags&isPunct != 0, unicode.IsPunct(r) || r < 0x80 && unicode.IsSymbol(r))
			lower := c.lower
			if lower == "" {
				lower = string(r)
			}
			if r != 'İ' {
				count("lower", r, lower == string(unicode.ToLower(r)), true)
			}
		}
		for _, d := range c.canon + c.compat {
			if u.of(d).canon != "" {
				t.Errorf("%U decomposes to %U, which decomposes further", r, d)
			}
		}
	}
	// Some characters changed their category between versions: U+1734, U+1CF2 and U+1CF3 by Go 1.26's tables.
	for what, n := range differ {
		if n > 5 {
			t.Errorf("%s: %d code points differ", what, n)
		}
	}
	if got := u.of('İ').lower; got != "i\u0307" {
		t.Errorf("lower case of U+0130 is %+q", got)
	}
	if len(u.compose) < 900 {
		t.Errorf("%d compositions, want 900 and more", len(u.compose))
	}
}
