#!/usr/bin/env python3
"""Makes reference/: texts and the vectors that sentence-transformers gives for them with all-MiniLM-L6-v2.

Usage: make_reference.py MODEL_DIRECTORY. Needs sentence-transformers. The texts come from a seeded generator:
1,000 of 1 to 256 tokens (specials included) with log-normal lengths of mean about 80, in several languages and
scripts, and 50 longer ones, which the model cuts at its 256 tokens.

reference/texts.jsonl.gz: a line {"text": ..., "tokens": tokens of the whole text, specials included} per text.
reference/vectors.f32: 384 little-endian float32 for each text in the same order, L2-normalized.
"""

import gzip
import json
import pathlib
import sys

import numpy as np
from sentence_transformers import SentenceTransformer

HERE = pathlib.Path(__file__).resolve().parent / "reference"
TEXTS, LONG, MAX_TOKENS = 1000, 50, 256

# Sentences and words of our own, by script. Weights follow what an English model sees: most of it English.
PIECES = {
    "english": (10, """
The committee met on Tuesday to discuss the budget for the coming year, but no decision was taken.|
Our new phone has a brighter screen, a larger battery and the same disappointing camera as before.|
How do I reset my password if I no longer have access to the e-mail address of my account?|
Photosynthesis turns light, water and carbon dioxide into sugar and oxygen.|
She had never seen the sea, and now it lay before her, grey, enormous and completely indifferent.|
Shares of the company fell by 7.4% after it reported a loss of $12.9 million for the third quarter.|
To install the package, download the archive, unpack it and run the installer as an administrator.|
The defendant's appeal was dismissed with costs; see section 14(2)(b) of the Act.|
Add the onions and cook, stirring often, until they are soft and golden, about ten minutes.|
WARNING: disk /dev/sda1 is 97% full (412 GB of 425 GB used).|
A cold front will bring heavy rain and gusts of up to 90 km/h to the northern coast on Friday.|
Patients receiving the drug improved significantly compared with placebo (p < 0.01, n = 240).|
lol that movie was sooo bad, i want my 2 hours back :(|
Is there a direct train from the airport to the old town, and how much is a return ticket?"""),
    "code": (2, """
func add(a, b int) int { return a + b }|
SELECT name, COUNT(*) FROM orders WHERE total > 100 GROUP BY name ORDER BY 2 DESC;|
for (let i = 0; i < items.length; i++) { console.log(items[i].id); }|
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)|
curl -X POST https://example.com/api/v1/items -H 'Content-Type: application/json' -d '{"id": 42}'|
https://example.org/docs/index.html?page=3&sort=asc#section-2"""),
    "latin": (3, """
Der Zug nach München fährt heute wegen einer Störung von Gleis neun ab.|
Die Straßenbahn wäre größer, wenn die Brücke nicht so schmal wäre.|
La réunion a été reportée à jeudi prochain à cause de la grève des transports.|
¿Dónde está la biblioteca más cercana, y a qué hora cierra los sábados?|
O café da manhã está incluído no preço do quarto e é servido até às dez.|
Czy mógłbyś mi powiedzieć, która jest godzina? Źle się czuję.|
Hội nghị thượng đỉnh sẽ diễn ra tại Hà Nội vào tháng tới.|
İstanbul'da yağmur yağıyor, ama hava oldukça sıcak."""),
    "cyrillic": (1, """
Завтра в Москве ожидается снег и сильный ветер.|
Вона поїхала до Києва рано-вранці й повернеться в неділю."""),
    "greek": (1, """
Η θάλασσα ήταν ήρεμη και ο ουρανός γεμάτος αστέρια."""),
    "cjk": (1, """
今天天气很好，我们去公园散步吧。|
東京駅から新幹線で京都まで二時間半かかります。|
내일 아침 아홉 시에 회의가 있습니다."""),
    "rtl": (1, """
ذهب الولد إلى المدرسة في الصباح الباكر.|
המוזיאון סגור בימי שני ופתוח עד מאוחר בימי חמישי."""),
    "indic": (1, """
कल सुबह की ट्रेन दो घंटे देर से आएगी।|
วันนี้อากาศร้อนมากและไม่มีลมเลย|
আমি আগামীকাল ঢাকা যাব।"""),
    "odd": (1, """
🙂🎉 Happy birthday!!! 👩‍👩‍👧‍👦 🇳🇴|
naïve café — “quoted” … ½ ² ™ ﬁne ﬂow|
e\u0301 and é, Å and A\u030a, ＦＵＬＬ ｗｉｄｔｈ, zero\u200bwidth, soft\u00adhyphen|
Antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis xqzkjvwpt|
∑_{i=1}^{n} x_i² ≤ ‖x‖² · α, ∀x ∈ ℝⁿ|
[CLS] and [SEP] and [MASK] are only words here|
...---... !!! ??? ### $$$ 100%"""),
}


def sentences():
    out, weights = [], []
    for weight, text in PIECES.values():
        parts = [p.strip("\n") for p in text.split("|")]
        out += parts
        weights += [weight / len(parts)] * len(parts)
    w = np.array(weights)
    return out, w / w.sum()


def generate(rng, tokens, want):
    """A text of about want tokens: sentences of one or two kinds, cut after a character to fit."""
    parts, weights = sentences()
    text = ""
    while tokens(text) < want:
        s = parts[rng.choice(len(parts), p=weights)]
        if rng.random() < 0.3:
            words = s.split(" ")
            rng.shuffle(words)
            s = " ".join(words)
        text += s if not text else rng.choice([" ", " ", " ", "\n", "  ", "\t"]) + s
    low, high = 1, len(text)
    while low < high:  # shortest beginning with at least want tokens
        middle = (low + high) // 2
        low, high = (low, middle) if tokens(text[:middle]) >= want else (middle + 1, high)
    return text[:low]


def main():
    model = SentenceTransformer(sys.argv[1], device="cpu")
    assert model.max_seq_length == MAX_TOKENS, model.max_seq_length
    backend = model.tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()

    def tokens(text):
        return len(backend.encode(text).ids)

    rng = np.random.default_rng(20240601)
    texts = ["", "a", ".", "[SEP]", "中", "🙂", "\u0301", " "]
    for want in (MAX_TOKENS - 1, MAX_TOKENS, MAX_TOKENS):
        while tokens(text := generate(rng, tokens, want)) != want:
            pass
        texts.append(text)
    while len(texts) < TEXTS:
        # exp(4.24 + 0.75 z) has mean 92, and about 80 of what falls inside; the rest is drawn again.
        want = int(np.exp(rng.normal(4.24, 0.75)))
        if not 3 <= want <= MAX_TOKENS - 2:
            continue
        text = generate(rng, tokens, want)
        if tokens(text) <= MAX_TOKENS:
            texts.append(text)
    while len(texts) < TEXTS + LONG:
        texts.append(generate(rng, tokens, int(rng.integers(MAX_TOKENS + 1, 1000))))

    counts = [tokens(t) for t in texts]
    assert max(counts[:TEXTS]) <= MAX_TOKENS and min(counts[TEXTS:]) > MAX_TOKENS
    # One text at a time: no padding, so no difference by neighbours.
    vectors = np.stack([model.encode(t, batch_size=1) for t in texts]).astype("<f4")
    assert vectors.shape == (TEXTS + LONG, 384) and np.isfinite(vectors).all()

    HERE.mkdir(exist_ok=True)
    lines = "".join(json.dumps({"text": t, "tokens": n}, ensure_ascii=False) + "\n" for t, n in zip(texts, counts))
    (HERE / "texts.jsonl.gz").write_bytes(gzip.compress(lines.encode(), 9, mtime=0))
    (HERE / "vectors.f32").write_bytes(vectors.tobytes())
    short = np.array(counts[:TEXTS])
    print(f"{len(texts)} texts; tokens of the first {TEXTS}: mean {short.mean():.0f}, {short.min()} to {short.max()}")


if __name__ == "__main__":
    main()
