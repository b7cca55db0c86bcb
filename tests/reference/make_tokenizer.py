"""Golden outputs of byte-level BPE, made with the package tokenizers 0.23.3 (Hugging Face; Rust; Apache 2.0).

    pip install tokenizers==0.23.3
    python tests/reference/make_tokenizer.py

Writes, beside this file:
  bpe/vocab.json, bpe/merges.txt
      a BPE of 600 tokens, trained on our tales, in the layout of GPT-2's files, <|endoftext|> last
  tokenizer.json
      texts: [text, words, ids], where `words` are the lengths, in characters, of the words that the library's
      ByteLevel pre-tokenizer (GPT-2's pattern) cuts the text into; `ids`, the token numbers by the BPE above
      trainings: what the library's BpeTrainer learns from `source`, which is 'tales' (the first `characters`
      of them) or 'texts' (those above, joined by line feeds): the merges in order; the SHA-256 of the text

The random mixtures, and so the ids, are the same on every run. Every character has been in the same class
(letter, number, other) since Unicode 3.2, so that Python's tables, which grow, agree with the library's.
"""
import hashlib
import json
import random
import sys
import unicodedata
from pathlib import Path

import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from mini.data.text.corpus import read_text  # noqa: E402

VERSION, END_OF_TEXT = "0.23.3", "<|endoftext|>"
PIECES = 65  # of random mixtures

SINGLE = [chr(i) for i in range(128)]  # the bytes that are a text by themselves
BLANKS = [f" {c}the !{c}!{c}" for c in (  # white space, and what only looks like it
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u180e\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
    "\u2008\u2009\u200a\u200b\u200c\u200d\u2028\u2029\u202f\u205f\u2060\u3000\ufeff")]
LATIN = ["".join(chr(i) for i in range(a, a + 32)) for a in range(0, 256, 32)]

PROSE = [
    "Hello world", "The ferry crossed the river twice before breakfast.", " the well was deep",
    "once upon a time", "She said nothing; he said \"Nothing!\" and left.",
    "An old man, a mule, and forty eggs: that was all.", "THE END", "a", "I", "  the",
]
EMOJI = [
    "\U0001f600", "hi \U0001f600!", "\U0001f600\U0001f601 \U0001f602", "\U0001f44b\U0001f3fd wave",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 family", "\U0001f3f3\ufe0f\u200d\U0001f308",
    "\U0001f1eb\U0001f1f7\U0001f1e9\U0001f1ea flags", "1\ufe0f\u20e3 #\ufe0f\u20e3", "\u2764\ufe0f \u2764",
    "\U0001f469\U0001f3fe\u200d\U0001f52c",
]
SCRIPTS = [
    "\u6211\u4f86\u6cb3\u908a\u3002", "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8",
    "\ud55c\uad6d\uc5b4 \ubb38\uc7a5", "\u3000\u5168\u89d2\u3000\u7a7a\u767d",
    "\uff28\uff45\uff4c\uff4c\uff4f\u3000\uff11\uff12\uff13", "\U00020000\U00020001",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u0627\u0644\u0652\u062d\u064e\u0645\u0652\u062f\u064f", "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0967\u0968\u0969", "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440", "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5",
    "\U0001d400\U0001d401 \U0001d7d8\U0001d7d9", "\u01c5 \u02b0",
]
ACCENTS = [
    "caf\u00e9 cafe\u0301", "na\u00efve nai\u0308ve", "\u00c5ngstr\u00f6m A\u030angstro\u0308m",
    " \u00e9t\u00e9", " e\u0301te\u0301", "\u1ec7 e\u0323\u0302 e\u0302\u0323", "\u0301a", " \u0301the",
    "\u00dfe", "\u0130i\u0307\u0131", "\ufb01ne \u2168",
]
SPACES = [
    " ", "  ", "   ", "a b", "a  b", "a   b", "a \tb", "a\t b", "\t\tif x:", "a\nb", "a\n\nb", "a\n\n\n  b",
    "a \n b", "a\r\nb\r\n", "the ", "the  ", "the\n", "the \n", "  the  old   man    said", "\n the",
    "\n\n the\n", "    \n    the\n\n", "a\u00a0b", "a\u00a0\u00a0b", "the\u00a0 old", "the \u00a0old",
    "\u00a0", " \u00a0 ", "a\u1680b\u2003c\u2009d\u202fe\u205ff",
    "\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a the", "a\u0085b", "\u0085\u0085 a",
    "a\u000b\u000cb \u000b the", "a\x1cb", "a \x1c the", "\x1c\x1d\x1e\x1f", " \x1f the",
    "\x1f\x1f\n\x1e the", "a\u200bb", " \u200b the", "\u200b\u200b ", "\ufeffthe", " \ufeff the",
    "a\u2028b\u2029c", "\u2028 the", " \u2029", "a\u180eb", " \u180e the", "\u2060 the", "\x00 \x00the",
    "\x7f the", "x\u00ad\u200cy\u200d", "\u3000 the", "the\u3000",
]
CONTRACTIONS = [
    "it's we'll they've I'm you're he'd don't", "IT'S WE'LL THEY'VE I'M YOU'RE HE'D DON'T", "It'S We'Ll",
    "''s", "'''ll", "'s", "'", "'sail", " 'tis 'twas", "the dogs' 'ouse", "x'sy'tz", "'ve'll's'd'm're't",
    "'r 'l 'v 'e", "it\u2019s we\u2019ll", "'S'LL'", "'\u00e9'd\u00e9", "'s's 's  's", "!'s", "1's 2's",
    "\n's",
]
DIGITS = [
    "1234567890", "3.14159", "1,000,000", "the 40 eggs", "a1b2", "1st 2nd", "\u2160\u2161\u2162 \u2167th",
    "x\u00b2+y\u00b3=z\u2074", "\u00bd \u00be\u2153", "\u0660\u0661\u0662 \u06f1\u06f2", "\u0969\u0968",
    "\u2460\u2461 \u2488", "\u4e00\u4e8c\u4e09", "\uff11\uff12a", " \u00b2the", "5\u00bdin", "\u3007\u3021",
    "\u2080\u2081",
]
SIGNS = [
    "...", "?!?!", "-----", "=====", "\"'\"'", "a-b_c", "(a) [b] {c}", "$5 5% #5 &amp;",
    "\u2014the\u2014old\u2014", "\u00ab the \u00bb", "\u20ac5 \u00a35", "^_^ <3 :-)", "a.b.c", "hello,world",
    " , the", "\u2026 \u2030", "\\n\\t", "~~~ ```py", "[^ab] \\]-[ a-z ]]", "aaaaaaaaaaaa", "  --  ",
    "\u221e\u2260\u2264", "_the_", "@the #old",
]
CODE = [
    "def f(x):\n    return x ** 2  # square\n", "for (int i = 0; i < n; ++i) {\n\ta[i] += 1;\n}",
    "if x==1:\n        y='a'", "https://example.org/a-b?q=1&r=%20#top", "mail@example.org", "C:\\Users\\the",
    "<p class=\"old\">the</p>", "SELECT * FROM t;", "{\"a\": [1, 2.5e-3, null]}", "\x1b[31mred\x1b[0m",
]
SPECIAL = [
    END_OF_TEXT, "the" + END_OF_TEXT + "the", " " + END_OF_TEXT + " the", END_OF_TEXT * 2,
    "\n" + END_OF_TEXT + "\n", "<|endoftext|", "<|END|>", "the  " + END_OF_TEXT, "<" + END_OF_TEXT + ">",
]


def kind(category: str) -> str:
    return category[0] if category[0] in "LN" else "other"


def texts() -> list:
    fixed = ["", *SINGLE, *LATIN, *PROSE, *EMOJI, *SCRIPTS, *ACCENTS, *SPACES, *BLANKS, *CONTRACTIONS,
             *DIGITS, *SIGNS, *CODE, *SPECIAL]
    rng = random.Random(2016)
    bits = [c for text in EMOJI + SCRIPTS + ACCENTS + SPACES + DIGITS + LATIN for c in text]
    bits += 40 * [" "] + 10 * ["\n"] + 4 * ["the", "old", "and", "ing", "said", " the", " and", "'s", "'ll"]
    bits += 4 * ["'", "1", "23", "I", "A", ".", ","]
    mixed = ["".join(rng.choices(bits, k=rng.randint(3, 24))) for _ in range(PIECES)]
    out = list(dict.fromkeys(fixed + mixed))
    for c in set("".join(out)):
        assert kind(unicodedata.category(c)) == kind(unicodedata.ucd_3_2_0.category(c)), f"U+{ord(c):04X}"
    return out


def byte_level(model) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def train(text: str, vocab_size: int) -> dict:
    """{"vocab": {token: number}, "merges": [[left, right], …]} that the library's trainer learns."""
    tokenizer = byte_level(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, min_frequency=2, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([text], trainer)
    return json.loads(tokenizer.to_str())["model"]


def main():
    assert tokenizers.__version__ == VERSION, f"made with tokenizers {VERSION}, not {tokenizers.__version__}"
    tales = read_text("tales")

    (HERE / "bpe").mkdir(exist_ok=True)
    learnt = train(tales, 599)
    vocab = {**learnt["vocab"], END_OF_TEXT: len(learnt["vocab"])}
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in learnt["merges"])]
    (HERE / "bpe/vocab.json").write_text(json.dumps(vocab, separators=(",", ":")) + "\n", "ascii")
    (HERE / "bpe/merges.txt").write_text("\n".join(lines) + "\n", "utf-8")

    tokenizer = byte_level(models.BPE.from_file(str(HERE / "bpe/vocab.json"), str(HERE / "bpe/merges.txt")))
    tokenizer.add_special_tokens([END_OF_TEXT])
    golden = []
    for text in texts():
        words = [b - a for _, (a, b) in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
        golden.append([text, words, tokenizer.encode(text, add_special_tokens=False).ids])
    trainings = []
    for source, text, vocab_size in (("tales", tales[:60_000], 400), ("texts", "\n".join(texts()), 600)):
        merges = [" ".join(pair) for pair in train(text, vocab_size)["merges"]]
        trainings.append({"source": source, "characters": len(text), "vocab_size": vocab_size,
                          "sha256": hashlib.sha256(text.encode()).hexdigest(), "merges": merges})
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in golden)
    tail = json.dumps(trainings, separators=(",", ":"))
    (HERE / "tokenizer.json").write_text(
        f'{{"made_with":"tokenizers {VERSION}","texts":[\n{rows}\n],\n"trainings":{tail}}}\n', "ascii")
    files = [HERE / "bpe/vocab.json", HERE / "bpe/merges.txt", HERE / "tokenizer.json"]
    print(f"{len(golden)} texts, {len(vocab)} tokens, {sum(file.stat().st_size for file in files)} bytes")


if __name__ == "__main__":
    main()
