"""Text to learn from: our own stories and tales, Shakespeare, or any UTF-8 file or folder.

    read_corpus     the training, validation and test parts of what --data names
    make_tokenizer  the tokenizer of what --tokenizer names
    encode          documents as token numbers
    piece_starts    where the pieces of a batch may begin
"""
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn as nn

from mini.data.download import download
from mini.data.files import list_files, places
from mini.data.text.decoding import decode
from mini.data.text.stories import make_stories
from mini.data.text.tokenizers import BPETokenizer, CharTokenizer
from mini.utils.config import printable, require, require_file

TALES = Path(__file__).parent / "tales"
SHAKESPEARE = (                     # name of the file, mirrors, SHA-256
    "shakespeare.txt",
    [
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
        "input.txt",
        "https://storage.googleapis.com/download.tensorflow.org/data/shakespeare.txt",
    ],
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)


# ---- files and folders

def read_file(path) -> str:
    """The text of a UTF-8 file, without byte-order mark and our licence line, and with '\\n' as
    line end. Raises UserError for other files, and says what they are."""
    require_file(path)
    text = decode(Path(path).read_bytes(), path)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.startswith("SPDX-License-Identifier:"):
        text = text.partition("\n")[2].lstrip("\n")
    return text


def read_text(source: str) -> str:
    """The text named by --data: 'stories' or 'all-stories' (their training part), 'tales',
    'shakespeare', a file, or a folder (its .txt files by name; those in train/ before those in val/
    and test/).

    Raises UserError if there is no such file, no text in it, or text that is not UTF-8.
    """
    if source == "shakespeare":
        return read_file(download(*SHAKESPEARE))
    if source in ("stories", "all-stories"):
        training, _, _ = make_stories(all_plots=source == "all-stories")
        return "\n\n".join(training)
    path = TALES if source == "tales" else Path(source)
    require(path.exists(), f"--data={source}: no such file or folder (by name there are: stories, "
            "all-stories, tales, shakespeare)")
    if path.is_dir():
        text = "\n\n".join(read_folder(path).values())
    else:
        text = read_file(path)
    require(text.strip(), f"{path}: there is no text in it")
    return text


def read_folder(folder) -> dict:
    """{"train": text, "val": text, "test": text} of the .txt files below sub-folders with such
    names; or {"": text} of all .txt files in the folder, by name, if there are no such
    sub-folders."""
    files = list_files(folder, (".txt",), "text")
    parts = {"": [], "train": [], "val": [], "test": []}        # the texts of each part
    for place in places(folder, files):
        parts[place.split].append(read_file(place.path))
    return {split: "\n\n".join(texts) for split, texts in parts.items() if texts}


# ---- the parts of a text

@dataclass
class Corpus:
    """A text in three parts, each a list of documents."""
    train: list             # to learn from
    val: list               # validation: held out, to choose settings by
    test: list              # held out from both, to report on; [] if none of our settings were
                            # chosen on this text
    stories: bool = False   # the documents are our stories, which a program can check


def read_corpus(source: str) -> Corpus:
    """The parts of the text named by --data: 'stories', 'all-stories' (of all plots), or what
    `read_text` knows.

    Each of our stories and tales is a document. Any other text is one long document, of which the
    last tenth is held out; or two or three, if a folder has sub-folders called train, val and test.
    Raises UserError as `read_text` does.
    """
    if source in ("stories", "all-stories"):
        parts = []
        for stories in make_stories(all_plots=source == "all-stories"):
            parts.append([f"\n{story}\n" for story in stories])
        return Corpus(*parts, stories=True)
    if source == "tales":
        tales = [f"\n{read_file(path)}\n" for path in sorted(TALES.glob("*.txt"))]
        tenth = len(tales) // 10
        train = tales[:-2 * tenth]
        val = tales[-2 * tenth:-tenth]
        test = tales[-tenth:]
        return Corpus(train, val, test)
    if Path(source).is_dir():
        parts = read_folder(source)
        if "train" in parts:
            return from_split_folders(source, parts)
    train, val = split_text(read_text(source))
    return Corpus([train], [val], [])


def from_split_folders(source: str, parts: dict) -> Corpus:
    """The parts of a folder with train/ and val/ or test/. Without val/, test/ takes its place,
    since there must be something to choose settings by."""
    for split, text in parts.items():
        require(text.strip(), f"{source}: there is no text in its folder {split}")
    print(f"note: {printable(source)}: its folders {', '.join(parts)} are taken as these parts",
          flush=True)
    if "val" not in parts:
        return Corpus([parts["train"]], [parts["test"]], [])
    test = [parts["test"]] if "test" in parts else []
    return Corpus([parts["train"]], [parts["val"]], test)


def split_text(text: str):
    """(training text, held-out text): the first nine tenths of the characters, and the last."""
    cut = int(0.9 * len(text))
    return text[:cut], text[cut:]


# ---- token numbers

def make_tokenizer(kind: str, corpus: Corpus, vocab_size: int):
    """The tokenizer named by --tokenizer: 'bpe', whose tokens are learnt from the training part
    alone; 'char', one token for each character of all parts; or a folder with GPT-2's vocab.json
    and merges.txt. Raises UserError for any other name."""
    if kind == "char":
        return CharTokenizer.train("".join(corpus.train + corpus.val + corpus.test))
    if kind == "bpe":
        return BPETokenizer.train("".join(corpus.train), vocab_size)
    require(Path(kind).is_dir(),
            f"--tokenizer={kind}: choose from char, bpe, or a folder with vocab.json")
    return BPETokenizer.read(kind)


def encode(tokenizer, documents: list, device) -> list:
    """The documents as token numbers, each a 1-D tensor."""
    return [torch.tensor(tokenizer.encode(text), device=device) for text in documents]


def check_length(train_docs, val_docs, block_size: int):
    """Raise UserError if the tokens do not fill a context, or if there is nothing held out."""
    n_train = sum(map(len, train_docs))
    n_val = sum(map(len, val_docs))
    require(n_train > block_size and n_val > len(val_docs),
            f"the text has only {n_train + n_val} tokens, too few for a context of {block_size}: "
            "bring more text (--data) or lower --block_size")


def piece_starts(documents: list, block_size: int):
    """Where a piece of block_size + 1 tokens may begin, if the documents (1-D tensors) stand one
    after the other: at the beginning of each, so that a token's context is all that comes before
    it; and anywhere in a document that is longer than a piece, so that all of it is read."""
    n_tokens = sum(map(len, documents))
    starts = []
    begin = 0
    for document in documents:
        last = begin + max(0, len(document) - block_size - 1)
        last = min(last, n_tokens - block_size - 1)         # the piece must not run out of the text
        if begin <= last:
            starts.append(torch.arange(begin, last + 1))
        begin += len(document)
    return torch.cat(starts)


def encode_texts(texts, tokenizer, T: int):
    """(tokens (N, S), lengths (N,)) of texts. Each begins with a line end, and is filled up at the
    end with token 0. Of more than T tokens only the last T are kept, and a line says so. Raises
    UserError for an empty text."""
    encoded = [tokenizer.encode("\n" + text) for text in texts]
    require(all(text.strip() for text in texts), "a text is empty; give it at least one word")
    n_cut = sum(len(ids) > T for ids in encoded)
    if n_cut > 0:
        print(f"note: {n_cut} of {len(encoded)} texts are longer than {T} tokens, and lose their "
              "beginning")
    rows = [torch.tensor(ids[-T:]) for ids in encoded]
    lengths = torch.tensor([len(row) for row in rows])
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths


# ---- what is copied

def longest_copied_run(sample: str, text: str) -> int:
    """The length, in characters, of the longest piece of the sample that is also in the text.

    For each end, it finds the longest copied piece that ends there. That piece cannot begin
    earlier than the one for the end before, so `start` only moves to the right.
    """
    longest = 0
    start = 0
    for end in range(1, len(sample) + 1):
        while sample[start:end] not in text:
            start += 1
        longest = max(longest, end - start)
    return longest
