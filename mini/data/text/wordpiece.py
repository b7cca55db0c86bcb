"""WordPiece, BERT's tokenizer: text to numbers and back, by a published vocab.txt or one trained on
the spot.

    1. The basic tokenization (`basic_words`): the text is cut at white space, and each punctuation
       mark and each Chinese character stands alone. An uncased tokenizer drops capitals and
       accents.
    2. Each word is cut, from the left, into the longest pieces that the vocabulary holds
       (`WordPieceTokenizer.cut`). A piece that does not begin a word is written with ## before it:
       un ##seen. A word that cannot be cut into pieces becomes [UNK].

Unlike byte-level BPE, WordPiece loses such words, and the spaces.

Papers: Schuster & Nakajima 2012, "Japanese and Korean voice search"; Devlin et al. 2019 (BERT),
§3.
"""
import json
import re
import unicodedata
from collections import Counter
from pathlib import Path

import torch

from mini.data.text.neighbours import PairCounts
from mini.utils.config import UserError, require, require_file
from mini.utils.progress import Progress
from mini.utils.run import stand_in

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP, MASK = SPECIAL
LONGEST = 100                   # a word of more characters is [UNK]

# Chinese characters, as ranges in a pattern.
CJK = ("\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b73f"
       "\U0002b740-\U0002b81f\U0002b820-\U0002ceaf\U0002f800-\U0002fa1f")


# ---- words

def is_punctuation(c: str) -> bool:
    """Unicode's punctuation, and all of ASCII's signs: $ and ~ too."""
    is_ascii_sign = "!" <= c <= "~" and not c.isalnum()
    return is_ascii_sign or unicodedata.category(c)[0] == "P"


def basic_words(text: str, lower: bool) -> list:
    """The words, punctuation marks and Chinese characters of a text; lower: without capitals and
    accents."""
    text = re.sub(r"[\t\n\r]", " ", text)
    text = "".join(clean(c) for c in text)
    text = re.sub(f"([{CJK}])", r" \1 ", text)
    if lower:
        decomposed = unicodedata.normalize("NFD", text)         # é becomes e and an accent, Mn
        text = "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
        text = "".join(c.lower() for c in text)         # one by one, without Greek's final sigma
    text = "".join(f" {c} " if is_punctuation(c) else c for c in text)
    return text.split()


def clean(c: str) -> str:
    """A character as BERT reads it: every separator as a space, control characters not at all."""
    kind = unicodedata.category(c)
    if kind[0] == "Z":
        return " "
    is_control = kind[0] == "C" and kind != "Cn"        # Cn: not assigned (yet)
    is_replacement = c == "\ufffd"                      # it stands for what could not be read
    return "" if is_control or is_replacement else c


def split_words(text: str, lower: bool) -> list:
    """The words of a text, before they are cut into pieces; special tokens like "[MASK]" stay
    whole."""
    words = []
    for part in re.split(r"(\[(?:PAD|UNK|CLS|SEP|MASK)\])", text):
        words += [part] if part in SPECIAL else basic_words(part, lower)
    return words


def check_lengths(counts: Counter):
    """Raise UserError if half of a text is in words that become [UNK] because they are too long;
    say so if some of it is. counts: {word: how often it occurs}."""
    n_characters = 0
    n_lost = 0
    for word, n in counts.items():
        n_characters += len(word) * n
        if len(word) > LONGEST:
            n_lost += len(word) * n
    share = n_lost / max(1, n_characters)
    what = (f"{share:.1%} of the text is in words of more than {LONGEST} characters, which "
            "WordPiece reads as [UNK]")
    require(n_lost <= n_characters / 2,
            f"{what}: put spaces between words, or take train_gpt.py, whose BPE needs none")
    if n_lost > 0:
        print(f"note: {what}")


# ---- pieces of words

class WordPieceTokenizer:
    """WordPiece with the vocabulary `tokens`, in order of number. The SPECIAL ones are in it.
    lower: capitals and accents are dropped."""

    def __init__(self, tokens: list, lower: bool):
        self.tokens = tokens
        self.lower = lower
        self.vocab_size = len(tokens)
        self.index = {token: i for i, token in enumerate(tokens)}
        self.pad, self.unk, self.cls, self.sep, self.mask = [self.index[name] for name in SPECIAL]
        self.is_special = torch.tensor([token in SPECIAL for token in tokens])              # (V,)
        self.begins_word = torch.tensor([not token.startswith("##") for token in tokens])   # (V,)
        self.cache = {}                         # what encode_word returned before

    @classmethod
    def train(cls, texts, vocab_size: int, lower: bool = False, fewest: int = 2):
        """Learn pieces from texts until there are vocab_size tokens. It begins with single
        characters. Then it makes the most frequent pair of neighbours a new piece, again and again,
        while the pair occurs at least `fewest` times. Of equally frequent pairs it takes the one
        whose pieces came first.

        Departure: the papers join the pair that raises the likelihood of the text most, by n(ab) /
        (n(a) n(b)). This number is high for pairs of rare letters, so the vocabulary is spent on
        them. By n(ab), frequent words become one token each; this is what the common
        implementations do.
        """
        words = (word for text in texts for word in split_words(text, lower))
        counts = Counter(word for word in words if word not in SPECIAL)
        check_lengths(counts)
        spelt = []                              # each word as its smallest pieces: u ##n ##t ##o
        for word in counts:
            spelt.append([word[0]] + [f"##{c}" for c in word[1:]])

        smallest = sorted({piece for pieces in spelt for piece in pieces})
        names = SPECIAL + smallest              # of the tokens, in order of number
        require(vocab_size >= len(names), f"--vocab_size={vocab_size}: the text has {len(names)} "
                "characters and special tokens, so take more")
        index = {name: i for i, name in enumerate(names)}
        numbers = [[index[piece] for piece in pieces] for pieces in spelt]
        pairs = PairCounts(numbers, list(counts.values()))

        progress = Progress("WordPiece: pieces learnt:", vocab_size - len(names), seconds=3.0)
        while len(names) < vocab_size:
            pair, count = pairs.most_frequent()
            if count < max(1, fewest):
                break
            left = names[pair[0]]
            right = names[pair[1]]
            name = left + right.removeprefix("##")
            if name not in index:       # two pairs can spell the same piece: it is one token
                index[name] = len(names)
                names.append(name)
                progress.add()
            pairs.merge(pair, index[name])
        return cls(names, lower)

    def words(self, text: str) -> list:
        """See split_words."""
        return split_words(text, self.lower)

    def encode_word(self, word: str, split_names: bool = False) -> list:
        """The numbers of the pieces of one word: greedily, each as long as possible, from the left.

        split_names: a word with a capital is cut into two pieces or more, even if it is a token, as
        a name is that the tokenizer has not learnt. (Subword regularisation: a model that sees some
        words cut otherwise is ready for new words. Kudo 2018; Provilkov et al. 2020.)

        An uncased tokenizer takes capitals and accents away.
        """
        must_split = split_names and word[:1].isupper() and len(word) > 2
        key = (word, must_split)
        if key not in self.cache:
            if self.lower and word not in SPECIAL:
                word = "".join(basic_words(word, lower=True))
            longest_first = len(word) - 1 if must_split else len(word)
            self.cache[key] = self.cut(word, longest_first)
        return self.cache[key]

    def cut(self, word: str, longest_first: int) -> list:
        """The pieces of a word, of which the first has at most so many characters."""
        if word in SPECIAL:
            return [self.index[word]]
        if len(word) > LONGEST:
            return [self.unk]
        ids = []
        start = 0
        end = longest_first
        hashes = ""                                     # for a piece that begins the word
        while start < len(word):
            while end > start and hashes + word[start:end] not in self.index:
                end -= 1
            if end == start:                            # no piece fits
                return [self.unk]
            ids.append(self.index[hashes + word[start:end]])
            start = end
            end = len(word)
            hashes = "##"
        return ids

    def encode(self, text: str, split_names: bool = False) -> list:
        """The numbers of a text's tokens, without [CLS] and [SEP]; split_names: see encode_word."""
        ids = []
        for word in self.words(text):
            ids += self.encode_word(word, split_names)
        return ids

    def decode(self, ids) -> str:
        """The tokens with spaces between them, and the pieces of a word joined. The old spaces are
        lost."""
        return " ".join(self.tokens[i] for i in ids).replace(" ##", "")

    def state(self) -> dict:
        """What a checkpoint keeps: from_state(state) is the same tokenizer again."""
        return {"kind": "wordpiece", "tokens": self.tokens, "lower": self.lower}

    @classmethod
    def from_state(cls, state: dict):
        return cls(state["tokens"], state["lower"])

    @classmethod
    def read(cls, path, lower=None):
        """Read a published vocab.txt, with a token on each line. `lower` says whether it is
        uncased; without it, tokenizer_config.json beside the file; without that, it is uncased if
        no token has a capital. Raises UserError if the file is broken."""
        path = Path(path)
        require_file(path, f"{path}: no such file; BERT's vocabulary, published with its weights")
        reason = stand_in(path.read_bytes())
        require(not reason, f"{path}: {reason}")
        config = path.with_name("tokenizer_config.json")
        if config.exists():
            require_file(config)
        try:
            tokens = path.read_text("utf-8").rstrip("\n").split("\n")
            if lower is None and config.exists():
                lower = json.loads(config.read_text("utf-8")).get("do_lower_case")
        except (ValueError, AttributeError):
            raise UserError(f"{path}: not UTF-8 text, or a broken tokenizer_config.json beside "
                            "it") from None

        missing = " ".join(name for name in SPECIAL if name not in tokens)
        require(not missing,
                f"{path}: not a BERT vocabulary, or a truncated one: {missing} not in it")
        require(len(set(tokens)) == len(tokens),
                f"{path}: not a BERT vocabulary: a token stands there twice")
        if lower is None:
            plain_tokens = [token for token in tokens if not token.startswith("[")]
            lower = not any(re.search("[A-Z]", token) for token in plain_tokens)
        return cls(tokens, bool(lower))
