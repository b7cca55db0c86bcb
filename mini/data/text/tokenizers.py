"""Text to numbers and back: one token per character, or byte-level BPE, GPT-2's or one trained on
the spot.

Byte-level BPE (Radford et al. 2019; BPE: Sennrich et al. 2016):

    1. a fixed pattern cuts the text into words (`split_words`)
    2. each word is written as its UTF-8 bytes; the 256 bytes are the first tokens, so every text
       can be encoded
    3. pairs of neighbours are merged, in the order in which the merges were learnt

The merges are learnt in the same way: again and again, the most frequent pair of neighbours in the
training text becomes a token.
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
        # a text without a prompt begins with this
        self.start = "\n" if "\n" in self.index else characters[:1]

    @classmethod
    def train(cls, text: str):
        """The tokenizer of all characters in a text."""
        return cls("".join(sorted(set(text))))

    def encode(self, text: str) -> list:
        """Token numbers. Raises UserError, naming the characters, if some are not in the training
        text."""
        unknown = "".join(sorted(set(text) - set(self.index)))
        if unknown:
            raise UserError(f"the model has never seen {unknown[:20]!r}: its tokenizer knows the "
                            "characters of its training text (one trained with --tokenizer=bpe "
                            "knows all)")
        return [self.index[c] for c in text]

    def decode(self, ids) -> str:
        """The text of token numbers."""
        return "".join(self.characters[i] for i in ids)

    def token_bytes(self, i: int) -> bytes:
        """The UTF-8 bytes of one token, to print them as they come."""
        return self.characters[i].encode()

    def state(self) -> dict:
        """What a checkpoint keeps: from_state(state) is the same tokenizer again."""
        return {"kind": "char", "characters": self.characters}

    @classmethod
    def from_state(cls, state: dict):
        return cls(state["characters"])


# ---- byte-level BPE: words

# Unicode's White_Space; Python's own \s would add the four separators U+001C to U+001F.
SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


def split_words(text: str) -> list:
    """The text cut into GPT-2's words: contractions; letters, digits or other signs, each with at
    most one space before them; and white space, whose last space belongs to the word that follows.

    "It's  2 words." becomes "It", "'s", " ", " 2", " words", ".".

    The pattern needs Unicode's classes L (letters) and N (numbers), which Python's `re` lacks, so
    we list those members that are in the text.
    """
    members = defaultdict(str)                  # {class: its members in the text}
    # With all of ASCII in the list, most texts share one pattern, which is compiled once.
    for c in sorted({*text, *string.printable}):
        kind = unicodedata.category(c)[0]       # "L" of "Lu", a capital
        members[kind] += re.escape(c)
    empty_class = "\ud800"                      # a lone surrogate, which is in no text
    L = members["L"] or empty_class
    N = members["N"] or empty_class
    pattern = (
        r"'(?:[sdmt]|ll|ve|re)"                 # contractions, as in it's and we'll
        rf"| ?[{L}]+"
        rf"| ?[{N}]+"
        rf"| ?[^{SPACE}{L}{N}]+"                # other signs
        rf"|[{SPACE}]+(?![^{SPACE}])"           # white space but its last sign, if a word follows
        rf"|[{SPACE}]+"
    )
    return re.findall(pattern, text)


# ---- byte-level BPE: bytes

def byte_characters() -> dict:
    """{byte: the character that stands for it in vocab.json and merges.txt}. Printable bytes stand
    for themselves; the other 68 are written as the characters from 256 on, in order."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    characters = {byte: chr(byte) for byte in printable}
    next_character = 256
    for byte in range(256):
        if byte not in characters:
            characters[byte] = chr(next_character)
            next_character += 1
    return characters


BYTE_TO_CHAR = byte_characters()
CHAR_TO_BYTE = {c: byte for byte, c in BYTE_TO_CHAR.items()}


# ---- byte-level BPE: merges

END_OF_TEXT = "<|endoftext|>"   # GPT-2's only special token, between documents
LONG_WORD = 100                 # a word of more bytes is encoded in another, faster way


class BPETokenizer:
    """Byte-level BPE.

    vocab     {token: number}, tokens written in BYTE_TO_CHAR
    merges    [(left, right), …], in the order in which they were learnt
    """

    def __init__(self, vocab: dict, merges: list):
        self.vocab = vocab
        self.merges = [tuple(pair) for pair in merges]
        self.rank = {pair: n for n, pair in enumerate(self.merges)}
        self.tokens = {i: token for token, i in vocab.items()}
        self.vocab_size = max(self.tokens) + 1
        # special tokens are all that no merge makes: <|endoftext|>, [PAD]
        made = {*CHAR_TO_BYTE, *(left + right for left, right in self.merges)}
        self.special = {i for i, token in self.tokens.items() if token not in made}
        self.end = vocab.get(END_OF_TEXT)
        # a text without a prompt begins with this
        self.start = "\n" if self.end is None else END_OF_TEXT
        self.cache = {}                         # {word: its token numbers}

    @classmethod
    def train(cls, text: str, vocab_size: int):
        """Learn merges until there are vocab_size tokens, or no pair occurs twice: again and again,
        the most frequent pair of neighbours becomes a token (of equally frequent ones the pair
        whose tokens came first)."""
        require(vocab_size >= 256,
                f"--vocab_size={vocab_size}: BPE starts from the 256 bytes, so take more")
        names = sorted(CHAR_TO_BYTE)            # of the tokens, in order of number
        vocab = {name: i for i, name in enumerate(names)}
        counts = Counter(split_words(text))     # {word: how often it occurs}
        words = []                              # each as a list of token numbers
        for word in counts:
            words.append([vocab[BYTE_TO_CHAR[byte]] for byte in word.encode()])
        pairs = PairCounts(words, list(counts.values()))

        merges = []
        progress = Progress("BPE: tokens learnt:", vocab_size - 256, seconds=3.0)
        while len(names) < vocab_size:
            pair, count = pairs.most_frequent()
            if count < 2:
                break
            left = names[pair[0]]
            right = names[pair[1]]
            merges.append((left, right))
            vocab[left + right] = len(names)
            pairs.merge(pair, len(names))
            names.append(left + right)
            progress.add()
        return cls(vocab, merges)

    def encode(self, text: str) -> list:
        """Token numbers; `<|endoftext|>` in the text becomes the special token, if the vocabulary
        has it."""
        if re.search("[\ud800-\udfff]", text):
            raise UserError(f"not valid text (UTF-8): {text[:40]!r}")
        documents = [text] if self.end is None else text.split(END_OF_TEXT)
        ids = []
        for n, document in enumerate(documents):
            if n > 0:
                ids.append(self.end)
            for word in split_words(document):
                if word not in self.cache:
                    self.cache[word] = self._encode_word(word)
                ids += self.cache[word]
        return ids

    def _encode_word(self, word: str) -> list:
        """Token numbers of one word: of all pairs of neighbours, the one that was learnt first is
        merged, until no pair is known."""
        def rank(pair):
            return self.rank.get(pair, len(self.rank))

        parts = [BYTE_TO_CHAR[byte] for byte in word.encode()]
        if len(parts) > LONG_WORD:
            parts = self._merge_long(parts)
        while len(parts) > 1:
            first_learnt = min(zip(parts, parts[1:]), key=rank)
            if first_learnt not in self.rank:
                break
            parts = merge(parts, first_learnt, "".join(first_learnt))
        return [self.vocab[part] for part in parts]

    def _merge_long(self, parts: list) -> list:
        """The same merges, quickly: a text without spaces, in Chinese or of DNA, is one long word.

        A heap holds the ranks of all known pairs of neighbours; after each merge, those of the new
        pairs are added to it."""
        neighbours = Neighbours([parts])
        ranks = [self.rank[pair] for pair in neighbours.places if pair in self.rank]
        heapq.heapify(ranks)                            # the merge that was learnt first is on top
        while ranks:
            first_learnt = self.merges[heapq.heappop(ranks)]
            for pair, change, _ in neighbours.merge(first_learnt, "".join(first_learnt)):
                if change > 0 and pair in self.rank:
                    heapq.heappush(ranks, self.rank[pair])
        return next(neighbours.words())

    def decode(self, ids) -> str:
        """The text of token numbers. Bytes that are no UTF-8 become �."""
        return b"".join(self.token_bytes(i) for i in ids).decode("utf-8", errors="replace")

    def token_bytes(self, i: int) -> bytes:
        """The bytes of one token, which may be a part of a character. Numbers beyond the
        vocabulary, which a model with a padded embedding has, give no bytes."""
        token = self.tokens.get(i, "")
        if i in self.special:
            return token.encode("utf-8", errors="replace")
        return bytes(CHAR_TO_BYTE[c] for c in token)

    def state(self) -> dict:
        """What a checkpoint keeps: from_state(state) is the same tokenizer again."""
        return {"kind": "bpe", "vocab": self.vocab, "merges": [list(pair) for pair in self.merges]}

    @classmethod
    def from_state(cls, state: dict):
        return cls(state["vocab"], state["merges"])

    @classmethod
    def read(cls, folder):
        """Read GPT-2's vocab.json and merges.txt from a folder. Raises UserError if missing or
        broken."""
        vocab_path = Path(folder) / "vocab.json"
        merges_path = Path(folder) / "merges.txt"
        for path in (vocab_path, merges_path):
            require_file(path, f"{path}: no such file; GPT-2's tokenizer is vocab.json with "
                         "merges.txt")
            reason = stand_in(path.read_bytes())
            require(not reason, f"{path}: {reason}")
        try:
            merges = read_merges(merges_path)
            vocab = json.loads(vocab_path.read_text("utf-8"))
            check_numbers(vocab_path, vocab)
            tokenizer = cls(vocab, merges)
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise UserError(f"{vocab_path} and {merges_path}: not GPT-2's tokenizer files, or "
                            "truncated ones") from None
        check_files(tokenizer, vocab_path, merges_path)
        return tokenizer


def merge(parts: list, pair: tuple, joined) -> list:
    """parts, with each occurrence of the two neighbours `pair`, from the left, replaced by
    `joined`."""
    merged = []
    i = 0
    while i < len(parts):
        if i + 1 < len(parts) and (parts[i], parts[i + 1]) == pair:
            merged.append(joined)
            i += 2
        else:
            merged.append(parts[i])
            i += 1
    return merged


# ---- GPT-2's files

def read_merges(path) -> list:
    """[(left, right), …] of merges.txt, which has a pair of tokens on each line."""
    merges = []
    for line in path.read_text("utf-8").split("\n"):
        if line and not line.startswith("#version"):
            merges.append(tuple(line.split(" ")))
    if any(len(pair) != 2 for pair in merges):
        raise UserError(f"{path}: a line is not two tokens")
    return merges


def check_numbers(path, vocab: dict):
    """Raise UserError, naming the token, unless each token of a vocab.json has an integer of its
    own."""
    holders = {}                            # {number: its token}
    for token, number in vocab.items():
        require(type(number) is int, f"{path}: the number of {token!r} is "
                f"{json.dumps(number)[:40]}, no integer")
        other = holders.setdefault(number, token)
        require(other == token,
                f"{path}: {other!r} and {token!r} have the same number, {number}")


def check_files(tokenizer, vocab_path, merges_path):
    """Raise UserError unless a vocab.json has numbers from 0 on for just the tokens that the 256
    bytes and a merges.txt make, and for special ones."""
    vocab = tokenizer.vocab
    made = [left + right for left, right in tokenizer.merges]
    missing = [token for token in [*made, *CHAR_TO_BYTE] if token not in vocab]
    if missing:
        raise UserError(f"{vocab_path}: does not go with {merges_path}: no number for "
                        f"{missing[:1]}")
    for token, number in vocab.items():
        require(0 <= number < len(vocab),
                f"{vocab_path}: the number of {token!r} is {number}, but {len(vocab)} tokens have "
                f"the numbers 0 to {len(vocab) - 1}, each once; fetch it again")
    for i in sorted(tokenizer.special):
        token = tokenizer.tokens[i]
        is_written_so = re.fullmatch(r"<.*>|\[.*\]", token)
        require(is_written_so,
                f"{merges_path}: truncated, or of another {vocab_path}: it does not make "
                f"{token!r}, which is not written like a special token either, <pad> or [PAD]; "
                "fetch both files again")


def load_tokenizer(state: dict):
    """The tokenizer that a checkpoint holds: what its `state()` returned. Raises UserError on an
    unknown kind."""
    from mini.data.text.tokenizer_json import JSONTokenizer  # here, since it imports this file
    kinds = {"char": CharTokenizer, "bpe": BPETokenizer, "json": JSONTokenizer}
    kind = state["kind"]
    require(kind in kinds, f"{getattr(state, 'path', 'the checkpoint')}: its tokenizer is "
            f"{kind!r}, not one of {', '.join(kinds)}")
    return kinds[kind].from_state(state)
