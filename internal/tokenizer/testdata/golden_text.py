"""The texts of the golden file: sentences in many languages, and text drawn from Unicode ranges."""
import random

SENTENCES = """
The quick brown fox jumps over the lazy dog, doesn't it? Yes: 3.14 times (at least)!
It's 12:45 p.m. on 2024-02-29; e-mail foo.bar+baz@example.com or see https://example.com/a?b=c&d=%20#top.
Transformers produce embeddings: "state-of-the-art" sentence vectors, $19.99/month, 50% off -- really...
def main(args: list[str]) -> int: return sum(len(a) ** 2 for a in args if a != "") // 7
Größere Übungen für Fußgänger: Straße, Äpfel, öffentlich, ẞ und ß, „Anführung“ und ‚noch eine‘.
Où est l'hôtel ? Ça coûte 20 €, naïve cœur, Œuvre, garçon, déjà-vu, « guillemets ».
¿Dónde está el niño? ¡Mañana comeré piñas y pingüinos en el corazón de España!
A ação não é só coração; avó, avô, você, ímã, São Tomé e Príncipe.
Perché no? Così è più città, università e caffè all'italiana.
Hoeveel kost één geïmporteerde fiets? Zo'n 's avonds, IJsselmeer en ĳs.
Jag är från Malmö, där åker vi på ön; Ærø og Øresund på dansk, Ålesund på norsk.
Það er íslenska: þetta er æði, Ðað, Ísland og Öræfajökull.
Hyvää päivää, yötä myöten; kääntäjä söi äidin köyhän pöydän ääressä.
Õhtu jõuab, öö tuleb: jäääärne töö, šokolaad ja žurnaal.
Zażółć gęślą jaźń, Łódź i Kraków, źdźbło trawy, ŚWIĘTY spokój.
Příliš žluťoučký kůň úpěl ďábelské ódy; Řeřicha, ěščřžýáíé.
Árvíztűrő tükörfúrógép, ŐSZI ŰRHAJÓ és egyéb hőség.
Ţară şi oraş; Țară și oraș: înţelegere, mâine, Ştefan, Ștefan.
Ģimenes ķirši, ņemt, šķūnis, Īstenība; ąčęėįšųūž Lietuvių kalba.
İstanbul'da ışık ve IĞDIR; ığüşöç, İYİ AKŞAMLAR, iı İI.
Çdo njeri ka të drejtë; Ëmbëlsirë shqiptare.
Tiếng Việt rất đẹp: ắằẳẵặ ốồổỗộ ứừửữự, Đường Nguyễn Huệ ở thành phố Hồ Chí Minh.
Съешь же ещё этих мягких французских булок, да выпей чаю! Ёлка, ЙОГУРТ.
Щастя, здоров'я, ґанок, Їжак і є; Україна переможе.
Љубазни фењерџија чађавог лица хоће да ми покаже штос; ѓавол, ќерка.
Жълтата дюля беше щастлива, че пухът, който цъфна, замръзна като гьон.
Қазақстан Республикасы, ұлттық ән, һәм өзге; Ғылым, Ңа.
Ξεσκεπάζω τὴν ψυχοφθόρα βδελυγμία· ΟΔΥΣΣΕΥΣ Ὀδυσσεύς, ἄνδρα μοι ἔννεπε, Μοῦσα; ΐΰ.
Բոլոր մարդիկ ծնվում են ազատ ու հավասար։ Եվ՝ երեւան, և։
ყველა ადამიანი იბადება თავისუფალი; ᲥᲐᲠᲗᲣᲚᲘ, Ⴀბгд.
כל בני האדם נולדו בני חורין ושווים; שָׁלוֹם עֲלֵיכֶם, בְּרֵאשִׁית בָּרָא אֱלֹהִים.
يولد جميع الناس أحرارًا متساوين؛ السَّلَامُ عَلَيْكُمْ، ١٢٣٤٥ ﷺ ﻻ ﷲ.
تمام انسان‌ها آزاد به دنیا می‌آیند؛ گچ پژ، ۱۲۳ می‌خواهم.
تمام انسان آزاد اور حقوق و عزت کے اعتبار سے برابر پیدا ہوئے ہیں۔ ٹ ڈ ڑ ے ۓ
ܟܠܗܘܢ ܒܢܝ̈ܢܫܐ ܝܠܝܕܐ ܐܢܘܢ ܚܐܪ̈ܐ܀
ދިވެހިރާއްޖެ އަކީ ޖަޒީރާ ޤައުމެކެވެ.
सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता प्राप्त है। क़ ख़ ड़ ढ़ फ़, हिन्दी।
সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা নিয়ে জন্মগ্রহণ করে। ড় ঢ় য়, কো কৌ।
ਸਾਰਾ ਮਨੁੱਖੀ ਪਰਿਵਾਰ ਆਪਣੀ ਮਹਿਮਾ ਨਾਲ ਜਨਮ ਲੈਂਦਾ ਹੈ। ਸ਼ ਖ਼ ਗ਼
પ્રતિષ્ઠા અને અધિકારોની દૃષ્ટિએ સર્વ માનવો સ્વતંત્ર છે.
ସବୁ ମନୁଷ୍ୟ ଜନ୍ମକାଳରୁ ସ୍ୱାଧୀନ। ଡ଼ ଢ଼
மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்; கொ கோ கௌ ஸ்ரீ.
ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరు సమానులుగా ఉన్నారు.
ಎಲ್ಲಾ ಮಾನವರೂ ಸ್ವತಂತ್ರರಾಗಿಯೇ ಜನಿಸಿದ್ದಾರೆ; ಕೊ ಕೋ ಕೀ.
മനുഷ്യരെല്ലാവരും തുല്യാവകാശങ്ങളോടും കൂടി ജനിച്ചവരാണ്. ൻ ർ ൽ ൾ ൿ
සියලු මනුෂ්‍යයෝ නිදහස්ව උපත ලබා ඇත. ශ්‍රී ලංකා
มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกัน ที่น้ำ กี่ ปู่ฎูฏุ
ມະນຸດທຸກຄົນເກີດມາມີກຽດສັກສີ ນ້ຳ ຳ
လူတိုင်းသည် တူညီလွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် မွေးဖွားလာသူများဖြစ်သည်။
មនុស្សទាំងអស់ កើតមកមានសេរីភាព និងសមភាព។
འགྲོ་བ་མིའི་རིགས་རྒྱུད་ཡོངས་ལ་སྐྱེས་ཙམ་ཉིད་ནས་ཆེ་མཐོངས། ཀྵ གྷ
ሰው ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው።
ᎾᏂᎥ ᎨᏒ ᏴᏫ ᏂᏙᎨᎢ; ᏣᎳᎩ ꭰꭱꭲ.
ᐃᓅᔪᓕᒫᑦ ᐊᓂᖅᑎᕆᔪᑦ; ᓄᓇᕗᑦ.
ᚠᛇᚻ᛫ᛒᛦᚦ᛫ᚠᚱᚩᚠᚢᚱ᛫ᚠᛁᚱᚪ᛫ᚷᛖᚻᚹᛦᛚᚳᚢᛗ
ᠬᠦᠮᠦᠨ ᠪᠦᠷ ᠲᠥᠷᠥᠵᠦ ᠮᠡᠨᠳᠡᠯᠡᠬᠦ᠂
人人生而自由，在尊严和权利上一律平等。北京大学2024年“你好”《红楼梦》——测试……
人人生而自由，在尊嚴和權利上一律平等。臺灣龍鳳，﨑塚樂樂𠮷𪚥。
すべての人間は、生まれながらにして自由であり、「尊厳」と権利がある。ガギグゲゴ がぎぐげご ｶﾞｷﾞ ヴ ゞ ー。
모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 각 갂 힣 ㄱㄴㄷ
ꆈꌠꉙ ꊿꂷꃅꄿꐨ; ꀀꀁ.
ߡߐ߱ ߓߍ߯ ߘߌ߫ ߢߊ߬ߣߊ߫ ߦߊ߲ߕߌ
ⵉⵎⴷⴰⵏⴻⵏ ⴰⴽⴽⵯ ⵜⵍⴰⵍⴻⵏ; ⲛⲓⲣⲱⲙⲓ ⲧⲏⲣⲟⲩ; Ⰰⰱⰲ Ꙁꙁ Ꙗ.
Ẹni kọ̀ọ̀kan ló bí ní òmìnira; Ṣé ó wà? Ɓala ƙasa ɗan ƴa. Ŋɔɔ Ɛʋɛ.
ka ʻōlelo Hawaiʻi, āēīōū; Māori whānau; Malti: Ħobż, ġbejna, żejt, ċavetta.
𝐌𝐚𝐭𝐡 𝒷ℴ𝓁𝒹 ＦＵＬＬ ｗｉｄｔｈ ① ⅷ Ⅷ ½ ²³ ﬁ ﬂ ﬃ ㎏ ㍿ ™ ℃ Å Ω K ℵ ⒶⓐⓏⓩ.
∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β = ¬(¬α ∨ β), ∑√∞≠≤≥±×÷ → ⇒ ↦.
𐐀𐐁𐐨 𐓀𐓨 𞤀𞤢 𐌰𐌱 𐎀𐎁 𐏈 𒀀𒀁 𓀀𓀁 𑀅𑀆 𑂮𑂹 𐤀𐤁 𐡀 𐰀 𑄃𑄴 𑜀 𖹀𖹠 𐲀𐳀 𑢠𑣀.
""".strip().splitlines()

SCRIPTS = {
    "latin1": [(0xA0, 0xFF)], "latin_a": [(0x100, 0x24F)], "ipa": [(0x250, 0x2FF)], "marks": [(0x300, 0x36F)],
    "greek": [(0x370, 0x3FF), (0x1F00, 0x1FFF)], "cyrillic": [(0x400, 0x52F)], "armenian": [(0x531, 0x58F)],
    "hebrew": [(0x591, 0x5F4), (0xFB1D, 0xFB4F)], "arabic": [(0x600, 0x6FF), (0x750, 0x77F), (0x8A0, 0x8FF)],
    "syriac": [(0x700, 0x74F)], "thaana": [(0x780, 0x7B1)], "nko": [(0x7C0, 0x7FA)], "samaritan": [(0x800, 0x83E)],
    "devanagari": [(0x900, 0x97F), (0xA8E0, 0xA8FF)], "bengali": [(0x980, 0x9FF)], "gurmukhi": [(0xA00, 0xA7F)],
    "gujarati": [(0xA80, 0xAFF)], "oriya": [(0xB00, 0xB7F)], "tamil": [(0xB80, 0xBFF)], "telugu": [(0xC00, 0xC7F)],
    "kannada": [(0xC80, 0xCFF)], "malayalam": [(0xD00, 0xD7F)], "sinhala": [(0xD80, 0xDFF)], "thai": [(0xE00, 0xE5B)],
    "lao": [(0xE80, 0xEDF)], "tibetan": [(0xF00, 0xFDA)], "myanmar": [(0x1000, 0x109F)],
    "georgian": [(0x10A0, 0x10FF), (0x1C90, 0x1CBF)], "jamo": [(0x1100, 0x11FF), (0xA960, 0xA97C), (0xD7B0, 0xD7FB)],
    "ethiopic": [(0x1200, 0x139F)], "cherokee": [(0x13A0, 0x13FF), (0xAB70, 0xABBF)], "canadian": [(0x1400, 0x167F)],
    "ogham_runic": [(0x1680, 0x16F8)], "philippine": [(0x1700, 0x1773)], "khmer": [(0x1780, 0x17F9)],
    "mongolian": [(0x1800, 0x18AA)], "limbu_tai": [(0x1900, 0x19DF)], "buginese": [(0x1A00, 0x1AAD)],
    "balinese": [(0x1B00, 0x1B7C)], "sundanese": [(0x1B80, 0x1BFF)], "lepcha_olchiki": [(0x1C00, 0x1C88)],
    "vedic": [(0x1CD0, 0x1CFA)], "phonetic": [(0x1D00, 0x1DFF)], "latin_more": [(0x1E00, 0x1EFF)],
    "punctuation": [(0x2000, 0x206F)], "superscript": [(0x2070, 0x209C)], "currency": [(0x20A0, 0x20F0)],
    "letterlike": [(0x2100, 0x218B)], "symbols": [(0x2190, 0x2BFF)], "glagolitic": [(0x2C00, 0x2C5F)],
    "latin_c": [(0x2C60, 0x2C7F)], "coptic": [(0x2C80, 0x2CFF)], "tifinagh": [(0x2D30, 0x2D7F)],
    "cyrillic_more": [(0x2DE0, 0x2DFF), (0xA640, 0xA69F), (0x1C80, 0x1C8A)], "punct_more": [(0x2E00, 0x2E5D)],
    "radicals": [(0x2E80, 0x2FD5)], "cjk_punct": [(0x3000, 0x303F)], "kana": [(0x3041, 0x30FF), (0x31F0, 0x31FF)],
    "bopomofo": [(0x3105, 0x318E)], "enclosed": [(0x3200, 0x33FF)], "cjk": [(0x4E00, 0x9FFF)], "cjk_a": [(0x3400, 0x4DBF)],
    "yi": [(0xA000, 0xA4C6)], "lisu_vai": [(0xA4D0, 0xA62B)], "latin_d": [(0xA720, 0xA7FF)], "syloti": [(0xA800, 0xA877)],
    "saurashtra": [(0xA880, 0xA8D9)], "javanese": [(0xA980, 0xA9DF)], "cham": [(0xAA00, 0xAADF)],
    "meetei": [(0xAAE0, 0xAAF6), (0xABC0, 0xABF9)], "hangul": [(0xAC00, 0xD7A3)], "compat_cjk": [(0xF900, 0xFAD9)],
    "presentation": [(0xFB00, 0xFDFF), (0xFE00, 0xFEFF)], "fullwidth": [(0xFF01, 0xFFEE)], "specials": [(0xFFF0, 0xFFFF)],
    "old": [(0x10000, 0x103FF)], "deseret": [(0x10400, 0x104FB)], "semitic": [(0x10800, 0x10FFF)],
    "brahmic": [(0x11000, 0x11FFF)], "cuneiform": [(0x12000, 0x12543)], "hieroglyphs": [(0x13000, 0x13455)],
    "african": [(0x16800, 0x16FFF)], "tangut": [(0x17000, 0x18CD5)], "kana_more": [(0x1B000, 0x1B2FB)],
    "music": [(0x1D000, 0x1D24F)], "math": [(0x1D400, 0x1D7FF)], "signwriting": [(0x1D800, 0x1DAAF)],
    "glagolitic_more": [(0x1E000, 0x1E02A)], "adlam": [(0x1E900, 0x1E95F)], "arabic_math": [(0x1EE00, 0x1EEF1)],
    "emoji": [(0x1F000, 0x1FAFF)], "cjk_b": [(0x20000, 0x2A6DF)], "cjk_more": [(0x2A700, 0x323AF)],
    "compat_cjk_more": [(0x2F800, 0x2FA1D)], "tags": [(0xE0000, 0xE01EF)], "private": [(0xE000, 0xE010), (0xF0000, 0xF0010)],
    "controls": [(0x00, 0x1F), (0x7F, 0x9F)], "unassigned": [(0x378, 0x379), (0x2FE0, 0x2FEF), (0x50000, 0x50100)],
}

SPACES = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u180e\u2000\u2003\u2007\u2009\u200a\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
MARKS = ("\u0300\u0301\u0308\u0327\u0328\u0323\u031b\u0338\u0345\u0360\u0334\u05b0\u05bc\u064b\u0651\u093c\u094d\u0f71\u0f72"
         "\u302e\u302f\u3099\u309a\u20d0\u20e3\u1d165\U0001d165\U0001d16d\u0e38\u0e48\u1dc0\u1df9\u1dfa\U00016ff0\U0001e8d0\u08d3\u0c3c\u1abf")
EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "❤️", "☺", "☺️", "🇩🇪", "1️⃣", "👩🏾‍🚀", "🧑‍💻", "🫠", "🪿", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "♥︎", "©️", "🤷🏻‍♀️"]
SPECIALS = ["[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]", "[sep]", "[ SEP ]", "[SEP", "SEP]", "[[SEP]]", "[SEP][SEP]", "[MASK]s",
            "[unused0]", "[E1]", "[E1]x", "[e1]", "[E2]", "E3", "e3", "e 3", "café", "CAFÉ", "cafe\u0301", "cafe", "<a>", "<A>",
            "##ing", "##", "#", "@@ing", "abc", "ABC", "abcd", "_abc_", "abc1", "''", "—", "…", "\t", "  ", "     ", " \t \t ", "\u3000", "\u3000 \u3000"]


def draw(r, name):
    lo, hi = r.choice(SCRIPTS[name])
    return chr(r.randint(lo, hi))


def anything(r):
    while True:
        c = r.choice((r.randrange(0x80), r.randrange(0x3000), r.randrange(0x10000), r.randrange(0x20000), r.randrange(0x110000)))
        if not 0xD800 <= c <= 0xDFFF:
            return chr(c)


class Texts:
    """An endless supply of texts; the same seed and vocabulary give the same texts."""

    def __init__(self, seed, vocab):
        self.r = random.Random(seed)
        self.pieces = sorted(vocab)
        self.scripts = sorted(SCRIPTS)
        self.turn = 0

    def word(self, script, most=9):
        return "".join(draw(self.r, script) for _ in range(self.r.randint(1, most)))

    def glued(self):
        """Tokens of the vocabulary set together: words that the model must cut."""
        r = self.r
        return "".join(r.choice(self.pieces).removeprefix("##") for _ in range(r.randint(1, 5)))

    def sentence(self):
        return self.r.choice(SENTENCES)

    def cut(self):
        s = self.sentence()
        a = self.r.randrange(len(s))
        return s[a:a + self.r.randint(1, 40)]

    def mutate(self, s):
        r, s = self.r, list(s)
        for _ in range(r.randint(1, 4)):
            i = r.randrange(len(s) + 1)
            s[i:i] = r.choice((r.choice(SPACES), r.choice(MARKS), r.choice(SPECIALS), r.choice(EMOJI), anything(r),
                               draw(r, r.choice(self.scripts)), chr(r.randrange(128)), "\x00", "\ufffd", r.choice(MARKS) * 2))
        s = "".join(s)
        return r.choice((s, s, s.upper(), s.lower(), s.swapcase(), s.title()))

    def __iter__(self):
        return self

    def __next__(self):
        r = self.r
        self.turn += 1
        script = self.scripts[self.turn % len(self.scripts)]
        kind = r.randrange(16)
        if kind < 4:
            return " ".join(self.word(script) for _ in range(r.randint(1, 4)))
        if kind == 4:
            return r.choice("aZ1 ") + draw(r, script) + r.choice("bY2-") + draw(r, script) + r.choice(MARKS)
        if kind == 5:
            return self.mutate(self.cut())
        if kind == 6:
            return self.cut() + r.choice(SPACES) + self.word(script, 4)
        if kind == 7:
            return "".join(r.choice((r.choice(MARKS), anything(r), draw(r, script), chr(r.randrange(128)))) for _ in range(r.randint(1, 16)))
        if kind == 8:
            return " ".join(self.glued() for _ in range(r.randint(1, 5)))
        if kind == 9:
            return self.mutate(self.glued())
        if kind == 10:
            return "".join(r.choice((r.choice(SPACES) * r.randint(0, 3), r.choice(SPECIALS), r.choice(SPECIALS), self.word(script, 3),
                                     r.choice("aZ_1-é"))) for _ in range(r.randint(1, 8)))
        if kind == 11:
            return "".join(r.choice((r.choice(EMOJI), r.choice(SPACES), r.choice("ab.,"))) for _ in range(r.randint(1, 8)))
        if kind == 12:
            unit = r.choice((draw(r, script), r.choice("ab1.é"), self.glued()[:12] or "x"))
            return (unit * r.randint(1, 110))[:r.choice((9, 10, 11, 99, 100, 101, 120))] + r.choice(("", " x", draw(r, script)))
        if kind == 13:
            return "".join(r.choice("aAáÁeEoO") + "".join(r.choice(MARKS) for _ in range(r.randint(0, 6))) for _ in range(r.randint(1, 4)))
        if kind == 14:
            return self.mutate(" ".join(self.word(r.choice(self.scripts), 4) for _ in range(r.randint(1, 5))))
        return "".join(anything(r) for _ in range(r.randint(1, 20)))
