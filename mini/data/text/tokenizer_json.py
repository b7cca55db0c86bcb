"""tokenizer.json: the tokenizers of published language models, read without the library that wrote
them.

A text goes through five stages, each described in the file:

    added tokens     <|im_end|> and the like are cut out first; what stands between them goes on
    normalizer       characters are rewritten: one of several spellings of é becomes the other (NFC)
    pre_tokenizer    a pattern cuts the text into words; each byte is written as one character
    model            in each word, pairs of neighbours are merged (byte-pair encoding, BPE)
    decoder          from tokens back to text

SentencePiece's BPE, as in Llama 2 and TinyLlama, knows characters, not bytes: ▁ stands for a space,
and a character that is no token is written in bytes, <0xE2>. What we do not know is refused by
name: the same text in other tokens would make a good model stupid, without a word.
"""
import functools
import heapq
import json
import re
import sys
import unicodedata
from pathlib import Path

from mini.data.text.tokenizers import BYTE_TO_CHAR, CHAR_TO_BYTE, END_OF_TEXT, SPACE
from mini.utils.config import UserError, require, require_file
from mini.utils.run import stand_in

# ---- patterns: Unicode's classes, which Python's `re` lacks

# The patterns that we know, as they stand in the files
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
NEWER = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS"
         r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3 = NEWER.replace("DIGITS", r"\p{N}{1,3}")     # numbers in threes
QWEN = NEWER.replace("DIGITS", r"\p{N}")            # digit by digit
PATTERNS = (GPT2, LLAMA3, QWEN)


@functools.cache
def members(category: str) -> str:
    """All characters of a category, L (letters) or N (numbers), as ranges inside [ ]. Which these
    are says Python's edition of Unicode."""
    ranges = []
    start = None
    for code in range(sys.maxunicode + 2):
        inside = code <= sys.maxunicode and unicodedata.category(chr(code)).startswith(category)
        if inside and start is None:
            start = code
        elif not inside and start is not None:
            ranges.append(f"\\U{start:08x}-\\U{code - 1:08x}")
            start = None
    return "".join(ranges)


@functools.cache
def compile_pattern(pattern: str):
    r"""The pattern for Python's `re`: \p{L}, \p{N}, \s and \S are written out as sets, inside [ ]
    without brackets of their own. (Python's \s has four separators that are no White_Space.)"""
    sets = {r"\p{L}": members("L"), r"\p{N}": members("N"), r"\s": SPACE}
    out = []
    inside = False
    for piece in re.findall(r"\\p\{\w\}|\\.|.", pattern, re.DOTALL):
        if piece in ("[", "]"):
            inside = piece == "["
        if piece == r"\S":
            piece = f"[^{SPACE}]"
        elif piece in sets:
            piece = sets[piece] if inside else f"[{sets[piece]}]"
        out.append(piece)
    return re.compile("".join(out))


def split_by(pattern, text: str) -> list:
    """The text cut into what the pattern matches and what lies between."""
    pieces = []
    end = 0
    for match in pattern.finditer(text):
        pieces += [text[end:match.start()], match[0]]
        end = match.end()
    pieces.append(text[end:])
    return [piece for piece in pieces if piece]


def to_bytes(text: str) -> str:
    """The text with each of its UTF-8 bytes as a character of its own."""
    return "".join(BYTE_TO_CHAR[b] for b in text.encode())


# ---- the tokenizer

class JSONTokenizer:
    """A published tokenizer. content: what its tokenizer.json says; chat_format: how its model
    converses, see chat.py."""

    def __init__(self, content: dict, chat_format: str = "plain", path="tokenizer.json"):
        self.content = content
        self.chat_format = chat_format
        self.path = path
        self.cache = {}
        try:
            self.read_model(content["model"])
            self.normalizer = self.steps(content.get("normalizer"), "normalizer", "normalizers")
            self.pre_tokenizer = self.steps(content.get("pre_tokenizer"), "pre_tokenizer",
                                            "pretokenizers")
            self.read_added(content.get("added_tokens") or [])
            self.start = self.first_token(content.get("post_processor"))
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
            raise UserError(f"{path}: not a tokenizer.json, or a damaged one; fetch it "
                            "again") from None
        self.vocab_size = max(self.tokens) + 1
        self.end = self.vocab.get(END_OF_TEXT, self.added.get(END_OF_TEXT))
        require(self.byte_level or self.byte_fallback,
                f"{path}: a BPE neither of bytes nor with byte_fallback, which is not read here")

    @classmethod
    def read(cls, folder, chat_format: str = "plain"):
        """Read the tokenizer.json of a folder. Raises UserError if it is missing, broken, or of a
        kind that we do not know."""
        path = Path(folder) / "tokenizer.json"
        require_file(path, f"{path}: no such file; fetch it from where the weights are")
        data = path.read_bytes()
        reason = stand_in(data)
        require(not reason, f"{path}: {reason}")
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            raise UserError(f"{path}: not JSON, or truncated; fetch it again") from None
        require(isinstance(content, dict), f"{path}: not a tokenizer.json; fetch it again")
        return cls(content, chat_format, path)

    def state(self) -> dict:
        return {"kind": "json", "content": self.content, "chat_format": self.chat_format}

    @classmethod
    def from_state(cls, state: dict):
        return cls(state["content"], state["chat_format"])

    # -- what the file says

    def refuse(self, what: str, value):
        told = json.dumps(value)[:300]
        raise UserError(f"{self.path}: {what} {told} is not read here; take another model")

    def read_model(self, model: dict):
        """Vocabulary and merges."""
        if model["type"] != "BPE":
            self.refuse("a model of the type", model["type"])
        for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
            if model.get(name):
                self.refuse(f"the model's {name}", model[name])
        self.vocab = model["vocab"]
        self.tokens = {number: token for token, number in self.vocab.items()}
        self.ranks = {}
        for n, pair in enumerate(model["merges"]):
            left, right = pair.split(" ") if isinstance(pair, str) else pair
            require(left + right in self.vocab,
                    f"{self.path}: the merge of {left!r} and {right!r} makes no token; fetch it "
                    "again")
            self.ranks[left, right] = n
        self.ignore_merges = bool(model.get("ignore_merges"))   # a word that is a token stays one
        self.byte_fallback = bool(model.get("byte_fallback"))
        self.unknown = model.get("unk_token")
        self.fuse_unknown = bool(model.get("fuse_unk"))

    def steps(self, part, kind: str, several: str) -> list:
        """The steps of the normalizer or of the pre_tokenizer, one after the other."""
        if kind == "normalizer":
            self.byte_level = False
        if part is None:
            return []
        parts = part[several] if part["type"] == "Sequence" else [part]
        return [self.step(one, kind) for one in parts]

    def step(self, part: dict, kind: str):
        """A function from a text to a text (of a normalizer), or to a list of texts."""
        options = {key: value for key, value in part.items() if key != "type"}
        match kind, part["type"], options:
            case "normalizer", "NFC", {}:
                return functools.partial(unicodedata.normalize, "NFC")
            case "normalizer", "Prepend", {"prepend": str() as start}:
                return lambda text: start + text
            case "normalizer", "Replace", {"pattern": {"String": str() as old}, "content": new}:
                return lambda text: text.replace(old, new)
            case "pre_tokenizer", "Split", {"pattern": {"Regex": str() as pattern},
                                            "behavior": "Isolated", "invert": False}:
                if pattern not in PATTERNS:
                    self.refuse("the pattern", pattern)
                return functools.partial(split_by, compile_pattern(pattern))
            case "pre_tokenizer", "Digits", {"individual_digits": True}:
                return functools.partial(split_by, compile_pattern(r"\p{N}"))
            case "pre_tokenizer", "ByteLevel", {"add_prefix_space": False}:
                self.byte_level = True
                if options.get("use_regex", True):
                    pattern = compile_pattern(GPT2)
                    return lambda text: [to_bytes(word) for word in split_by(pattern, text)]
                return lambda text: [to_bytes(text)]
        self.refuse(f"the {kind}", part)

    def read_added(self, added: list):
        """Added tokens, {text: number}, and the patterns that find them: those that are looked for
        before the normalizer, and those after it."""
        self.added = {}
        texts = {True: [], False: []}                       # normalized: texts
        for token in added:
            for name in ("single_word", "lstrip", "rstrip"):
                if token.get(name):
                    self.refuse(f"{name} of the added token", token["content"])
            normalized = bool(token.get("normalized")) and bool(self.normalizer)
            if normalized and self.content["normalizer"]["type"] != "NFC":
                self.refuse("the added token, normalized,", token["content"])
            self.added[token["content"]] = token["id"]
            self.tokens[token["id"]] = token["content"]
            texts[normalized].append(token["content"])
        self.find_added = []
        for some in (texts[False], texts[True]):
            longest_first = sorted(some, key=len, reverse=True)
            pattern = "|".join(map(re.escape, longest_first))
            self.find_added.append(re.compile(pattern) if some else None)

    def first_token(self, post) -> str:
        """The token that begins a text, by the post_processor; if there is none, the one that
        stands between texts."""
        if post is not None:
            parts = post["processors"] if post["type"] == "Sequence" else [post]
            for part in parts:
                if part["type"] == "TemplateProcessing":
                    first = part["single"][0]
                    others = [piece for piece in part["single"] if "SpecialToken" in piece]
                    if len(others) > 1 or others and first is not others[0]:
                        self.refuse("the post_processor", part["single"])
                    if others:
                        return first["SpecialToken"]["id"]
                elif part["type"] != "ByteLevel":           # that one is about offsets, not tokens
                    self.refuse("the post_processor", part["type"])
        return END_OF_TEXT if END_OF_TEXT in {*self.vocab, *self.added} else "\n"

    # -- text to tokens

    def encode(self, text: str) -> list:
        """Token numbers. Added tokens that stand in the text become these."""
        require(not re.search("[\ud800-\udfff]", text), f"not valid text (UTF-8): {text[:40]!r}")
        before, after = self.find_added
        ids = []
        for piece in split_by(before, text) if before else [text]:
            if before and before.fullmatch(piece):
                ids.append(self.added[piece])
                continue
            for step in self.normalizer:
                piece = step(piece)
            for part in split_by(after, piece) if after else [piece]:
                if after and after.fullmatch(part):
                    ids.append(self.added[part])
                else:
                    ids += self.encode_plain(part)
        return ids

    def encode_plain(self, text: str) -> list:
        """Token numbers of a text without added tokens, after the normalizer."""
        words = [text] if text else []
        for step in self.pre_tokenizer:
            words = [piece for word in words for piece in step(word)]
        ids = []
        for word in words:
            if word not in self.cache:
                self.cache[word] = self.encode_word(word)
            ids += self.cache[word]
        return ids

    def encode_word(self, word: str) -> list:
        """Token numbers of one word, by merging its characters."""
        if self.ignore_merges and word in self.vocab:
            return [self.vocab[word]]
        parts = []
        for c in word:
            if c in self.vocab:
                parts.append(c)
            elif self.byte_fallback:
                parts += [f"<0x{b:02X}>" for b in c.encode()]
            elif self.unknown is not None and not (self.fuse_unknown and parts[-1:] == [None]):
                parts.append(None)                          # no pair with it is merged
        merged = merge(parts, self.ranks)
        return [self.vocab[self.unknown if part is None else part] for part in merged]

    # -- tokens to text

    def decode(self, ids) -> str:
        """The text of tokens. (SentencePiece's begins with a space that was not in it.)"""
        return b"".join(self.token_bytes(i) for i in ids).decode("utf-8", errors="replace")

    def token_bytes(self, i: int) -> bytes:
        """The bytes of one token, which may be a part of a character."""
        token = self.tokens.get(i, "")
        if token in self.added:
            return token.encode("utf-8", errors="replace")
        if self.byte_level:
            return bytes(CHAR_TO_BYTE[c] for c in token)
        byte = re.fullmatch(r"<0x([0-9A-F]{2})>", token)
        if byte:
            return bytes([int(byte[1], 16)])
        return token.replace("▁", " ").encode()


def merge(parts: list, ranks: dict) -> list:
    """The parts of a word after all merges: again and again the pair that was learnt first, of
    several the leftmost one.

    Each part knows its neighbours, and the pairs wait in a heap: a text in Chinese, or for
    SentencePiece any text, is one long word.
    """
    parts = list(parts)
    n = len(parts)
    before = list(range(-1, n - 1))
    after = list(range(1, n + 1))
    heap = []

    def push(i: int):
        """Note the pair of part i and the one after it, if it is to be merged."""
        if i >= 0 and after[i] < n:
            pair = (parts[i], parts[after[i]])
            if pair in ranks:
                heapq.heappush(heap, (ranks[pair], i, pair))

    for i in range(n):
        push(i)
    while heap:
        _, i, pair = heapq.heappop(heap)
        j = after[i]
        if j >= n or (parts[i], parts[j]) != pair:          # an earlier merge took one of the two
            continue
        parts[i] = pair[0] + pair[1]
        parts[j] = None
        after[i] = after[j]
        if after[j] < n:
            before[after[j]] = i
        after[j] = n                                        # nothing is merged with it any more
        push(before[i])
        push(i)

    merged = []
    i = 0
    while i < n:
        merged.append(parts[i])
        i = after[i]
    return merged
