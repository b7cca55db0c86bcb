"""Sentences of a small world, by a grammar: "mara has two red lamps", "call tom at four zero one".

Some pairs of neighbouring words are held back (HELD_BACK): no sentence to learn from has one. So it
can be measured whether a recogniser hears words, or has learnt phrases by heart.
"""
import random

from mini.data.speech import phonemes

DIGITS = "zero one two three four five six seven eight nine".split()
COLOURS = "red green blue black white brown yellow".split()
NAMES = "mara tom lena ben nora paul vera sam jane hugo".split()
VERBS = "has sees wants finds sells likes".split()
THINGS = "lamp dog book boat key shoe bird chair".split()
SIZES = "old new small big".split()
COUNTS = DIGITS[2:]                                             # zero lamps are none
WORDS = list(phonemes.WORDS)

# A sentence with one of these pairs of neighbours is never learnt from. Each word has many others
# beside it there.
HELD_BACK = {
    ("red", "lamp"), ("red", "lamps"), ("blue", "dog"), ("blue", "dogs"), ("green", "key"),
    ("green", "keys"), ("white", "shoe"), ("white", "shoes"), ("mara", "sees"), ("tom", "has"),
    ("lena", "wants"), ("paul", "likes"), ("hugo", "finds"), ("seven", "black"), ("two", "brown"),
    ("nine", "yellow"), ("call", "jane"), ("call", "ben"), ("old", "boat"), ("new", "chair"),
    ("one", "five"), ("four", "nine"), ("eight", "three"), ("six", "six"), ("zero", "two"),
}


def write_sentence(rng: random.Random) -> list:
    """The words of a sentence; or some words in any order, a single one perhaps: without those, a
    recogniser hears a whole sentence wherever somebody says a word."""
    kind = rng.random()
    if kind < 0.35:                                             # mara has seven red lamps
        thing = rng.choice(THINGS) + "s"
        return [rng.choice(NAMES), rng.choice(VERBS), rng.choice(COUNTS), rng.choice(COLOURS),
                thing]
    if kind < 0.47:                                             # call tom at four zero one
        digits = [rng.choice(DIGITS) for _ in range(rng.randint(2, 3))]
        return ["call", rng.choice(NAMES), "at", *digits]
    if kind < 0.59:                                             # where is the small boat
        return ["where", "is", "the", rng.choice(SIZES + COLOURS), rng.choice(THINGS)]
    if kind < 0.69:                                             # the old key is not white
        end = [rng.choice(COLOURS)] if rng.random() < 0.5 else ["not", rng.choice(COLOURS)]
        return ["the", rng.choice(SIZES), rng.choice(THINGS), "is", *end]
    if kind < 0.76:                                             # call nora and sam
        first, second = rng.sample(NAMES, 2)
        return ["call", first, "and", second]
    return [rng.choice(WORDS) for _ in range(rng.choice([1, 1, 2, 3, 4]))]


def has_held_back(words: list) -> bool:
    return any(pair in HELD_BACK for pair in zip(words, words[1:]))


def write_sentences(n: int, seed: int, unseen: bool = False) -> list:
    """n sentences as lists of words: none with a pair of HELD_BACK, or (unseen) each with one."""
    rng = random.Random(seed)
    sentences = []
    while len(sentences) < n:
        words = write_sentence(rng)
        if has_held_back(words) == unseen:
            sentences.append(words)
    return sentences
