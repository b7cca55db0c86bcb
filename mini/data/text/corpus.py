"""Text to learn from: our own tales, Shakespeare by name, or any UTF-8 file or folder."""
from pathlib import Path

import torch
import torch.nn as nn

from mini.data.download import download
from mini.data.text.tokenizers import BPETokenizer, CharTokenizer
from mini.utils.config import UserError, require

TALES = Path(__file__).parent / "tales"
SHAKESPEARE = ("shakespeare.txt",
               ["https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
                "https://storage.googleapis.com/download.tensorflow.org/data/shakespeare.txt"],
               "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed")


def read_file(path) -> str:
    """The text of one UTF-8 file: a byte-order mark and our licence line dropped, line ends made '\\n'."""
    try:
        text = Path(path).read_bytes().decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (see byte {error.start}); save it as UTF-8") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.startswith("SPDX-License-Identifier:"):
        text = text.partition("\n")[2].lstrip("\n")
    return text


def read_text(source: str) -> str:
    """The text named by --data: 'tales', 'shakespeare', a file, or a folder (its *.txt files by name).

    Raises UserError if there is no such file, no text in it, or text that is not UTF-8.
    """
    if source == "shakespeare":
        return read_file(download(*SHAKESPEARE))
    path = TALES if source == "tales" else Path(source)
    require(path.exists(), f"--data={source}: no such file or folder (by name there are: tales, shakespeare)")
    files = sorted(filter(Path.is_file, path.rglob("*.txt"))) if path.is_dir() else [path]
    require(files, f"{path}: the folder holds no .txt file")
    text = "\n\n".join(read_file(file) for file in files) if path.is_dir() else read_file(path)
    require(text.strip(), f"{path}: there is no text in it")
    return text


def split_text(text: str):
    """(training text, held-out text): the first nine tenths of the characters, and the last."""
    cut = int(0.9 * len(text))
    return text[:cut], text[cut:]


def make_tokenizer(kind: str, train_text: str, val_text: str, vocab_size: int):
    """The tokenizer named by --tokenizer: 'bpe', whose tokens are learnt from train_text alone;
    'char', one token for each character of both texts; or a folder with GPT-2's vocab.json and
    merges.txt. Raises UserError for any other name."""
    if kind == "char":
        return CharTokenizer.train(train_text + val_text)
    if kind == "bpe":
        return BPETokenizer.train(train_text, vocab_size)
    require(Path(kind).is_dir(),
            f"--tokenizer={kind}: choose from char, bpe, or a folder with vocab.json")
    return BPETokenizer.read(kind)


def encode(tokenizer, text: str, device):
    """The text as token numbers, a 1-D tensor."""
    return torch.tensor(tokenizer.encode(text), device=device)


def check_length(train_tokens, val_tokens, block_size: int):
    """Raise UserError if the tokens do not fill a context, or if there is nothing held out."""
    n = len(train_tokens) + len(val_tokens)
    require(len(train_tokens) > block_size and len(val_tokens) > 1,
            f"the text has only {n} tokens, too few for a context of {block_size}: "
            "bring more text (--data) or lower --block_size")


def encode_texts(texts, tokenizer, T: int):
    """(tokens (N, S), lengths (N,)) of texts, each begun with a line end and filled up behind with token 0.
    Of more than T tokens the last T are kept, and a line says so. Raises UserError for an empty text."""
    rows = [tokenizer.encode("\n" + text) for text in texts]
    require(all(text.strip() for text in texts), "a text is empty; give it at least one word")
    if cut := sum(len(row) > T for row in rows):
        print(f"note: {cut} of {len(rows)} texts are longer than {T} tokens, and lose their beginning")
    rows = [torch.tensor(row[-T:]) for row in rows]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])


def longest_copied_run(sample: str, text: str) -> int:
    """The length, in characters, of the longest piece of the sample that stands in the text.

    For each end it finds the longest copied piece that ends there. That piece cannot begin
    earlier than the one found for the end before, so `start` only moves to the right.
    """
    longest = 0
    start = 0
    for end in range(1, len(sample) + 1):
        while sample[start:end] not in text:
            start += 1
        longest = max(longest, end - start)
    return longest
