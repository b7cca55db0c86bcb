"""How a language is spaced, learnt from its sentences: what stands between two words or marks.

A network writes words and marks. To make a sentence of them, one must know that "?" follows a space
in French, none in English; that "l'" is tied to the next word and "mok'" is not; whether a sentence
begins with a capital. The sentences to learn from tell it.
"""
import re
import unicodedata
from collections import Counter, defaultdict

# A word, with the apostrophe of l'homme at the end of the l, or a mark.
WORD_OR_MARK = re.compile(r"\w+(?:-\w+)*'?|[^\w\s]")


def plain(text: str) -> str:
    """The text as words are found in it: é as one character, one kind of apostrophe."""
    return unicodedata.normalize("NFC", text).replace("’", "'")


def style_of(sentences) -> dict:
    """{"capital": do most sentences begin with one, "curly": are most apostrophes so, "form": "NFC"
    or "NFD", the one in which most sentences with accents are}."""
    capital = 0                             # for, minus against
    curly = 0
    apart = 0
    for text in sentences:
        capital += text[:1].isupper() - text[:1].islower()
        curly += text.count("’") - text.count("'")
        composed = unicodedata.is_normalized("NFC", text)
        decomposed = unicodedata.is_normalized("NFD", text)
        apart += decomposed - composed
    return {"capital": capital > 0, "curly": curly > 0, "form": "NFD" if apart > 0 else "NFC"}


def keys(words: list) -> list:
    """The words as they are looked up: without capitals, as the first word of a sentence has one;
    and each straight quotation mark told apart, as the first opens and the next closes."""
    n = 0
    found = []
    for word in words:
        key = word.lower()
        if word == '"':
            n += 1
            key = '" opens' if n % 2 else '" closes'
        found.append(key)
    return found


class Spacing:
    """What stands between two words: mostly what is usual for one of them, and for some pairs
    something else."""

    def __init__(self, before: dict, after: dict, pairs: dict, style: dict):
        self.before = before        # {mark: what usually stands before it}, if that is not a space
        self.after = after          # {mark: what usually stands behind it}, and of words like l'
        self.pairs = pairs          # {(word, next word): what stands between, against this rule}
        self.style = style          # of whole sentences: see `style_of`

    @classmethod
    def of(cls, sentences):
        """Learn it from sentences."""
        before = defaultdict(Counter)
        after = defaultdict(Counter)
        pairs = defaultdict(Counter)
        for text in map(plain, sentences):
            found = list(WORD_OR_MARK.finditer(text))
            words = keys([match[0] for match in found])
            for i in range(len(found) - 1):
                left, right = words[i], words[i + 1]
                between = text[found[i].end():found[i + 1].start()]
                pairs[left, right][between] += 1
                if not left[-1].isalnum():
                    after[left][between] += 1
                if not right[0].isalnum():
                    before[right][between] += 1
        spacing = cls(not_spaces(before), not_spaces(after), {}, style_of(sentences))
        for (left, right), count in pairs.items():
            between = count.most_common(1)[0][0]
            if between != spacing.between(left, right):
                spacing.pairs[left, right] = between
        return spacing

    def between(self, left: str, right: str) -> str:
        """What stands between two words: nothing, if one of them is usually tied to its neighbour;
        or what is usual for one of them, as the narrow space before a French "?"; or a space."""
        if (left, right) in self.pairs:
            return self.pairs[left, right]
        usual = {self.after.get(left, " "), self.before.get(right, " ")} - {" "}
        return min(usual, default=" ")      # "" is the smallest

    def join(self, words: list) -> str:
        """The words as a sentence."""
        key = keys(words)
        text = "".join(words[:1])
        for i in range(1, len(words)):
            text += self.between(key[i - 1], key[i]) + words[i]
        if self.style["capital"]:
            text = text[:1].upper() + text[1:]
        if self.style["curly"]:
            text = text.replace("'", "’")
        return unicodedata.normalize(self.style["form"], text)

    def state(self) -> dict:
        """For a checkpoint: Spacing(**state) is the same again."""
        return vars(self)


def not_spaces(counts: dict) -> dict:
    """{word: the most frequent of what was counted for it}, unless that is a space."""
    usual = {word: count.most_common(1)[0][0] for word, count in counts.items()}
    return {word: between for word, between in usual.items() if between != " "}
