"""How a language puts words and marks together to a sentence; learnt from sentences."""
import re
import unicodedata
from collections import Counter, defaultdict

WORD_OR_MARK = r"\w+(?:-\w+)*'?|[^\w\s]"        # the apostrophe of l'homme belongs to the l


def normal(text: str) -> str:
    """The text with é as one character, and with one kind of apostrophe."""
    return unicodedata.normalize("NFC", text).replace("’", "'").strip()


class Spacing:
    """What stands between two words, and whether sentences begin with a capital letter.

    French has l'homme and "tu vas ?", other languages have mok' tar and "vo?". So for each word it
    is counted what comes after it and before it: nothing, a space, or a narrow space.
    """

    def __init__(self, after: dict, before: dict, capital: bool):
        self.after = after          # {word: {what comes after it: in which share of the cases}}
        self.before = before        # the same for what comes before it
        self.capital = capital

    @classmethod
    def of(cls, sentences):
        """The Spacing of these sentences."""
        after = defaultdict(Counter)
        before = defaultdict(Counter)
        capitals = Counter()
        for text in map(normal, sentences):
            capitals[text[:1].isupper()] += text[:1].isalpha()
            found = list(re.finditer(WORD_OR_MARK, text))
            for left, right in zip(found, found[1:]):
                between = text[left.end():right.start()]
                after[left[0].lower()][between] += 1
                before[right[0].lower()][between] += 1
        return cls(shares(after), shares(before), capitals[True] > capitals[False])

    def join(self, words: list) -> str:
        """The words as a sentence. Between two of them stands what is most usual for both."""
        text = ""
        for left, right in zip(["", *words], words):
            votes = Counter(self.after.get(left.lower(), {}))
            votes.update(self.before.get(right.lower(), {}))
            between = max(votes, key=lambda space: votes[space]) if votes else " "
            text += (between if left else "") + right
        return text[:1].upper() + text[1:] if self.capital else text

    def state(self) -> dict:
        """Plain data, for a checkpoint: Spacing(**state) is the same again."""
        return {"after": self.after, "before": self.before, "capital": self.capital}


def shares(counts: dict) -> dict:
    """{word: {what: share}} of {word: {what: count}}."""
    result = {}
    for word, count in counts.items():
        total = sum(count.values())
        result[word] = {what: n / total for what, n in count.items()}
    return result
