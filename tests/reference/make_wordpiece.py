"""Makes wordpiece.json and wordpiece_vocab.txt: texts, and how Hugging Face's tokenizers cut them.

Made with tokenizers 0.23.3:  python tests/reference/make_wordpiece.py

wordpiece_vocab.txt: a vocabulary trained by the library on our tales and on the texts below, with capitals and
accents; wordpiece.json: for each text its numbers by a cased and by an uncased tokenizer of that vocabulary, and the
decoded text (without clean-up).
"""
import json
import random
import unicodedata
from pathlib import Path

import tokenizers
from tokenizers import BertWordPieceTokenizer

HERE = Path(__file__).parent
TALES = sorted((HERE.parent.parent / "mini/data/text/tales").glob("*.txt"))

TEXTS = ["The ferry left at dawn.", "the cast was not [MASK]", "[CLS] Who? [SEP] Nobody.", "", "   ", "\t\n \r\n",
         "naïve café, Ærøskøbing; STRASSE straße", "Ångström São Tomé Łódź", "e\u0301 combining", "İstanbul ΟΔΟΣ",
         "don't can't he's we've", "$5.00 + 7% = ~12^2 <tag> `x` |y| _z_", "“curly” ‘quotes’ — dash … ¿que? ¡si!",
         "東京は大きい", "漢字 and words漢mixed", "한국어 텍스트", "русский Текст", "مرحبا بالعالم", "नमस्ते दुनिया",
         "zero\u200bwidth soft\u00adhyphen", "nul\x00bell\x07", "\ufffdreplacement", "a\u00a0b\u2003c\u3000d\u2028e",
         "x" * 100, "x" * 101, "aaaa" * 30 + " short", "supercalifragilistic", "un##seen ## #", "emoji 😀 here",
         "1234567890", "3rd of MAY, 1994", "[mask] [MASKED] [ MASK ]", "[MASK][MASK].", "ﬁne ﬂow Ⅷ ½ ²", "İ ẞ ǅ",
         "tail ", " head", "a-b_c/d\\e", "ÀÉÎÕÜ àéîõü", "\U00020000\U0002f800x", "line\u0085end", "q\u0327\u0301w"]


def random_text(rng):
    codes = [rng.choice([rng.randrange(32, 127), rng.randrange(0x250), rng.randrange(0x300, 0x3000),
                         rng.randrange(0x4e00, 0x4e10)]) for _ in range(30)]
    # without what Unicode's versions disagree on: characters not assigned, and new accents
    return "".join(c for c in map(chr, codes) if unicodedata.category(c) not in ("Cn", "Mn"))


rng = random.Random(0)
TEXTS += [random_text(rng) for _ in range(40)]
tales = [path.read_text("utf-8").partition("\n")[2] for path in TALES]
TEXTS += [rng.choice(tales)[i:i + 120] for i in (rng.randrange(3000) for _ in range(20))]

trained = BertWordPieceTokenizer(lowercase=False, strip_accents=False)
trained.train_from_iterator(tales + [text for text in TEXTS[:42] if "\x00" not in text], vocab_size=900,
                            show_progress=False)
tokens = [token for token, _ in sorted(trained.get_vocab().items(), key=lambda item: item[1])]
(HERE / "wordpiece_vocab.txt").write_text("".join(f"{token}\n" for token in tokens), "utf-8")

golden = {"tokenizers": tokenizers.__version__, "texts": []}
pair = [BertWordPieceTokenizer(str(HERE / "wordpiece_vocab.txt"), lowercase=lower, strip_accents=lower)
        for lower in (False, True)]
for tokenizer in pair:
    tokenizer.decoder = tokenizers.decoders.WordPiece(cleanup=False)
for text in TEXTS:
    row = {"text": text}
    for name, tokenizer in zip(("cased", "uncased"), pair):
        row[name] = tokenizer.encode(text, add_special_tokens=False).ids
        row[f"{name}_decoded"] = tokenizer.decode(row[name], skip_special_tokens=False)
    golden["texts"].append(row)
(HERE / "wordpiece.json").write_text(json.dumps(golden, ensure_ascii=True, indent=0), "utf-8")
