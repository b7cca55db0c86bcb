"""The tokenizers, checked against Hugging Face's `tokenizers` (golden files: reference/make_tokenizer.py)."""
import hashlib
import io
import json
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from mini.data.text import tokenizers
from mini.data.text.corpus import read_text
from mini.data.text.tokenizers import (BYTE_TO_CHAR, END_OF_TEXT, BPETokenizer, CharTokenizer,
                                       load_tokenizer, merge, split_words)
from mini.utils.progress import Progress
from tests.helpers import refused

REFERENCE = Path(__file__).parent / "reference"
GOLDEN = json.loads((REFERENCE / "tokenizer.json").read_text("utf-8"))
TEXTS = [text for text, _, _ in GOLDEN["texts"]]


@pytest.fixture(scope="module")
def bpe():
    return BPETokenizer.read(REFERENCE / "bpe")


@pytest.fixture
def folder(tmp_path):
    """A copy of the reference tokenizer, to be broken."""
    return Path(shutil.copytree(REFERENCE / "bpe", tmp_path / "bpe"))


def random_text(rng: random.Random, n: int) -> str:
    """n characters: a third from all of Unicode (but for the surrogates), the others from its beginning."""
    codes = [rng.choice([rng.randrange(0x110000 - 0x800), rng.randrange(0x3000), rng.randrange(0x100)])
             for _ in range(n)]
    return "".join(chr(c if c < 0xd800 else c + 0x800) for c in codes)


# ---- against the library

def test_words_are_those_of_the_library():
    for text, lengths, _ in GOLDEN["texts"]:
        words = split_words(text)
        assert "".join(words) == text
        assert [len(word) for word in words] == lengths, (text, words)


def test_numbers_are_those_of_the_library(bpe):
    assert len(TEXTS) >= 200 and bpe.vocab_size == 600
    for text, _, ids in GOLDEN["texts"]:
        assert bpe.encode(text) == ids, text
        assert bpe.decode(ids) == text
        assert b"".join(bpe.token_bytes(i) for i in ids) == text.encode()


@pytest.mark.parametrize("golden", GOLDEN["trainings"], ids=lambda golden: golden["source"])
def test_training_learns_the_merges_of_the_library_in_the_same_order(golden):
    text = "\n".join(TEXTS) if golden["source"] == "texts" else read_text("tales")
    text = text[:golden["characters"]]
    assert hashlib.sha256(text.encode()).hexdigest() == golden["sha256"], \
        "not the text that the library learnt from: run tests/reference/make_tokenizer.py again"
    ours = BPETokenizer.train(text, golden["vocab_size"])
    assert [" ".join(pair) for pair in ours.merges] == golden["merges"]
    assert ours.vocab_size == golden["vocab_size"] == 256 + len(golden["merges"])


# ---- BPE

def test_numbers_are_the_bytes_and_then_the_merges_in_order(bpe):
    ours = BPETokenizer.train("the thin thing, the other thing", 270)
    tokens = sorted(ours.vocab, key=ours.vocab.get)
    assert list(ours.vocab.values()) == list(range(len(tokens)))
    assert tokens[256:] == ["".join(pair) for pair in ours.merges] and len(ours.merges) > 5
    assert tokens[:256] == sorted(bpe.vocab, key=bpe.vocab.get)[:256] == sorted(BYTE_TO_CHAR.values())


def test_training_stops_when_no_pair_occurs_twice():
    assert BPETokenizer.train("abab", 300).merges == [("a", "b")]       # then one pair is left, once
    assert BPETokenizer.train("abcd", 300).vocab_size == 256
    assert BPETokenizer.train("", 300).vocab_size == 256
    assert BPETokenizer.train("ab ab", 300).merges == [("a", "b")]      # never across two words


def test_merges_overlap_as_in_the_library():
    """In a run of one letter the pairs overlap; they are merged from the left, and the rest is counted."""
    tokenizer = BPETokenizer.train("aaaa", 300)     # a·a stands there three times; then aa·aa, only once
    assert tokenizer.merges == [("a", "a")]
    assert [len(tokenizer.encode("a" * n)) for n in range(6)] == [0, 1, 1, 2, 2, 3]


def plain_training(text: str, n_merges: int) -> list:
    """Count all pairs afresh before each merge, and go through all words to merge."""
    words = Counter(tuple(BYTE_TO_CHAR[b] for b in word.encode()) for word in split_words(text))
    number = {c: i for i, c in enumerate(sorted(BYTE_TO_CHAR.values()))}
    merges = []
    for n in range(n_merges):
        pairs = Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += times
        best = min(pairs, key=lambda p: (-pairs[p], number[p[0]], number[p[1]]), default=None)
        if best is None or pairs[best] < 2:
            break
        merges.append(best)
        number["".join(best)] = 256 + n
        words = Counter({tuple(merge(list(word), best, "".join(best))): times for word, times in words.items()})
    return merges


def test_training_and_long_words_are_as_by_the_plain_way():
    """Few letters and few spaces: words in which pairs overlap, come and go."""
    rng = random.Random(0)
    for letters in ("a", "ab", "ab ", "abc", "abcd ", "é河a"):
        for n in (3, 30, 300, 600):
            text = "".join(rng.choices(letters, k=n))
            ours = BPETokenizer.train(text, 290)
            assert ours.merges == plain_training(text, 34)
            ids = ours.encode(text)
            assert ours.decode(ids) == text
            short = [i for word in split_words(text) for i in plainly(ours, word)]
            assert ids == short


def plainly(tokenizer, word: str) -> list:
    """The tokens of a word, merge by merge in the order in which they were learnt."""
    parts = [BYTE_TO_CHAR[b] for b in word.encode()]
    for pair in tokenizer.merges:
        parts = merge(parts, pair, "".join(pair))
    return [tokenizer.vocab[part] for part in parts]


def test_a_text_without_spaces_takes_seconds():
    """36 s of training, and as long for encoding, in silence, when each merge went through the whole text."""
    text = "".join(random.Random(0).choices("ACGT", k=20_000))
    before = time.process_time()
    tokenizer = BPETokenizer.train(text, 1024)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert time.process_time() - before < 3         # 0.5 s; the plain way takes 13


def test_long_training_says_how_far_it_is(capsys, monkeypatch):
    monkeypatch.setattr(tokenizers, "Progress", lambda *args, **options: Progress(*args, seconds=0.0))
    BPETokenizer.train("the thin thing, the other thing", 260)
    assert capsys.readouterr().out == "".join(f"    BPE: tokens learnt: {n} of 4\n" for n in (1, 2, 3))


def test_the_earliest_merge_comes_first_wherever_it_stands():
    vocab = {c: i for i, c in enumerate(sorted(BYTE_TO_CHAR.values()))}
    merges = [("c", "d"), ("b", "c"), ("a", "b"), ("ab", "cd")]
    vocab.update({a + b: 256 + i for i, (a, b) in enumerate(merges)})
    assert BPETokenizer(vocab, merges).encode("abcd") == [259]
    assert BPETokenizer(vocab, merges).encode("abcabc") == [vocab["a"], 257, vocab["a"], 257]


def test_vocab_size_below_the_bytes_is_refused():
    refused(lambda: BPETokenizer.train("some text", 255), "--vocab_size=255", "256")
    tokenizer = BPETokenizer.train("some text, some text", 256)
    assert tokenizer.merges == [] and len(tokenizer.encode("été")) == 5


def test_any_text_comes_back(bpe):
    text = random_text(random.Random(1), 20_000)
    ours = BPETokenizer.train(text, 300)
    for tokenizer in (bpe, ours):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.encode(text) == ids                                # now from the cache
    assert len(ours.encode(text)) < len(bpe.encode(text)) < len(text.encode())


def test_the_caller_may_change_what_it_was_given(bpe):
    ids = bpe.encode("ferry")
    ids.append(0)
    assert bpe.encode("ferry") == ids[:-1]


def test_a_character_spread_over_tokens(bpe):
    """A token may be a part of a character: alone it is no UTF-8 and becomes U+FFFD."""
    ids = bpe.encode("\U0001f600")
    assert [bpe.token_bytes(i) for i in ids] == [b"\xf0", b"\x9f", b"\x98", b"\x80"]
    assert bpe.decode(ids) == "\U0001f600" and bpe.decode(ids[:3]) == bpe.decode(ids[3:]) == "\ufffd"


def test_end_of_text(bpe):
    the = bpe.encode("the")
    assert bpe.end == 599 and bpe.start == END_OF_TEXT
    assert bpe.encode(f"the{END_OF_TEXT}the{END_OF_TEXT}") == [*the, 599, *the, 599]
    assert bpe.token_bytes(599) == b"<|endoftext|>" and bpe.decode([599, *the]) == "<|endoftext|>the"
    assert 599 not in bpe.encode("<|endoftext|") + bpe.encode("<|ENDOFTEXT|>")
    ours = BPETokenizer.train("the thing\n", 300)                   # has no such token: it spells it out
    assert ours.end is None and ours.start == "\n" and len(ours.encode(ours.start)) == 1
    assert ours.encode(END_OF_TEXT) == [i for c in END_OF_TEXT for i in ours.encode(c)]
    assert ours.decode(ours.encode(END_OF_TEXT)) == END_OF_TEXT


def test_numbers_beyond_the_vocabulary_are_written_as_nothing(bpe):
    """A model's embedding is often padded to a round number of rows."""
    assert bpe.token_bytes(600) == b"" and bpe.decode([600, *bpe.encode("the"), 639]) == "the"


def test_what_is_no_text_is_refused(bpe):
    """Python hands bytes of the command line that are no UTF-8 on as lone surrogates."""
    refused(lambda: bpe.encode("caf\udce9"))


# ---- the files

@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_missing_files(folder, name):
    (folder / name).unlink()
    refused(lambda: BPETokenizer.read(folder), folder / name, "no such file")


def test_missing_folder(tmp_path):
    refused(lambda: BPETokenizer.read(tmp_path / "gone"), tmp_path / "gone" / "vocab.json")


def test_truncated_vocab(folder):
    whole = (folder / "vocab.json").read_bytes()
    end = whole.rindex(b"}")
    for n in [*range(0, end, 97), end - 1, end]:
        (folder / "vocab.json").write_bytes(whole[:n])
        refused(lambda: BPETokenizer.read(folder), folder / "vocab.json")
    (folder / "vocab.json").write_bytes(whole[:end + 1])        # the line feed at the end may be missing
    assert BPETokenizer.read(folder).vocab_size == 600


def test_truncated_merges(folder):
    """Fewer merges would still encode every text, but not as the model learnt it."""
    whole = (folder / "merges.txt").read_bytes()
    lines = [n + 1 for n, byte in enumerate(whole[:-1]) if byte == ord("\n")]
    for n in [*range(0, len(whole) - 1, 29), *lines[::25], len(whole) - 2]:
        (folder / "merges.txt").write_bytes(whole[:n])
        refused(lambda: BPETokenizer.read(folder), folder / "merges.txt")


def test_end_of_merges(folder, bpe):
    """The last line feed may be missing, and the lines may end as on Windows."""
    whole = (folder / "merges.txt").read_bytes()
    for content in (whole.rstrip(b"\n"), whole.replace(b"\n", b"\r\n"), whole.split(b"\n", 1)[1]):
        (folder / "merges.txt").write_bytes(content)
        assert BPETokenizer.read(folder).merges == bpe.merges and len(bpe.merges) == 343


@pytest.mark.parametrize("content", [
    "#version: 0.2\nth e x\n", "#version: 0.2\nthe\n", "#version: 0.2\nĠ t\n<html>\n", "#version: 0.2\nq q\n",
    "#version: 0.2\nt h\nthe r e\n"], ids=repr)
def test_wrong_merges(folder, content):
    (folder / "merges.txt").write_text(content, "utf-8")
    refused(lambda: BPETokenizer.read(folder), folder / "merges.txt")


@pytest.mark.parametrize("content", [
    "", "{}", "[]", "null", "17", "{", "<html>", '{"a": "b"}', '{"a": null}', '{"a": {"b": 1}}', '["a", "b"]',
    '{"model": {"vocab": {"a": 1}}}',
    pytest.param("[" * 100_000, id="nested")])
def test_wrong_vocab(folder, content):
    (folder / "vocab.json").write_text(content, "utf-8")
    refused(lambda: BPETokenizer.read(folder), folder / "vocab.json")


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_files_that_are_no_utf8(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes() + b"\xff\n")
    refused(lambda: BPETokenizer.read(folder), folder / name)


def test_special_tokens_of_a_vocab_are_not_made_by_merges(folder, bpe):
    """[PAD] once was "merges.txt: truncated"."""
    vocab = json.loads((folder / "vocab.json").read_text("utf-8"))
    special = ["[PAD]", "<pad>", "<my token>", "[é]"]
    more = {token: len(vocab) + n for n, token in enumerate(special)}
    (folder / "vocab.json").write_text(json.dumps(vocab | more), "utf-8")
    tokenizer = BPETokenizer.read(folder)
    assert tokenizer.encode("the [PAD]") == bpe.encode("the [PAD]")
    assert tokenizer.decode(more.values()) == "".join(special)
    (folder / "vocab.json").write_text(json.dumps(vocab | {"PAD": len(vocab)}), "utf-8")
    refused(lambda: BPETokenizer.read(folder), folder / "merges.txt", "'PAD'", "special token")


@pytest.mark.parametrize("token", ["Ā", "Ġthe", "he", "z"])
def test_a_vocab_that_lacks_a_token(folder, token):
    """A byte or a merged token without a number: the two files do not belong together."""
    vocab = json.loads((folder / "vocab.json").read_text("utf-8"))
    del vocab[token]
    (folder / "vocab.json").write_text(json.dumps(vocab), "utf-8")
    refused(lambda: BPETokenizer.read(folder), folder / "vocab.json", folder / "merges.txt", repr(token))


# ---- characters

def test_characters_come_back():
    text = random_text(random.Random(2), 5_000)
    tokenizer = CharTokenizer.train(text)
    assert tokenizer.characters == "".join(sorted(set(text))) and tokenizer.vocab_size == len(set(text))
    ids = tokenizer.encode(text)
    assert len(ids) == len(text) and tokenizer.decode(ids) == text
    assert {*ids} == {*range(tokenizer.vocab_size)}
    assert b"".join(tokenizer.token_bytes(i) for i in ids) == text.encode()
    assert CharTokenizer.train("banana").encode("nab") == [2, 0, 1]
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""


def test_characters_never_seen_are_named():
    tokenizer = CharTokenizer.train("abc\n")
    refused(lambda: tokenizer.encode("abz"), "'z'")
    refused(lambda: tokenizer.encode("zayxa"), "'xyz'")                 # each of them once, the others not
    refused(lambda: CharTokenizer.train("abc").encode("a\nb"), r"'\n'")  # on one line
    refused(lambda: tokenizer.encode("caf\udce9"), r"f\udce9'")         # printable even so
    assert len(refused(lambda: tokenizer.encode(random_text(random.Random(3), 999)))) < 500


def test_where_a_text_without_prompt_begins():
    assert CharTokenizer.train("b\n\ta").start == "\n" and CharTokenizer.train("ba").start == "a"


# ---- in a checkpoint

@pytest.mark.parametrize("kind", ["char", "bpe", "gpt2"])
def test_state_survives_a_checkpoint(kind, bpe):
    text = "".join(TEXTS)
    tokenizer = {"char": lambda: CharTokenizer.train(text), "bpe": lambda: BPETokenizer.train(text, 320),
                 "gpt2": lambda: bpe}[kind]()
    file = io.BytesIO()
    torch.save(tokenizer.state(), file)
    file.seek(0)
    again = load_tokenizer(torch.load(file, weights_only=True))
    assert type(again) is type(tokenizer) and again.state() == tokenizer.state()
    assert (again.vocab_size, again.start) == (tokenizer.vocab_size, tokenizer.start)
    assert again.encode(text) == tokenizer.encode(text) and again.decode(again.encode(text)) == text


def test_state_of_another_kind():
    state = {"kind": "sentencepiece", "characters": "ab", "vocab": {"a": 0}, "merges": []}
    refused(lambda: load_tokenizer(state), "'sentencepiece'", "char, bpe")
