"""English–French sentences: written on the spot by a small grammar (grammar.py), or read from a file.

For the grammar there are two held-out sets: new sentences, and new combinations of words. A share of all pairs
of a noun and a verb or adjective, chosen by a hash, is held out from training: see `combination`.
"""
import os
import zipfile
import zlib
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from mini.data.download import FOLDER
from mini.data.text.corpus import read_file
from mini.data.text.grammar import Grammar, join
from mini.data.text.spacing import WORD_OR_MARK, Spacing, plain
from mini.data.text.tables import note, read_rows, without_header, without_ids
from mini.utils.config import UserError, require, require_file
from mini.utils.metrics import Progress, n_to_score
from mini.utils.translation_metrics import word_by_word

HELD_OUT = 1000         # sentences in each held-out set, at most
RARE = 16               # one of so many combinations is held out from training


# ---- sentences and their words
def split(text: str) -> list:
    """The words and punctuation marks of a sentence; the apostrophe of l'homme belongs to the l."""
    return WORD_OR_MARK.findall(plain(text))


class Vocabulary:
    """Words and their numbers. The first word of a sentence counts as it is written elsewhere: the, not The.

    The first three numbers are not words: PAD fills up a batch, BOS and EOS begin and end a sentence.
    """
    PAD, BOS, EOS = range(3)

    def __init__(self, words: list, spacing: Spacing | None = None):
        self.spacing = spacing      # how a sentence is spaced; None: as the grammar spaces its French
        self.words = ["<pad>", "<bos>", "<eos>", *words]
        self.index = {word: i for i, word in enumerate(words, 3)}

    def __len__(self):
        return len(self.words)

    @classmethod
    def of(cls, sentences, size: int):
        """The most frequent words of the sentences, `size` at most."""
        count, first = Counter(), Counter()
        for words in map(split, sentences):
            first.update(words[:1])
            count.update(words[1:])
        for word, n in first.items():
            small = word[:1].lower() + word[1:]
            count[word if count[word] > count[small] else small] += n
        return cls([word for word, _ in sorted(count.items(), key=lambda item: (-item[1], item[0]))[:size]])

    def _split(self, sentence: str) -> list:
        words = split(sentence)
        small = [word[:1].lower() + word[1:] for word in words[:1]]
        return small + words[1:] if small and small[0] in self.index else words

    def numbers(self, sentence: str) -> list:
        """The numbers of a sentence's words, None for an unknown word, and then EOS."""
        return [self.index.get(word) for word in self._split(sentence)] + [self.EOS]

    def encode(self, sentence: str, longest: int) -> list:
        """The same, but raises UserError for unknown words, naming them, for no word, or for more than
        `longest`."""
        words = self._split(sentence)
        unknown = [word for word in words if word not in self.index]
        require(words, f"{sentence!r}: there is no word in it")
        require(not unknown, f"the model has never seen {', '.join(map(repr, unknown[:8]))}: it knows the "
                f"{len(self.index)} words of its training data")
        require(len(words) <= longest, f"{sentence[:60]!r} …: {len(words)} words and marks, but the model "
                f"has positions for {longest} (--max_len, when it is trained)")
        return self.numbers(sentence)

    def spell(self, ids) -> list:
        """The words of some numbers."""
        return [self.words[i] for i in ids if i not in (self.PAD, self.BOS, self.EOS)]

    def write(self, words: list) -> str:
        """The words as a sentence."""
        return self.spacing.join(words) if self.spacing else join(words)

    def decode(self, ids) -> str:
        return self.write(self.spell(ids))


def learn_spacing(sentences: list):
    """The Spacing of some sentences; None if they are spaced as the grammar spaces its French."""
    if all(join(split(text)) == text for text in sentences):
        return None
    return Spacing.of(sentences)


def make_vocabularies(pairs: list, size: int) -> list:
    """[Vocabulary of the source, Vocabulary of the target] of pairs of sentences: the most frequent words, `size`
    of them at most, and how the target is spaced."""
    source, target = zip(*pairs)
    words = [Vocabulary.of(source, size), Vocabulary.of(target, size)]
    words[1].spacing = learn_spacing(target)
    return words


def save_vocabularies(words: list) -> dict:
    """What a checkpoint keeps of both vocabularies."""
    spacing = words[1].spacing
    return {"words": [vocabulary.words[3:] for vocabulary in words], "spacing": spacing.state() if spacing else None}


def load_vocabularies(checkpoint: dict) -> list:
    """Both vocabularies as save_vocabularies kept them."""
    words = [Vocabulary(known) for known in checkpoint["words"]]
    spacing = checkpoint.get("spacing")
    words[1].spacing = Spacing(**spacing) if spacing else None
    return words


def fill_up(sentences: list):
    """Lists of numbers as one tensor (N, length of the longest), filled up with PAD."""
    rows = [torch.tensor(ids) for ids in sentences]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=Vocabulary.PAD)


def encode_pairs(pairs: list, words, max_len: int):
    """(x (N, S), y (N, T), pairs): the word numbers by two Vocabularies, and the pairs as they stand in the file.
    y begins with BOS; both end with EOS. Pairs with an unknown word, or with more than max_len words, are left
    out. Raises UserError if none remains."""
    x, y, kept = [], [], []
    for pair in pairs:
        en, fr = (vocabulary.numbers(text) for vocabulary, text in zip(words, pair))
        if None not in en + fr and max(len(en), len(fr)) <= max_len + 1:
            x.append(en), y.append([Vocabulary.BOS, *fr]), kept.append(tuple(pair))
    require(kept, f"of {len(pairs)} pairs of sentences none consists of known words, at most {max_len} of "
            "them: bring more pairs, or raise --vocab_size or --max_len")
    return fill_up(x), fill_up(y), kept


def to_score(cfg, held_out: dict) -> dict:
    """Of each held-out set {name: pairs} as many pairs as metrics.n_to_score says."""
    longest = max(len(pairs) for pairs in held_out.values())
    n = n_to_score(cfg, longest, "held-out sentences of each set")
    return {name: pairs[:n] for name, pairs in held_out.items()}


def baselines(words, x, y, x_test, n: int = 20000) -> dict:
    """Translations of x_test (N, S) without a network: {"copying": the source itself, "word by word": for each
    word the word that goes with it most often in the first n pairs of x and y}."""
    pairs = [(words[0].spell(a), words[1].spell(b)) for a, b in zip(x[:n].tolist(), y[:n].tolist())]
    dictionary, lines = word_by_word(pairs), [words[0].spell(row) for row in x_test.tolist()]
    return {"copying": [words[1].write(line) for line in lines],
            "word by word": [words[1].write([dictionary.get(word, word) for word in line]) for line in lines]}


def read_sentences(text: str) -> list:
    """The sentence that --text gives, or those of the file that it names, line by line."""
    lines = read_file(text).split("\n") if os.path.isfile(text) else [text]
    lines = [line.strip() for line in lines if line.strip()]
    require(lines, f"--text={text}: there is no sentence in it")
    return lines


# ---- data sets
@lru_cache(maxsize=None)
def combination(noun: str, word: str) -> bool:
    """Is this noun with this verb or adjective (in English) held out from training? One of RARE combinations is,
    by a hash, the same in every run. No training sentence has both words, wherever they stand."""
    return zlib.crc32(f"{noun} {word}".encode()) % RARE == 0


def write_pairs(n: int, seed: int = 0):
    """(n training pairs, {"sentences": …, "combinations": …}): pairs (English, French) by the grammar.

    The held-out pairs consist of words that occur in training, but no whole English or French sentence of them
    does. In "combinations", a verb or adjective goes with a noun with which it never occurs in training; in
    "sentences" there is no such pair. Raises UserError if n is too small for all words to occur.
    """
    require(n >= 1000, f"--n_pairs={n}: below 1000 some words would hardly ever come")
    grammar, training, seen = Grammar(seed), [], set()
    progress = Progress("pairs of sentences written:", n)
    held_out = {"sentences": [], "combinations": []}

    def draw():
        while True:
            pair = grammar.sentence()
            if not seen.intersection(pair):
                return pair, any(combination(noun, word) for noun in grammar.nouns for word in grammar.words)

    while len(training) < n:
        pair, new = draw()
        if not new:
            training.append(pair)
            seen.update(pair)
            progress.add()
    vocabularies = [Vocabulary.of(side, 10**9) for side in zip(*training)]
    while any(len(pairs) < HELD_OUT for pairs in held_out.values()):
        pair, new = draw()
        name = "combinations" if new else "sentences"
        if new and not any(combination(*link) for link in grammar.links) or len(held_out[name]) == HELD_OUT:
            continue
        if not any(None in vocabulary.numbers(text) for vocabulary, text in zip(vocabularies, pair)):
            held_out[name].append(pair)
            seen.update(pair)
    return training, held_out


# How the two columns may be called in a file's first line.
SIDES = set("source target src tgt sentence translation text sentence1 sentence2 input output "
            "en fr de es it pt nl eng fra deu spa ita por nld rus jpn cmn english french german spanish italian "
            "portuguese dutch russian japanese chinese latin esperanto français deutsch español italiano".split())


def read_pairs(path):
    """The pairs of a file as Tatoeba and Anki write them: lines of English, a tab, French, and perhaps a tab and
    an attribution, which is ignored. Empty lines, numbers of sentences and a header are left out (see tables.py); of
    pairs with the same English, only the first is used. Raises UserError, naming file and line, for a wrong number
    of columns, or an empty sentence.
    """
    pairs, width = {}, None
    rows = without_header(without_ids(read_rows(path), 2, path), [SIDES, SIDES], path)
    for number, columns in rows:
        width = width or len(columns)
        require(2 <= len(columns) <= 3, f"{path}, line {number}: {len(columns)} column(s); a line must be "
                "English, a tab, French, and perhaps a tab and an attribution")
        require(len(columns) == width, f"{path}, line {number}: {len(columns)} columns, but {width} above; "
                "is there a tab inside a sentence, or one missing?")
        require(columns[0] and columns[1], f"{path}, line {number}: one of the two sentences is empty")
        pairs.setdefault(columns[0], columns[1])
    require(len(pairs) > 1, f"{path}: there are not two pairs of sentences in it")
    if len(pairs) < len(rows):
        note(path, f"lines whose English stands above already are left out: {len(rows) - len(pairs):,}")
    return list(pairs.items())


def load_pairs(source: str, n: int):
    """(training pairs, {name: held-out pairs}) of what --data names: 'grammar' (n pairs to learn from),
    'en-fr', or a file, of which a tenth is held out, at most HELD_OUT. Raises UserError as read_pairs."""
    if source == "grammar":
        return write_pairs(n)
    path = _unpacked() if source == "en-fr" else Path(source)
    require_file(path, f"--data={source}: no such file (by name there are: grammar, en-fr)")
    pairs = read_pairs(path)
    order = np.random.RandomState(0).permutation(len(pairs))
    pairs = [pairs[i] for i in order]
    cut = min(HELD_OUT, max(1, len(pairs) // 10))
    return pairs[cut:], {"sentences": pairs[:cut]}


def _unpacked() -> Path:
    """The path data/fra.txt, unpacked from data/fra-eng.zip if needed: Tatoeba's pairs as offered for Anki. Their
    number grows every few months, so there is no fixed checksum to compare a download with."""
    path, archive = FOLDER / "fra.txt", FOLDER / "fra-eng.zip"
    if not path.exists():
        require_file(archive, "en-fr changes too often to be checked, so it is not downloaded: fetch "
                f"https://www.manythings.org/anki/fra-eng.zip and put it at {archive}")
        try:
            with zipfile.ZipFile(archive) as file:
                file.extract("fra.txt", FOLDER)
        except (zipfile.BadZipFile, KeyError) as error:
            raise UserError(f"{archive}: no zip file with fra.txt in it ({error}); fetch it again") from None
    return path
