"""Makes golden.jsonl.gz: texts and their ids by Hugging Face's tokenizers, over many tokenizers.

    pip install tokenizers==0.23.3
    python make_golden.py                                        # the committed file
    python make_golden.py --seed 7 --lines 200000 --out /tmp/g.jsonl.gz
    AKIDB_GOLDEN=/tmp/g.jsonl.gz go test -run TestGoldenFile ..  # a differential run over other texts
    python make_golden.py --codepoints --out /tmp/c.jsonl.gz     # every code point, alone and between letters;
                                                                 # minutes, 6 GB of memory

The first line lists the tokenizers as {"name", "json"}: the json is a tokenizer.json whose vocabulary is given
short, as "minilm" (that of minilm.json.gz, the unchanged tokenizer.json of all-MiniLM-L6-v2) or as {"chars"}:
ids 0-4 are [PAD] [UNK] [CLS] [SEP] [MASK], then every character, then every character with the prefix.
Such a vocabulary shows every difference in normalizing and cutting, where MiniLM's would often say [UNK].
The other lines are {"t": text, "i": [ids or null for every tokenizer]}.
"""
import argparse
import gzip
import json
import pathlib

import tokenizers
from golden_text import SENTENCES, EMOJI, SPECIALS, Texts

HERE = pathlib.Path(__file__).parent
FIRST = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def bert(clean=True, chinese=True, accents=None, lower=True):
    return {"type": "BertNormalizer", "clean_text": clean, "handle_chinese_chars": chinese, "strip_accents": accents, "lowercase": lower}


def sequence(*steps):
    return {"type": "Sequence", "normalizers": [s if isinstance(s, dict) else {"type": s} for s in steps]}


def cut(*steps):
    return {"type": "Sequence", "pretokenizers": [s if isinstance(s, dict) else {"type": s} for s in steps]}


def token(id, content, special=False, **flags):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": special, **flags}


FLAGGED = [
    dict(content="[E1]", normalized=True), dict(content="[E1]x"), dict(content="[E2]", lstrip=True, rstrip=True),
    dict(content="E3", single_word=True), dict(content="CAFÉ", normalized=True), dict(content="abc", single_word=True, normalized=True),
    dict(content="abcd", lstrip=True, normalized=True), dict(content="<a>", rstrip=True, special=True), dict(content="—", lstrip=True),
    dict(content="…", normalized=True, rstrip=True, single_word=True), dict(content="\t", lstrip=True, rstrip=True),
    dict(content="  ", rstrip=True), dict(content="\u3000", lstrip=True), dict(content="E3 ", rstrip=True, lstrip=True, normalized=True),
]
PAIR = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
PUNCT = {"type": "Punctuation", "behavior": "Isolated"}


def added(vocab):
    """FLAGGED with the ids that the library gives them: the vocabulary's, else counted on from its size."""
    tokens, size = [], len(vocab)
    for f in FLAGGED:
        known = f["content"] in vocab
        tokens.append(token(vocab[f["content"]] if known else size, **f))
        size += not known
    return tokens


def variants(minilm):
    """name, parts, how many of its texts a tokenizer is run over: one in so many."""
    def chars(normalizer, pre={"type": "BertPreTokenizer"}, post=PAIR, prefix="##", most=100, flagged=False):
        return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": "flagged" if flagged else None,
                "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": post, "decoder": None,
                "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": prefix,
                          "max_input_chars_per_word": most, "vocab": "chars"}}

    real = {k: v for k, v in minilm.items() if k not in ("padding", "truncation")} | {"padding": None, "truncation": None}
    real["model"] = real["model"] | {"vocab": "minilm"}
    flagged = json.loads(json.dumps(real))
    flagged["added_tokens"] += added(minilm["model"]["vocab"])
    cased = json.loads(json.dumps(real))
    cased["normalizer"]["lowercase"] = False
    cased["model"]["max_input_chars_per_word"] = 10
    return [
        ("minilm", real, 1), ("minilm-flagged", flagged, 4), ("minilm-cased", cased, 8), ("uncased", chars(bert()), 4),
        ("cased", chars(bert(lower=False)), 8), ("lower-accents", chars(bert(accents=False), prefix="@@"), 8),
        ("cased-stripped", chars(bert(accents=True, lower=False), prefix=""), 8),
        ("uncleaned", chars(bert(clean=False, chinese=False)), 8), ("flagged", chars(bert(accents=False), flagged=True), 8),
        ("nfkc", chars(sequence("NFKC", "Lowercase", {"type": "Replace", "pattern": {"String": "''"}, "content": '"'},
                                {"type": "Strip", "strip_left": True, "strip_right": True}), cut("WhitespaceSplit", PUNCT)), 8),
        ("nfc", chars({"type": "NFC"}, {"type": "Whitespace"}, post=None, most=10), 8),
        ("nfd", chars(sequence("NFD", "StripAccents", {"type": "Strip", "strip_left": False, "strip_right": True}),
                      {"type": "Punctuation", "behavior": "Contiguous"}, flagged=True), 8),
        ("nfkd", chars(sequence("NFKD", "Lowercase", {"type": "Replace", "pattern": {"String": "#"}, "content": ""}), None), 8),
        ("plain", chars(None, {"type": "Punctuation", "behavior": "Removed"}), 8),
    ]


def vocabulary(parts, minilm, alphabet):
    if parts["model"]["vocab"] == "minilm":
        return minilm["model"]["vocab"]
    prefix = parts["model"]["continuing_subword_prefix"]
    tokens = FIRST + list(alphabet) + ([prefix + c for c in alphabet] if prefix else [])
    return {t: i for i, t in enumerate(tokens)}


def build(parts, vocab):
    return tokenizers.Tokenizer.from_str(json.dumps({**parts, "model": {**parts["model"], "vocab": vocab}}))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--lines", type=int, default=10500)
    ap.add_argument("--out", default=HERE / "golden.jsonl.gz")
    ap.add_argument("--codepoints", action="store_true")
    args = ap.parse_args()

    minilm = json.loads(gzip.open(HERE / "minilm.json.gz").read())
    if args.codepoints:
        texts = [t for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF for t in (chr(c), f"a{chr(c)}b")]
    else:
        supply = Texts(args.seed, minilm["model"]["vocab"])
        texts = SENTENCES + EMOJI + SPECIALS + ["", " ", "\x00", "a" * 5000, "é" * 3000, "[SEP]" * 50]
        texts = [t for t in texts] + [next(supply) for _ in range(args.lines - len(texts))]

    rows = [[] for _ in texts]
    out, errors = [], 0
    for n, (name, parts, every) in enumerate(variants(minilm)):
        every = 1 if args.codepoints else every
        mine = [i for i in range(len(texts)) if i % every == n % every or i < 120]
        alphabet = ""
        if parts["model"]["vocab"] == "chars":
            normalizer = build({**parts, "added_tokens": [], "post_processor": None}, {"[UNK]": 0}).normalizer
            alphabet = "".join(sorted({c for i in mine for c in (normalizer.normalize_str(texts[i]) if normalizer else texts[i])}))
        vocab = vocabulary(parts, minilm, alphabet)
        if alphabet:
            flagged = parts["added_tokens"] == "flagged"
            parts["added_tokens"] = [token(i, t, special=True) for i, t in enumerate(FIRST)] + (added(vocab) if flagged else [])
            parts["model"]["vocab"] = {"chars": alphabet}
        tok = build(parts, vocab)
        for i in range(len(texts)):
            rows[i].append(None)
        for i in mine:
            try:
                rows[i][n] = tok.encode(texts[i]).ids
            except BaseException as e:  # a Rust panic is no Exception
                if not type(e).__name__ == "PanicException":
                    raise
                errors += 1
        out.append({"name": name, "json": parts})
    with gzip.GzipFile(args.out, "wb", compresslevel=9, mtime=0) as f:
        def line(v):
            f.write(json.dumps(v, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        line({"tokenizers": tokenizers.__version__, "seed": args.seed, "variants": out})
        for t, ids in zip(texts, rows):
            line({"t": t, "i": ids})
    print(f"{len(texts)} texts, {sum(i is not None for r in rows for i in r)} encodings, {errors} panics of the library")


if __name__ == "__main__":
    main()
