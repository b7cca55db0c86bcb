"""Text to numbers and back: one token per character, or byte-level BPE, GPT-2's or one trained on the spot.

Byte-level BPE (Radford et al. 2019; BPE: Sennrich et al. 2016): a fixed pattern cuts the text into words, each
word is written as its UTF-8 bytes, and pairs of neighbours are merged, in the order in which the merges were
learnt. Every text can be encoded, since the 256 bytes are tokens themselves. In `vocab.json` and `merges.txt`
each byte is written as one printable character (`BYTE_TO_CHAR`).
"""
import heapq
import json
import re
import string
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

from mini.data.text.neighbours import Neighbours, PairCounts
from mini.utils.config import UserError, require, require_file
from mini.utils.progress import Progress
from mini.utils.run import stand_in


class CharTokenizer:
    """One token per character of the training text, in order of code point."""

    def __init__(self, characters: str):
        self.characters = characters
        self.index = {c: i for i, c in enumerate(characters)}
        self.vocab_size = len(characters)
        self.start = "\n" if "\n" in self.index else characters[:1]     # a text without a prompt begins here

    @classmethod
    def train(cls, text: str):
        return cls("".join(sorted(set(text))))

    def encode(self, text: str) -> list:
        """Token numbers. Raises UserError, naming the characters, if some are not in the training text."""
        unknown = "".join(sorted(set(text) - set(self.index)))
        if unknown:
            raise UserError(f"the model has never seen {unknown[:20]!r}: its tokenizer knows the "
                            "characters of its training text (one trained with --tokenizer=bpe "
                            "knows all)")
        return [self.index[c] for c in text]

    def decode(self, ids) -> str:
        return "".join(self.characters[i] for i in ids)

    def token_bytes(self, i: int) -> bytes:
        """The UTF-8 bytes of one token, to print them as they come."""
        return self.characters[i].encode()

    def state(self) -> dict:
        return {"kind": "char", "characters": self.characters}

    @classmethod
    def from_state(cls, state: dict):
        return cls(state["characters"])


# Printable bytes are written as themselves; the other 68 are written as the characters from 256 on, in order.
_printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_others = [b for b in range(256) if b not in _printable]
BYTE_TO_CHAR = {**{b: chr(b) for b in _printable}, **{b: chr(256 + n) for n, b in enumerate(_others)}}
CHAR_TO_BYTE = {c: b for b, c in BYTE_TO_CHAR.items()}
END_OF_TEXT = "<|endoftext|>"  # GPT-2's only special token, between documents
LONG_WORD = 100                # a word of more bytes is encoded in another, faster way

# Unicode's White_Space; Python's own \s would add the four separators U+001C to U+001F.
SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


def split_words(text: str) -> list:
    """The text cut into GPT-2's words: contractions; letters, digits or other signs, each with at most one space
    before them; and white space, whose last space belongs to the word that follows.

    The pattern needs Unicode's classes L and N, which Python's `re` lacks, so we list those members that are in
    the text.
    """
    kinds = defaultdict(str)
    for c in sorted({*text, *string.printable}):     # so most texts share one pattern, which is compiled once
        kinds[unicodedata.category(c)[0]] += c
    L = "".join(map(re.escape, kinds["L"])) or "\ud800"  # a lone surrogate is in no text: an empty class
    N = "".join(map(re.escape, kinds["N"])) or "\ud800"
    pattern = (rf"'(?:[sdmt]|ll|ve|re)| ?[{L}]+| ?[{N}]+| ?[^{SPACE}{L}{N}]+"
               rf"|[{SPACE}]+(?![^{SPACE}])|[{SPACE}]+")
    return re.findall(pattern, text)


class BPETokenizer:
    """Byte-level BPE. `vocab`: {token: number}, `merges`: [(left, right), …], tokens written in
    BYTE_TO_CHAR."""

    def __init__(self, vocab: dict, merges: list):
        self.vocab, self.merges = vocab, [tuple(pair) for pair in merges]
        self.rank = {pair: n for n, pair in enumerate(self.merges)}
        self.tokens = {i: token for token, i in vocab.items()}
        self.vocab_size = max(self.tokens) + 1
        made = {*CHAR_TO_BYTE, *(left + right for left, right in self.merges)}
        self.special = {i for i, token in self.tokens.items() if token not in made}  # <|endoftext|>, [PAD]
        self.end = vocab.get(END_OF_TEXT)
        self.start = "\n" if self.end is None else END_OF_TEXT  # a text without a prompt begins here
        self.cache = {}

    @classmethod
    def read(cls, folder):
        """Read GPT-2's vocab.json and merges.txt from a folder. Raises UserError if missing or broken."""
        vocab, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        for path in (vocab, merges):
            require_file(path, f"{path}: no such file; GPT-2's tokenizer is vocab.json with merges.txt")
            reason = stand_in(path.read_bytes())
            require(not reason, f"{path}: {reason}")
        try:
            lines = merges.read_text("utf-8").split("\n")
            pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
            if any(len(pair) != 2 for pair in pairs):
                raise UserError(f"{merges}: a line is not two tokens")
            numbers = json.loads(vocab.read_text("utf-8"))
            check_numbers(vocab, numbers)
            tokenizer = cls(numbers, pairs)
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise UserError(f"{vocab} and {merges}: not GPT-2's tokenizer files, or truncated ones") from None
        missing = [a + b for a, b in pairs if a + b not in tokenizer.vocab]
        missing += [c for c in CHAR_TO_BYTE if c not in tokenizer.vocab]
        if missing:
            raise UserError(f"{vocab}: does not go with {merges}: no number for {missing[:1]}")
        for token, number in numbers.items():
            require(0 <= number < len(numbers),
                    f"{vocab}: the number of {token!r} is {number}, but {len(numbers)} tokens have the numbers 0 "
                    f"to {len(numbers) - 1}, each once; fetch it again")
        left = [tokenizer.tokens[i] for i in sorted(tokenizer.special)]
        left = [token for token in left if not re.fullmatch(r"<.*>|\[.*\]", token)]
        if left:
            raise UserError(f"{merges}: truncated, or of another {vocab}: it does not make {left[0]!r}, which is "
                            "not written like a special token either, <pad> or [PAD]; fetch both files again")
        return tokenizer

    @classmethod
    def train(cls, text: str, vocab_size: int):
        """Learn merges until there are vocab_size tokens, or no pair occurs twice: again and again, the most
        frequent pair of neighbours becomes a token (of equally frequent ones the pair whose tokens came first)."""
        require(vocab_size >= 256, f"--vocab_size={vocab_size}: BPE starts from the 256 bytes, so take more")
        vocab = {c: i for i, c in enumerate(sorted(CHAR_TO_BYTE))}
        counts = Counter(split_words(text))
        words = [[vocab[BYTE_TO_CHAR[b]] for b in word.encode()] for word in counts]
        pairs = PairCounts(words, list(counts.values()))
        names = list(vocab)
        merges = []
        progress = Progress("BPE: tokens learnt:", vocab_size - 256, seconds=3.0)
        while len(names) < vocab_size:
            best, count = pairs.most_frequent()
            if count < 2:
                break
            left, right = names[best[0]], names[best[1]]
            merges.append((left, right))
            names.append(left + right)
            pairs.merge(best, len(names) - 1)
            progress.add()
        return cls({name: i for i, name in enumerate(names)}, merges)

    def encode(self, text: str) -> list:
        """Token numbers; `<|endoftext|>` in the text becomes the special token, if the vocabulary has it."""
        if re.search("[\ud800-\udfff]", text):
            raise UserError(f"not valid text (UTF-8): {text[:40]!r}")
        ids = []
        for n, part in enumerate(text.split(END_OF_TEXT) if self.end is not None else [text]):
            if n:
                ids.append(self.end)
            for word in split_words(part):
                if word not in self.cache:
                    self.cache[word] = self._encode_word(word)
                ids += self.cache[word]
        return ids

    def _encode_word(self, word: str) -> list:
        parts = [BYTE_TO_CHAR[b] for b in word.encode()]
        if len(parts) > LONG_WORD:
            parts = self._merge_long(parts)
        while len(parts) > 1:
            best = min(zip(parts, parts[1:]), key=lambda pair: self.rank.get(pair, len(self.rank)))
            if best not in self.rank:
                break
            parts = merge(parts, best, "".join(best))
        return [self.vocab[part] for part in parts]

    def _merge_long(self, parts: list) -> list:
        """The same merges, quickly: a text without spaces, in Chinese or of DNA, is one long word."""
        neighbours = Neighbours([parts])
        queue = [self.rank[pair] for pair in neighbours.places if pair in self.rank]
        heapq.heapify(queue)                            # the earliest merge comes first
        while queue:
            best = self.merges[heapq.heappop(queue)]
            for pair, change, _ in neighbours.merge(best, "".join(best)):
                if change > 0 and pair in self.rank:
                    heapq.heappush(queue, self.rank[pair])
        return next(neighbours.words())

    def decode(self, ids) -> str:
        return b"".join(self.token_bytes(i) for i in ids).decode("utf-8", errors="replace")

    def token_bytes(self, i: int) -> bytes:
        """The bytes of one token, which may be a part of a character. Numbers beyond the vocabulary, which a
        model with a padded embedding has, give no bytes."""
        token = self.tokens.get(i, "")
        if i in self.special:
            return token.encode("utf-8", errors="replace")
        return bytes(CHAR_TO_BYTE[c] for c in token)

    def state(self) -> dict:
        return {"kind": "bpe", "vocab": self.vocab, "merges": [list(pair) for pair in self.merges]}

    @classmethod
    def from_state(cls, state: dict):
        return cls(state["vocab"], state["merges"])


def check_numbers(path, vocab: dict):
    """Raise UserError, naming the token, unless each token of a vocab.json has an integer of its own."""
    holders = {}                            # {number: its token}
    for token, number in vocab.items():
        require(type(number) is int, f"{path}: the number of {token!r} is {json.dumps(number)[:40]}, no integer")
        other = holders.setdefault(number, token)
        require(other == token, f"{path}: {other!r} and {token!r} have the same number, {number}")


def merge(parts: list, pair: tuple, joined) -> list:
    """parts, with each occurrence of the two neighbours `pair`, from the left, replaced by `joined`."""
    out, i = [], 0
    while i < len(parts):
        if i + 1 < len(parts) and (parts[i], parts[i + 1]) == pair:
            out.append(joined)
            i += 2
        else:
            out.append(parts[i])
            i += 1
    return out


def load_tokenizer(state: dict):
    """The tokenizer that a checkpoint holds: what its `state()` returned. Raises UserError on an
    unknown kind."""
    from mini.data.text.tokenizer_json import JSONTokenizer  # here, since it imports this file
    kinds = {"char": CharTokenizer, "bpe": BPETokenizer, "json": JSONTokenizer}
    require(state["kind"] in kinds, f"{getattr(state, 'path', 'the checkpoint')}: its tokenizer is "
                                    f"{state['kind']!r}, not one of {', '.join(kinds)}")
    return kinds[state["kind"]].from_state(state)
