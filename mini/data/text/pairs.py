"""English–French sentences: written on the spot by a small grammar (grammar.py), or read from a
file; and their words as numbers.

    load_pairs              (training pairs, held-out pairs) of what --data names
    make_vocabularies       the words of both languages
    encode_pairs            pairs of sentences as tensors of word numbers

For the grammar there are two held-out sets: new sentences, and new combinations of words. A share
of all pairs of a noun and a verb or adjective, chosen by a hash, is held out from training: see
`combination`.
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


def begin_small(word: str) -> str:
    """The word with a small first letter."""
    return word[:1].lower() + word[1:]


class Vocabulary:
    """Words and their numbers. The first word of a sentence counts as it is written elsewhere: the,
    not The.

    The first three numbers are not words: PAD fills up a batch, BOS and EOS begin and end a
    sentence.
    """
    PAD, BOS, EOS = range(3)

    def __init__(self, words: list, spacing: Spacing | None = None):
        self.spacing = spacing      # how a sentence is spaced; None: as the grammar spaces French
        self.words = ["<pad>", "<bos>", "<eos>", *words]
        self.index = {word: i for i, word in enumerate(words, 3)}

    def __len__(self):
        return len(self.words)

    @classmethod
    def of(cls, sentences, size: int):
        """The most frequent words of the sentences, `size` at most."""
        count = Counter()                   # {word: how often it occurs}
        count_first = Counter()             # the same, of words that begin a sentence
        for sentence in sentences:
            words = split(sentence)
            count_first.update(words[:1])
            count.update(words[1:])
        for word, n in count_first.items():
            small = begin_small(word)
            usual = word if count[word] > count[small] else small       # Paul keeps its capital
            count[usual] += n
        most_frequent_first = sorted(count, key=lambda word: (-count[word], word))
        return cls(most_frequent_first[:size])

    def split(self, sentence: str) -> list:
        """The words of a sentence, the first one with a small letter if it is known so."""
        words = split(sentence)
        if words and begin_small(words[0]) in self.index:
            words[0] = begin_small(words[0])
        return words

    def numbers(self, sentence: str) -> list:
        """The numbers of a sentence's words, None for an unknown word, and then EOS."""
        return [self.index.get(word) for word in self.split(sentence)] + [self.EOS]

    def encode(self, sentence: str, longest: int) -> list:
        """The same, but raises UserError for unknown words, naming them, for no word, or for more
        than `longest`."""
        words = self.split(sentence)
        unknown = [word for word in words if word not in self.index]
        require(words, f"{sentence!r}: there is no word in it")
        require(not unknown,
                f"the model has never seen {', '.join(map(repr, unknown[:8]))}: it knows the "
                f"{len(self.index)} words of its training data")
        require(len(words) <= longest,
                f"{sentence[:60]!r} …: {len(words)} words and marks, but the model has positions "
                f"for {longest} (--max_len, when it is trained)")
        return self.numbers(sentence)

    def spell(self, ids) -> list:
        """The words of some numbers."""
        return [self.words[i] for i in ids if i not in (self.PAD, self.BOS, self.EOS)]

    def write(self, words: list) -> str:
        """The words as a sentence."""
        if self.spacing:
            return self.spacing.join(words)
        return join(words)

    def decode(self, ids) -> str:
        """The sentence of some numbers."""
        return self.write(self.spell(ids))


def learn_spacing(sentences: list):
    """The Spacing of some sentences; None if they are spaced as the grammar spaces its French."""
    if all(join(split(text)) == text for text in sentences):
        return None
    return Spacing.of(sentences)


def make_vocabularies(pairs: list, size: int) -> list:
    """[Vocabulary of the source, Vocabulary of the target] of pairs of sentences: the most frequent
    words, `size` of them at most, and how the target is spaced."""
    sources, targets = zip(*pairs)
    source_words = Vocabulary.of(sources, size)
    target_words = Vocabulary.of(targets, size)
    target_words.spacing = learn_spacing(targets)
    return [source_words, target_words]


def save_vocabularies(words: list) -> dict:
    """What a checkpoint keeps of both vocabularies."""
    spacing = words[1].spacing
    return {
        "words": [vocabulary.words[3:] for vocabulary in words],
        "spacing": spacing.state() if spacing else None,
    }


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
    """(x (N, S), y (N, T), pairs): the word numbers by two Vocabularies, and the pairs as they
    stand in the file. y begins with BOS; both end with EOS. Pairs with an unknown word, or with
    more than max_len words, are left out. Raises UserError if none remains."""
    source_words, target_words = words
    x = []
    y = []
    kept = []
    for source, target in pairs:
        source_ids = source_words.numbers(source)
        target_ids = target_words.numbers(target)
        is_known = None not in source_ids and None not in target_ids
        n_words = max(len(source_ids), len(target_ids)) - 1         # without EOS
        if is_known and n_words <= max_len:
            x.append(source_ids)
            y.append([Vocabulary.BOS, *target_ids])
            kept.append((source, target))
    require(kept, f"of {len(pairs)} pairs of sentences none consists of known words, at most "
            f"{max_len} of them: bring more pairs, or raise --vocab_size or --max_len")
    return fill_up(x), fill_up(y), kept


def to_score(cfg, held_out: dict) -> dict:
    """Of each held-out set {name: pairs} as many pairs as metrics.n_to_score says."""
    longest = max(len(pairs) for pairs in held_out.values())
    n = n_to_score(cfg, longest, "held-out sentences of each set")
    return {name: pairs[:n] for name, pairs in held_out.items()}


def baselines(words, x, y, x_test, n: int = 20000) -> dict:
    """Translations of x_test (N, S) without a network: {"copying": the source itself, "word by
    word": for each word the word that goes with it most often in the first n pairs of x and y}."""
    source_words, target_words = words
    pairs = []
    for source_ids, target_ids in zip(x[:n].tolist(), y[:n].tolist()):
        pairs.append((source_words.spell(source_ids), target_words.spell(target_ids)))
    dictionary = word_by_word(pairs)                    # {source word: target word}

    copies = []
    translations = []
    for ids in x_test.tolist():
        source = source_words.spell(ids)
        target = [dictionary.get(word, word) for word in source]
        copies.append(target_words.write(source))
        translations.append(target_words.write(target))
    return {"copying": copies, "word by word": translations}


def read_sentences(text: str) -> list:
    """The sentence that --text gives, or those of the file that it names, line by line."""
    lines = read_file(text).split("\n") if os.path.isfile(text) else [text]
    lines = [line.strip() for line in lines if line.strip()]
    require(lines, f"--text={text}: there is no sentence in it")
    return lines


# ---- the pairs that the grammar writes

@lru_cache(maxsize=None)
def combination(noun: str, word: str) -> bool:
    """Is this noun with this verb or adjective (in English) held out from training? One of RARE
    combinations is, by a hash, the same in every run. No training sentence has both words, wherever
    they stand."""
    return zlib.crc32(f"{noun} {word}".encode()) % RARE == 0


def write_pairs(n: int, seed: int = 0):
    """(n training pairs, {"sentences": …, "combinations": …}): pairs (English, French) by the
    grammar.

    The held-out pairs consist of words that occur in training, but no whole English or French
    sentence of them does. In "combinations", a verb or adjective goes with a noun with which it
    never occurs in training; in "sentences" there is no such pair. Raises UserError if n is too
    small for all words to occur.
    """
    require(n >= 1000, f"--n_pairs={n}: below 1000 some words would hardly ever come")
    grammar = Grammar(seed)
    seen = set()                            # all sentences that are taken, English and French

    def draw():
        """(a pair of two new sentences, has it both words of a held-out combination?)"""
        pair = grammar.sentence()
        while seen.intersection(pair):
            pair = grammar.sentence()
        is_held_out = any(combination(noun, word)
                          for noun in grammar.nouns for word in grammar.words)
        return pair, is_held_out

    training = []
    progress = Progress("pairs of sentences written:", n)
    while len(training) < n:
        pair, is_held_out = draw()
        if not is_held_out:
            training.append(pair)
            seen.update(pair)
            progress.add()

    english, french = zip(*training)
    english_words = Vocabulary.of(english, size=10**9)      # so large that it is all words
    french_words = Vocabulary.of(french, size=10**9)
    held_out = {"sentences": [], "combinations": []}
    while any(len(pairs) < HELD_OUT for pairs in held_out.values()):
        pair, is_held_out = draw()
        # Both words of a held-out combination may stand in a sentence without belonging together:
        # the adjective may be that of another noun. Such a sentence is of neither set.
        belong_together = any(combination(noun, word) for noun, word in grammar.links)
        if is_held_out and not belong_together:
            continue
        name = "combinations" if is_held_out else "sentences"
        if len(held_out[name]) == HELD_OUT:
            continue
        numbers = english_words.numbers(pair[0]) + french_words.numbers(pair[1])
        if None not in numbers:
            held_out[name].append(pair)
            seen.update(pair)
    return training, held_out


# ---- the pairs in a file

# How the two columns may be called in a file's first line.
SIDES = set("source target src tgt sentence translation text sentence1 sentence2 input output "
            "en fr de es it pt nl eng fra deu spa ita por nld rus jpn cmn "
            "english french german spanish italian portuguese dutch russian japanese chinese "
            "latin esperanto français deutsch español italiano".split())


def read_pairs(path):
    """The pairs of a file as Tatoeba and Anki write them: lines of English, a tab, French, and
    perhaps a tab and an attribution, which is ignored.

    Empty lines, numbers of sentences and a header are left out (see tables.py); of pairs with the
    same English, only the first is used. Raises UserError, naming file and line, for a wrong number
    of columns, or an empty sentence.
    """
    rows = without_ids(read_rows(path), 2, path)
    rows = without_header(rows, [SIDES, SIDES], path)
    width = len(rows[0][1]) if rows else 0
    pairs = {}                              # {English: French}
    for number, columns in rows:
        place = f"{path}, line {number}"
        require(2 <= len(columns) <= 3, f"{place}: {len(columns)} column(s); a line must be "
                "English, a tab, French, and perhaps a tab and an attribution")
        require(len(columns) == width, f"{place}: {len(columns)} columns, but {width} above; "
                "is there a tab inside a sentence, or one missing?")
        english, french = columns[:2]
        require(english and french, f"{place}: one of the two sentences is empty")
        pairs.setdefault(english, french)
    require(len(pairs) > 1, f"{path}: there are not two pairs of sentences in it")
    n_repeated = len(rows) - len(pairs)
    if n_repeated > 0:
        note(path, f"lines whose English stands above already are left out: {n_repeated:,}")
    return list(pairs.items())


def load_pairs(source: str, n: int):
    """(training pairs, {name: held-out pairs}) of what --data names: 'grammar' (n pairs to learn
    from), 'en-fr', or a file, of which a tenth is held out, at most HELD_OUT. Raises UserError as
    read_pairs."""
    if source == "grammar":
        return write_pairs(n)
    path = _unpacked() if source == "en-fr" else Path(source)
    require_file(path, f"--data={source}: no such file (by name there are: grammar, en-fr)")
    pairs = read_pairs(path)
    order = np.random.RandomState(0).permutation(len(pairs))
    pairs = [pairs[i] for i in order]
    a_tenth = max(1, len(pairs) // 10)
    cut = min(HELD_OUT, a_tenth)
    return pairs[cut:], {"sentences": pairs[:cut]}


def _unpacked() -> Path:
    """The path data/fra.txt, unpacked from data/fra-eng.zip if needed: Tatoeba's pairs as offered
    for Anki. Their number grows every few months, so there is no fixed checksum to compare a
    download with."""
    path = FOLDER / "fra.txt"
    if path.exists():
        return path
    archive = FOLDER / "fra-eng.zip"
    require_file(archive, "en-fr changes too often to be checked, so it is not downloaded: fetch "
                 f"https://www.manythings.org/anki/fra-eng.zip and put it at {archive}")
    try:
        with zipfile.ZipFile(archive) as file:
            file.extract("fra.txt", FOLDER)
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"{archive}: no zip file with fra.txt in it ({error}); fetch it "
                        "again") from None
    return path
