"""Reading text, downloading, .safetensors files, pictures, scores: beside plain, slow ways to do the same."""
import contextlib
import hashlib
import json
import math
import random
import re
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

import mini.data.text.corpus
from mini.data.download import download
from mini.data.text.corpus import (TALES, Corpus, check_length, encode, make_tokenizer, read_corpus,
                                   read_file, read_text, split_text)
from mini.data.text.tokenizers import BPETokenizer, CharTokenizer
from mini.data.safetensors import read_safetensors
from mini.utils.images import grid, sheet
from mini.utils.png import read_png, write_png
from tests.helpers import find_text, refused

# ---- the tales

@pytest.fixture(scope="module")
def tales():
    return {path.name: read_file(path) for path in TALES.glob("*.txt")}


def test_tales(tales):
    text = read_text("tales")
    assert 40 <= len(tales) <= 60 and len(text.encode()) >= 250_000
    assert text == "\n\n".join(tales[name] for name in sorted(tales))
    assert set(text) <= {"\n", *map(chr, range(32, 127))}
    for name, tale in tales.items():
        assert (TALES / name).read_bytes().startswith(b"SPDX-License-Identifier: MIT\n"), name
        assert tale[:1].strip() and "SPDX" not in tale and 6_000 < len(tale) < 9_000, name
    titles = {tale.partition("\n")[0] for tale in tales.values()}
    assert len(titles) == len(tales) and all(0 < len(title) < 60 for title in titles)


def test_no_two_tales_share_a_sentence(tales):
    owner, shared = {}, []
    for name, tale in tales.items():
        for sentence in re.split(r"[.!?][\"')]*\s|\n", tale):
            words = " ".join(re.findall(r"[a-z0-9']+", sentence.lower()))
            if words.count(" ") >= 5 and owner.setdefault(words, name) != name:
                shared.append((words, name, owner[words]))
    assert len(owner) > 3_000 and not shared, shared


def test_nothing_long_stands_twice_in_the_tales():
    """Or a model could be praised for a held-out text that it has seen."""
    text, n = read_text("tales"), 60
    pieces = Counter(text[i:i + n] for i in range(len(text) - n + 1))
    assert len(pieces) > 250_000 and pieces.most_common(1)[0][1] == 1, pieces.most_common(2)


# ---- reading text

@pytest.mark.parametrize("content, text", [
    ("Grüße, 河\n".encode(), "Grüße, 河\n"),
    (b"\xef\xbb\xbfafter a mark", "after a mark"),
    (b"one\r\ntwo\rthree\n\r\nfour", "one\ntwo\nthree\n\nfour"),
    (b"SPDX-License-Identifier: MIT\n\n\nA Title\n\ntext\n", "A Title\n\ntext\n"),
    (b"\xef\xbb\xbfSPDX-License-Identifier: MIT\r\n\r\nA Title", "A Title"),
    (b"SPDX-License-Identifier: MIT\n\n  A Title", "  A Title"),
    (b"A Title\nSPDX-License-Identifier: MIT\n", "A Title\nSPDX-License-Identifier: MIT\n"),
    (b"  indented\n\n", "  indented\n\n"),
    ("a\x0bb\x1cc\x85d\u2028e\xa0".encode(), "a\x0bb\x1cc\x85d\u2028e\xa0"),
], ids=["utf-8", "mark", "line ends", "licence", "licence after mark", "licence and indent", "no licence",
        "blanks", "separators"])
def test_a_file(tmp_path, content, text):
    path = tmp_path / "my novel.txt"
    path.write_bytes(content)
    assert read_file(path) == text and read_text(str(path)) == text


def test_a_folder(tmp_path):
    """Every .txt file in it, at any depth, by name, in a folder named like a file too; other files are left alone."""
    names = [*(f"{n:02}.txt" for n in range(12)), "Z.txt", "old.txt/a.txt", "part/b.txt", "part/a.txt", "part/deep/c.txt"]
    for name in reversed(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + f"I am {name}\n".encode())
    (tmp_path / "picture.png").write_bytes(b"\xff\xff")
    (tmp_path / "notes.md").write_text("not I")
    in_order = [*names[:13], "old.txt/a.txt", "part/a.txt", "part/b.txt", "part/deep/c.txt"]
    assert read_text(str(tmp_path)) == "\n\n".join(f"I am {name}\n" for name in in_order)


@pytest.mark.parametrize("content, names", [
    (b"caf\xe9 au lait", ["UTF-8", "byte 3"]), (b"ok \xc3", ["UTF-8", "byte 3"]),
    ("text".encode("utf-16"), ["UTF-8"]), (b"\x89PNG\r\n\x1a\n\0\0", ["UTF-8", "byte 0"]),
    (b"", ["no text"]), (b" \n\t\r\n \n", ["no text"]), (b"\xef\xbb\xbf", ["no text"]),
    (b"SPDX-License-Identifier: MIT\n", ["no text"]),
    (b"\xef\xbb\xbfcaf\xe9", ["UTF-8", "byte 6"]),
    ("é, in an older encoding".encode("cp1252"), ["UTF-8", "byte 0", "'é, in an o'", "iconv -f CP1252"]),
    ("“Ja”, sagte sie.".encode("cp1252"), ["UTF-8", "byte 0", "“Ja”", "iconv"]), ("кот".encode("koi8-r"), ["UTF-8", "another"]),
    ("text".encode("utf-16"), ["UTF-16;", "iconv -f UTF-16"]), ("text".encode("utf-32"), ["UTF-32;", "iconv -f UTF-32"]),
    (b"\xfe\xff\0t\0e", ["UTF-16;"]),
    *[(text.encode(code), ["UTF-8", f"{code} without a byte-order mark", f"iconv -f {code}"])
      for text in ("Once upon a time\n", "Grüße an Zoë", "Жил да был у бабушки серенький козлик, вот он.")
      for code in ("UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE")],
    ("Once upon".encode("UTF-16LE")[:-1], ["UTF-16LE without"]),
    (b"a text with one " + b"\0" + b" in it, and that is not much", ["byte 16", "NUL", "tr -d"]), (b"\0" * 99, ["UTF-8"]),
    ("caf\u00e9".encode()[:-1], ["UTF-8", "cut off"]),
    (b"%PDF-1.7\n%\xe2\xe3", ["UTF-8", "PDF"]), (b"PK\x03\x04\x14\0", ["UTF-8", "docx"]), (b"{\\rtf1\\ansi some}", ["RTF"]),
    (b"\x1f\x8b\x08\0", ["UTF-8", "gunzip"]), (b"PAR1\x15\x04", ["UTF-8", "Parquet"]), (b"\xd0\xcf\x11\xe0\xa1", [".doc"]),
    (b"\xff\xd8\xff\xe0", ["UTF-8", "JPEG"]), (b"SQLite format 3\0", ["UTF-8", "SQLite"]),
], ids=repr)
def test_a_file_without_text(tmp_path, content, names):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    refused(lambda: read_text(str(path)), path, *names)
    refused(lambda: read_text(str(tmp_path)), path if "UTF-8" in names else tmp_path, *names)


def test_a_folder_without_text(tmp_path):
    (tmp_path / "notes.md").write_text("text")
    refused(lambda: read_text(str(tmp_path)), tmp_path, ".txt")


@pytest.mark.parametrize("source, meant", [
    ("tale", " tales"), ("Tales", " tales"), ("shakespere", " shakespeare")])
def test_a_missing_file(tmp_path, monkeypatch, source, meant):
    monkeypatch.chdir(tmp_path)
    refused(lambda: read_text(source), f"--data={source}", "no such file", meant)
    refused(lambda: read_text(f"novels/{source}.txt"), f"--data=novels/{source}.txt", "no such file")


@pytest.mark.parametrize("n", [0, 1, 9, 10, 11, 100, 1234])
def test_split(n):
    text = "".join(random.Random(n).choices("abc", k=n))
    training, held_out = split_text(text)
    assert training + held_out == text and len(training) == n * 9 // 10


def test_make_tokenizer(tmp_path, monkeypatch):
    """Of the held-out text nothing may be learnt but, for char, which characters there are."""
    monkeypatch.chdir(tmp_path)
    train_text, val_text = "".join(random.Random(0).choices("abcdefghij ", k=900)), "yz" * 50
    corpus = Corpus([train_text[:500], train_text[500:]], [val_text], [])
    char, bpe = (make_tokenizer(kind, corpus, 270) for kind in ("char", "bpe"))
    assert isinstance(char, CharTokenizer) and char.characters == "".join(sorted(set(train_text + val_text)))
    assert bpe.merges == BPETokenizer.train(train_text, 270).merges and bpe.vocab_size == 270
    reference = Path(__file__).parent / "reference" / "bpe"
    assert make_tokenizer(str(reference), corpus, 0).vocab_size == 600
    for wrong in ("bpee", "/gone"):
        refused(lambda: make_tokenizer(wrong, corpus, 300), f"--tokenizer={wrong}", "char", "bpe", "vocab.json")


def test_encode_and_check_length():
    text = "".join(random.Random(0).choices("abcd", k=200))
    tokenizer = CharTokenizer.train(text)
    parts = [text[:180], text[180:]]
    train_docs, val_docs = ([part] for part in encode(tokenizer, parts, "cpu"))
    for tokens, part in zip(train_docs + val_docs, parts):
        assert tokenizer.decode(tokens.tolist()) == part and tokens.dtype == torch.int64 and tokens.dim() == 1
    check_length(train_docs, val_docs, 179)
    refused(lambda: check_length(train_docs, val_docs, 180), "200 tokens", "180", "--data", "--block_size")
    one = [train_docs[0][:1]]
    refused(lambda: check_length([train_docs[0][:8]], one, 4), "9 tokens")          # one held-out token predicts none


def test_read_corpus(tmp_path):
    """Our own texts are cut between tales and stories, others where nine tenths of the characters end."""
    tales = read_corpus("tales")
    names = sorted(TALES.glob("*.txt"))
    assert [len(part) for part in (tales.train, tales.val, tales.test)] == [40, 4, 4] and not tales.stories
    every = tales.train + tales.val + tales.test
    assert [document.strip("\n") for document in every] == [read_file(path).strip("\n") for path in names]
    stories = read_corpus("stories")
    assert stories.stories and 3e6 < len("".join(stories.train)) < 6e6
    for document in (*stories.train[:20], *stories.val[:20], *stories.test[:20]):
        assert document.startswith("\nAbout ") and document.endswith("\n") and document.strip("\n").count("\n") == 1
    (tmp_path / "novel.txt").write_text("0123456789" * 5)
    own = read_corpus(str(tmp_path / "novel.txt"))
    assert own == Corpus(["0123456789" * 4 + "01234"], ["56789"], [])


# ---- downloading

RIGHT = b"the right file, " * 1000
SHA256 = hashlib.sha256(RIGHT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """/right sends the file; /error a page with status 200; /cut stops half-way; /noise is no HTTP; …"""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path == "/noise":
            return self.wfile.write(b"220 mail.example.org ready\r\n")
        if self.path == "/hang":
            return self.server.stop.wait(20)
        if self.path == "/404":
            return self.send_error(404)
        if self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            return self.end_headers()
        body = b"<html>sorry, quota exceeded</html>" if self.path == "/error" else RIGHT
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:len(body) // 2] if self.path == "/cut" else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server on this machine, and an empty folder to download into. server(path) is an address on it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("no_proxy", "*")
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.asked, httpd.stop = [], threading.Event()
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def address(path):
        return f"http://127.0.0.1:{httpd.server_port}/{path}"
    address.asked = httpd.asked
    yield address
    httpd.stop.set()
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_download(server, tmp_path):
    path = download("a.bin", [server("right"), server("404")], SHA256)
    assert path == Path("data/a.bin") and path.read_bytes() == RIGHT and server.asked == ["/right"]
    assert download("a.bin", ["http://127.0.0.1:9/gone"], SHA256) == path       # from now on with no network
    download("b.bin", [server("right")], SHA256)                                # the folder is there already
    assert server.asked == ["/right", "/right"]
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["a.bin", "b.bin"]


@pytest.mark.parametrize("bad", ["error", "404", "loop", "hang", "cut", "noise"])
def test_a_bad_mirror_is_passed_over(server, bad):
    before = time.monotonic()
    path = download("a.bin", [server(bad), server("right"), server("never")], SHA256, timeout=1.5)
    assert time.monotonic() - before < 10
    assert path.read_bytes() == RIGHT
    assert list(dict.fromkeys(server.asked)) == [f"/{bad}", "/right"]
    assert [p.name for p in Path("data").iterdir()] == ["a.bin"]


def test_no_mirror_answers(server):
    urls = [server("error"), server("404"), "http://127.0.0.1:9/closed", Path("gone").absolute().as_uri()]
    message = refused(lambda: download("a.bin", urls, SHA256), "cannot download a.bin", "another file",
                      "Not Found", "refused", f"fetch {urls[0]}", f"put it at {Path('data/a.bin')}")
    assert server.asked == ["/error", "/404"] and len(message) < 400 and not Path("data").exists()


@pytest.mark.parametrize("content", [b"", b"<html>sorry</html>", RIGHT[:-1], RIGHT + b"\n"], ids=len)
def test_a_wrong_file_that_is_there_already(server, content):
    """It may be the user's own: it is refused, and neither used nor overwritten."""
    Path("data").mkdir()
    Path("data/a.bin").write_bytes(content)
    refused(lambda: download("a.bin", [server("right")], SHA256), Path("data/a.bin"), "SHA-256", "delete it")
    assert Path("data/a.bin").read_bytes() == content and server.asked == []


def test_a_full_disk_leaves_nothing_behind(server, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            download("a.bin", [server("right")], SHA256)
    assert list(Path("data").iterdir()) == []
    assert download("a.bin", [server("right")], SHA256).read_bytes() == RIGHT


def test_shakespeare(server, monkeypatch):
    name, urls, sha256 = mini.data.text.corpus.SHAKESPEARE
    assert re.fullmatch("[0-9a-f]{64}", sha256) and all(url.startswith("https://") for url in urls)
    monkeypatch.setattr(mini.data.text.corpus, "SHAKESPEARE", (name, [server("right")], SHA256))
    assert read_text("shakespeare") == RIGHT.decode() and Path("data", name).exists()


# ---- .safetensors

def safetensors_bytes(header, data: bytes = b"") -> bytes:
    """The bytes of a file: `header` is a dict, or the header's bytes."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def entry(dtype, shape, begin, end) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


NUMBERS = {  # {dtype of the file: (struct's letter, values, torch's dtype)}
    "F64": ("d", [0.1, -1e300, math.inf, 5e-324], torch.float64),
    "F32": ("f", [0.5, -1.25, 2.0**100, 2.0**-126], torch.float32),
    "F16": ("e", [0.5, -65504, 2**-24, 1.5], torch.float16), "I64": ("q", [-2**63, 2**63 - 1, 0, 7], torch.int64),
    "I32": ("i", [-2**31, 2**31 - 1, 0, 7], torch.int32), "I16": ("h", [-2**15, 2**15 - 1, 0, 7], torch.int16),
    "I8": ("b", [-128, 127, 0, 7], torch.int8), "U8": ("B", [0, 255, 128, 7], torch.uint8),
    "BOOL": ("?", [True, False, False, True], torch.bool),
    "BF16": ("H", [1.0, -2.0, 0.15625, 2**-126], torch.bfloat16)}


def packed(dtype: str) -> bytes:
    letter, values, _ = NUMBERS[dtype]
    if dtype == "BF16":
        values = [struct.unpack("<I", struct.pack("<f", value))[0] >> 16 for value in values]
    return struct.pack(f"<{len(values)}{letter}", *values)


@pytest.mark.parametrize("blanks", range(9))
def test_every_type_at_every_place(tmp_path, blanks):
    """One byte before each tensor, and blanks behind the header, so that numbers begin anywhere."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for dtype in NUMBERS:
        header[f"{dtype}.byte"] = entry("U8", [1], len(data), len(data) + 1)
        data += bytes([blanks + 1])
        header[dtype] = entry(dtype, [2, 1, 2], len(data), len(data) + len(packed(dtype)))
        data += packed(dtype)
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes(json.dumps(header).encode() + b" " * blanks, data))
    tensors = read_safetensors(str(path))
    assert list(tensors) == [name for name in header if name != "__metadata__"]
    for dtype, (_, values, torch_dtype) in NUMBERS.items():
        assert tensors[dtype].dtype == torch_dtype and tensors[dtype].shape == (2, 1, 2)
        assert tensors[dtype].flatten().tolist() == values
        assert tensors[f"{dtype}.byte"].tolist() == [blanks + 1]
        (tensors[dtype] + tensors[dtype]).sum()                                 # torch can use it


def test_scalars_empty_tensors_and_any_order(tmp_path):
    path = tmp_path / "model.safetensors"
    header = {"b": entry("F32", [1, 2], 4, 12), "no": entry("I8", [3, 0], 12, 12)}
    header["a"] = entry("F32", [], 0, 4)
    path.write_bytes(safetensors_bytes(header, struct.pack("<3f", 1, 2, 3)))
    tensors = read_safetensors(path)
    assert tensors["b"].tolist() == [[2, 3]] and tensors["no"].shape == (3, 0) and tensors["a"].shape == ()
    assert tensors["a"].item() == 1 and list(tensors) == ["b", "no", "a"]
    path.write_bytes(safetensors_bytes({}))
    assert read_safetensors(path) == {}


def test_writing_to_a_tensor_leaves_the_file_alone(tmp_path):
    path = tmp_path / "model.safetensors"
    content = safetensors_bytes(json.dumps({"a": entry("F32", [2], 0, 8)}).encode().ljust(80), bytes(8))
    path.write_bytes(content)
    read_safetensors(path)["a"].add_(1)
    assert path.read_bytes() == content and read_safetensors(path)["a"].tolist() == [0, 0]


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    header = {"__metadata__": {"by": "hand"}, "a": entry("F32", [2, 2], 0, 16), "b": entry("I8", [5], 16, 21)}
    content = safetensors_bytes(header, bytes(range(21)))
    for n in range(len(content)):
        path.write_bytes(content[:n])
        refused(lambda: read_safetensors(path), path, f"({n} bytes)")
    path.write_bytes(content)
    assert read_safetensors(path)["b"].tolist() == [16, 17, 18, 19, 20]


@pytest.mark.parametrize("length", [25, 2**31, 2**32 + 16, 2**63 - 8, 2**63, 2**64 - 8, 2**64 - 1])
def test_a_huge_header(tmp_path, length):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}".ljust(24))   # only the length is wrong
    refused(lambda: read_safetensors(path), path)
    path.write_bytes(struct.pack("<Q", 24) + b"{}".ljust(24))
    assert read_safetensors(path) == {}


def test_no_file(tmp_path):
    path = tmp_path / "gone.safetensors"
    refused(lambda: read_safetensors(path), path, "no such file")


F32 = entry("F32", [4], 0, 16)
BROKEN = {
    "no json": b"not json", "empty": b"", "zeros": bytes(16), "null": b"null", "number": b"17", "string": b'"a"',
    "list": b"[]", "list of pairs": b'[["a", 1]]', "html": b"<html>sorry</html>", "no utf-8": b'{"\xff": 1}',
    "half": b'{"a": {"dtype": "F32"', "endless number": b'{"a": ' + b"1" * 5_000 + b"}",
    "nested lists": b"[" * 100_000, "nested dicts": b'{"a":' * 100_000, "entry: list": {"a": []},
    "entry: number": {"a": 1}, "entry: empty": {"a": {}}, "no dtype": {"a": {"shape": [4], "data_offsets": [0, 16]}},
    "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 16]}}, "no offsets": {"a": {"dtype": "F32", "shape": [4]}},
    "dtype unknown": {"a": {**F32, "dtype": "F4"}}, "dtype null": {"a": {**F32, "dtype": None}},
    "dtype list": {"a": {**F32, "dtype": ["F32"]}}, "shape null": {"a": {**F32, "shape": None}},
    "shape number": {"a": {**F32, "shape": 4}}, "shape string": {"a": {**F32, "shape": "4"}},
    "shape float": {"a": {**F32, "shape": [4.0]}}, "shape nested": {"a": {**F32, "shape": [[4]]}},
    "shape too small": {"a": {**F32, "shape": [3]}}, "shape too large": {"a": {**F32, "shape": [5]}},
    "shape huge": {"a": {**F32, "shape": [10**30]}}, "shape negative": {"a": {**F32, "shape": [-4]}},
    "shape negative twice": {"a": {**F32, "shape": [-2, -2]}},
    "shape to be guessed": {"a": {**F32, "shape": [-1, -4]}}, "length negative": {"a": entry("F32", [-4], 16, 0)},
    "shape overflows": {"a": entry("F32", [2**62, 4, 0], 0, 0)},
    "shape overflows more": {"a": entry("F32", [10**30, 0], 0, 0)},
    "offsets null": {"a": {**F32, "data_offsets": None}}, "offsets string": {"a": {**F32, "data_offsets": "ab"}},
    "offsets one": {"a": {**F32, "data_offsets": [0]}}, "offsets three": {"a": {**F32, "data_offsets": [0, 16, 16]}},
    "offsets float": {"a": {**F32, "data_offsets": [0.0, 16.0]}},
    "offsets nan": {"a": {**F32, "data_offsets": [0, math.nan]}},
    "offsets infinite": {"a": {**F32, "data_offsets": [0, math.inf]}},
    "offsets reversed": {"a": entry("F32", [4], 16, 0)}, "offsets negative": {"a": entry("F32", [4], -16, 0)},
    "in the header": {"a": entry("F32", [4], -4, 12)}, "out of range": {"a": entry("F32", [4], 8, 24)},
    "far out of range": {"a": entry("U8", [1], 2**40, 2**40 + 1)},
    "one byte out": {"a": F32, "b": entry("U8", [1], 16, 17)},
    "empty, out of range": {"a": F32, "b": entry("U8", [0], 17, 17)},
    "overlap": {"a": F32, "b": entry("F32", [2], 8, 16)}, "twice": {"a": F32, "b": F32},
    "hole": {"a": entry("F32", [1], 0, 4), "b": entry("F32", [2], 8, 16)},
    "more behind": {"a": entry("F32", [3], 0, 12)}}


@pytest.mark.parametrize("header", [pytest.param(header, id=name) for name, header in BROKEN.items()])
def test_a_broken_header(tmp_path, header):
    """With 16 bytes of data behind it."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes({"a": F32}, bytes(16)))
    assert read_safetensors(path)["a"].tolist() == [0] * 4
    path.write_bytes(safetensors_bytes(header, bytes(16)))
    refused(lambda: read_safetensors(path), path)


# ---- pictures

def test_png_of_a_view(tmp_path):
    """Pixels that do not lie in the order of the picture: a transposed, mirrored one."""
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3).transpose(1, 0, 2)[::-1]
    write_png(tmp_path / "a.png", pixels)
    assert (read_png(tmp_path / "a.png") == pixels).all()


def test_png_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_png(path, np.zeros((2, 2), np.uint8))
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("os.fsync", full)
    with contextlib.suppress(OSError):
        write_png(path, np.ones((3, 3), np.uint8))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("N, C, columns, pad", [
    (5, 3, 3, 2), (5, 1, 3, 1), (6, 3, 3, 0), (2, 1, 8, 2), (1, 3, 1, 2)])
def test_grid(N, C, columns, pad):
    """Pixel by pixel: image i stands in row i // columns, and all around is white."""
    H, W, images = 3, 4, torch.rand(N, C, 3, 4, generator=torch.Generator().manual_seed(0))
    sheet = grid(images, columns, pad)
    columns = min(columns, N)
    rows = math.ceil(N / columns)
    assert sheet.dtype == np.uint8 and sheet.shape == (rows * (H + pad) + pad, columns * (W + pad) + pad, C)
    for y in range(sheet.shape[0]):
        for x in range(sheet.shape[1]):
            (row, v), (column, u) = divmod(y - pad, H + pad), divmod(x - pad, W + pad)
            i = row * columns + column
            inside = y >= pad and x >= pad and v < H and u < W and i < N
            expected = (images[i, :, v, u] * 255).round().tolist() if inside else [255] * C
            assert sheet[y, x].tolist() == expected, (y, x)


def test_grid_of_any_floats():
    """Clipped, rounded, half precision, a gradient, numpy; by default 8 columns, 2 pixels between."""
    row = torch.tensor([-3.0, 0, 0.5 / 255 + 1e-4, 0.5, 0.999, 1, 1.01, 99], requires_grad=True)
    sheet = grid(row.view(1, 1, 1, 8), pad=0)
    assert sheet[0, :, 0].tolist() == [0, 0, 1, 128, 255, 255, 255, 255]
    for images in (torch.zeros(9, 3, 4, 4).half(), np.zeros((9, 3, 4, 4))):
        assert grid(images).shape == (2 * 6 + 2, 8 * 6 + 2, 3)


@pytest.mark.parametrize("N, C, size, columns, scale", [
    (8, 3, 16, 8, 5), (64, 3, 32, 8, 3), (1, 1, 28, 8, 19), (9, 3, 73, 8, 1), (9, 3, 80, 8, 1), (4, 1, 596, 1, 1)])
def test_a_sheet_is_large_enough_to_be_seen(N, C, size, columns, scale):
    """At least 600 pixels wide: each pixel is a square, as small as will do."""
    images = 2 * torch.rand(N, C, size, size, generator=torch.Generator().manual_seed(0)) - 1
    small, large = grid(images / 2 + 0.5, columns), sheet(images, columns)
    assert large.shape[1] >= 600 and (scale == 1 or (scale - 1) * small.shape[1] < 600)
    assert np.array_equal(large, small.repeat(scale, axis=0).repeat(scale, axis=1))


def test_names_of_rows_and_columns():
    """A name stands on white beside the middle of its row, or above the middle of its column; a long one in lines
    that do not reach the next row. The last row has none."""
    images, plain = -torch.ones(6, 3, 16, 16), sheet(-torch.ones(6, 3, 16, 16), 2)
    names = ["one", "a long name which takes several lines that are not cut off"]
    picture = sheet(images, 2, row_names=names, column_names=["left", "right"])
    H, W, _ = plain.shape
    assert np.array_equal(picture[-H:, -W:], plain)
    top, left = np.subtract(picture.shape[:2], (H, W))
    (row, column), = find_text(picture, "one")
    assert column + 36 < left and abs(row + 12 - (top + H / 6)) < 20
    (row, column), = find_text(picture, "right")
    assert row + 24 < top + 10 and abs(column + 30 - (left + W * 3 / 4)) < 20
    inked = np.nonzero((picture[:, :left, 0] == 0).any(axis=1))[0]
    assert inked.max() < top + H * 2 / 3

    picture = sheet(-torch.ones(24, 1, 16, 16), 8, row_names=["first, in two lines", names[1], "third"])
    row_height = sheet(-torch.ones(24, 1, 16, 16), 8).shape[0] // 3
    assert row_height // 24 == 3                        # lines in the height of a row
    of_rows = [picture[i * row_height:(i + 1) * row_height, :200, 0] == 0 for i in range(3)]
    assert all(row.any() for row in of_rows) and not any(row[[0, -1]].any() for row in of_rows)
    assert (picture == 0).any() and sheet(images, 2, row_names=[""]).shape[0] == H
