"""Writes ../unicode.txt: what the Unicode tables inside Hugging Face's tokenizers library say of every code point.

    pip install tokenizers==0.23.3
    python make_unicode.py > ../unicode.txt          # about 30 s

The library mixes several versions of Unicode (unicode_categories 0.1.1: 8; unicode-normalization-alignments
0.1.12: 9; Rust's standard library and the regex crate: 16 and 17), and its tables are not exported. So every
code point is sent through the library's own parts and the answers are written down. Numbers are hexadecimal.

  control, space, ...   ranges of code points that have the property
  ccc N                 ranges of canonical combining class N (decimal)
  lower                 code=codes, or first-last/step+difference
  canon, compat         full decompositions, code=codes; compat only where it differs from canon; no Hangul
  compose               first,second=composed; no Hangul
"""
import sys
import tokenizers
from tokenizers import normalizers as N, pre_tokenizers as P

CPS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
HANGUL = range(0xAC00, 0xAC00 + 11172)
out = sys.stdout


def bert(**on):
    flags = dict(clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    return N.BertNormalizer(**{**flags, **on}).normalize_str


def ranges(cps):
    text, cps = [], sorted(cps)
    i = 0
    while i < len(cps):
        j = i
        while j + 1 < len(cps) and cps[j + 1] == cps[j] + 1:
            j += 1
        text.append(f"{cps[i]:x}" if i == j else f"{cps[i]:x}-{cps[j]:x}")
        i = j + 1
    return text


def lines(name, items):
    line = name
    for item in items:
        if len(line) + 1 + len(item) > 118:
            print(line, file=out)
            line = name
        line += " " + item
    if line != name:
        print(line, file=out)


def codes(s):
    return "+".join(f"{ord(c):x}" for c in s)


print(f"# Made by testdata/make_unicode.py with tokenizers {tokenizers.__version__}; do not edit.", file=out)

clean, strip, chinese = bert(clean_text=True), bert(strip_accents=True), bert(handle_chinese_chars=True)
accents, lower = N.StripAccents().normalize_str, N.Lowercase().normalize_str
nfd, nfkd, nfc, nfkc = (n().normalize_str for n in (N.NFD, N.NFKD, N.NFC, N.NFKC))
punct, word, white = (p().pre_tokenize_str for p in (P.Punctuation, P.Whitespace, P.WhitespaceSplit))

lines("control", ranges(c for c in CPS if clean(f"a{chr(c)}b") == "ab"))
lines("cleanspace", ranges(c for c in CPS if clean(f"a{chr(c)}b") == "a b"))
lines("chinese", ranges(c for c in CPS if chinese(chr(c)) == f" {chr(c)} "))
lines("space", ranges(c for c in CPS if len(white(f"a{chr(c)}b")) == 2))
lines("nonspacing", ranges(c for c in CPS if strip(chr(c)) == ""))
lines("mark", ranges(c for c in CPS if accents(chr(c)) == ""))
lines("punct", ranges(c for c in CPS if len(punct(f"a{chr(c)}b")) == 3))
lines("word", ranges(c for c in CPS if word(f"a{chr(c)}")[0][0] == f"a{chr(c)}"))

# Combining classes: two marks change places in NFD when the first one's class is the higher and the second's
# is not 0, so a mark is measured between one known mark of each class.
KNOWN = {1: 0x334, 7: 0x93C, 8: 0x3099, 9: 0x94D, 10: 0x5B0, 11: 0x5B1, 12: 0x5B2, 13: 0x5B3, 14: 0x5B4, 15: 0x5B5,
         16: 0x5B6, 17: 0x5B7, 18: 0x5B8, 19: 0x5B9, 20: 0x5BB, 21: 0x5BC, 22: 0x5BD, 23: 0x5BF, 24: 0x5C1,
         25: 0x5C2, 26: 0xFB1E, 27: 0x64B, 28: 0x64C, 29: 0x64D, 30: 0x64E, 31: 0x64F, 32: 0x650, 33: 0x651,
         34: 0x652, 35: 0x670, 36: 0x711, 84: 0xC55, 91: 0xC56, 103: 0xE38, 107: 0xE48, 118: 0xEB8, 122: 0xEC8,
         129: 0xF71, 130: 0xF72, 132: 0xF74, 202: 0x321, 214: 0x1DCE, 216: 0x31B, 218: 0x302A, 220: 0x316, 222: 0x59A,
         224: 0x302E, 226: 0x1D16D, 228: 0x5AE, 230: 0x300, 232: 0x315, 233: 0x35C, 234: 0x35D, 240: 0x345}
ladder = sorted(KNOWN)


def swaps(a, b):
    return nfd(chr(a) + chr(b)) != nfd(chr(a)) + nfd(chr(b))


for a, b in zip(ladder, ladder[1:]):
    assert swaps(KNOWN[b], KNOWN[a]) and not swaps(KNOWN[a], KNOWN[b]), (a, b)


def ccc(c):
    if len(nfd(chr(c))) != 1 or nfd(chr(c)) != chr(c):
        return 0  # decomposes: never asked
    if not swaps(0x345, c) and not swaps(c, 0x334):
        return 0
    below = [k for k in ladder if swaps(KNOWN[k], c)]  # classes above c's own
    own = [k for k in ladder if k not in below and not swaps(c, KNOWN[k])]
    assert len(own) == 1, (hex(c), own)
    return own[0]


classes = {}
for c in CPS:
    if k := ccc(c):
        classes.setdefault(k, []).append(c)
for k in sorted(classes):
    lines(f"ccc {k}", ranges(classes[k]))

items, cps = [], [c for c in CPS if lower(chr(c)) != chr(c)]
single = {c: ord(lower(chr(c))) - c for c in cps if len(lower(chr(c))) == 1}
done = set()
for c in cps:
    if c in done:
        continue
    if c not in single:
        items.append(f"{c:x}={codes(lower(chr(c)))}")
        continue
    best = (c, 1)
    for step in (1, 2):
        last = c
        while single.get(last + step) == single[c] and last + step not in done:
            last += step
        if (last - c) // step > (best[0] - c) // best[1]:
            best = (last, step)
    last, step = best
    done.update(range(c, last + 1, step))
    items.append(f"{c:x}={c + single[c]:x}" if last == c else
                 f"{c:x}-{last:x}/{step}" + ("+" if single[c] > 0 else "-") + f"{abs(single[c]):x}")
lines("lower", items)

canon = {c: nfd(chr(c)) for c in CPS if c not in HANGUL and nfd(chr(c)) != chr(c)}
lines("canon", (f"{c:x}={codes(d)}" for c, d in canon.items()))
compat = {c: nfkd(chr(c)) for c in CPS if c not in HANGUL and nfkd(chr(c)) != nfd(chr(c))}
lines("compat", (f"{c:x}={codes(d)}" for c, d in compat.items()))
pairs = []
for c, d in canon.items():
    if len(d) < 2 or nfc(chr(c)) != chr(c):
        continue
    first = nfc(d[:-1])
    assert len(first) == 1 and nfc(first + d[-1]) == chr(c), hex(c)
    pairs.append(f"{ord(first):x},{ord(d[-1]):x}={c:x}")
lines("compose", pairs)

# What the tables above must explain.
for c in CPS:
    assert c in HANGUL or nfkc(nfkd(chr(c))) == nfkc(chr(c)), hex(c)
    assert clean(chr(c)) in ("", " ", chr(c)), hex(c)
