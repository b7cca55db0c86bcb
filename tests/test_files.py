"""mini/data/files.py: which files of a folder are read, and what is said about the others; and that no reader waits
for a pipe."""
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

import train_gpt
from mini.data.download import download
from mini.data.images.captions import read_captions
from mini.data.images.image_folder import read_pictures
from mini.data.images.image_sets import read_images
from mini.data.files import find_file, list_files, places, what_is
from mini.data.music.tunes import BEAT, compose, read_corpus
from mini.data.music.midi import read_midi, write_midi
from mini.data.safetensors import read_safetensors, read_weights
from mini.data.text import corpus
from mini.data.text.pairs import load_pairs
from mini.data.text.reviews import read_reviews
from mini.data.text.tokenizers import BPETokenizer
from mini.data.text.tools import read_facts
from mini.data.text.wordpiece import WordPieceTokenizer
from mini.data.weights import read_config, read_gpt
from mini.utils import curves
from mini.utils.config import UserError, printable, require_file
from mini.utils.folder import Lock, check_folder
from mini.utils.png import read_image, read_png
from mini.utils.run import load_checkpoint, remark_on_short_run
from tests.helpers import processes, refused, refused_by

LATIN_1 = b"caf\xe9"                # not UTF-8


def write(folder: Path, *names):
    """Files with their own names in them."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))


def names_of(folder, suffixes=(".txt",)) -> list:
    return [path.relative_to(folder).as_posix() for path in list_files(folder, suffixes, "text")]


def link(at: Path, to: Path):
    try:
        at.symlink_to(to)
    except OSError:                 # Windows asks for a privilege
        pytest.skip("no symbolic links here")


def test_any_case_in_the_order_of_names(tmp_path, capsys):
    wanted = ["A.TXT", "Z.txt", "b.Txt", "b.txt.d/a.txt", "part/a.txt", "part/deep/c.txt", "part2/a.txt"]
    write(tmp_path, *reversed(wanted))
    assert names_of(tmp_path) == wanted and capsys.readouterr().out == ""


def test_what_is_left_out_and_why(tmp_path, capsys):
    write(tmp_path, "a.txt", "b.heic", "c.HEIC", "d.pdf", "README", ".secret.txt", ".git/x.txt")
    write(tmp_path, "__MACOSX/._a.txt", "._a.txt", ".DS_Store", "Thumbs.db", "desktop.ini", "sub/__macosx/b.txt")
    assert names_of(tmp_path) == ["a.txt"]
    assert capsys.readouterr().out == (
        f"note: {tmp_path}: left out: 4 files that are no texts: .heic 2, without a suffix 1, .pdf 1; hidden "
        "ones: 2; .heic: save them as .jpg or .png; .pdf: save them as .txt\n")


def test_nothing_is_left(tmp_path):
    refused(lambda: names_of(tmp_path), f"{tmp_path}: there is no text in the folder (.txt)")
    write(tmp_path, "photos.zip")
    refused(lambda: names_of(tmp_path), tmp_path, "no text in the folder (.txt)",
            "left out: 1 file that is no text: .zip 1; .zip: unpack them")


def test_links_are_followed(tmp_path, capsys):
    write(tmp_path, "drive/a.txt", "drive/deep/b.txt", "elsewhere.txt", "folder/own.txt")
    folder = tmp_path / "folder"
    link(folder / "data", tmp_path / "drive")
    link(folder / "one.txt", tmp_path / "elsewhere.txt")
    assert names_of(folder) == ["data/a.txt", "data/deep/b.txt", "one.txt", "own.txt"]
    link(tmp_path / "linked", folder)                       # the folder itself may be a link
    assert len(names_of(tmp_path / "linked")) == 4 and capsys.readouterr().out == ""


def test_links_in_a_circle_and_to_nowhere(tmp_path, capsys):
    write(tmp_path, "a.txt", "z/b.txt")
    link(tmp_path / "z/up", tmp_path)
    link(tmp_path / "again", tmp_path / "z")                # the folder counts, not the link to it
    link(tmp_path / "gone.txt", tmp_path / "nothing")
    link(tmp_path / "self", tmp_path / "self")
    assert names_of(tmp_path) == ["a.txt", "z/b.txt"]
    out = capsys.readouterr().out
    assert "links to folders that are read already: 2" in out and "links that lead nowhere: 2" in out


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root opens all")
def test_a_folder_that_may_not_be_opened(tmp_path, capsys):
    write(tmp_path, "a.txt", "locked/b.txt")
    (tmp_path / "locked").chmod(0)
    assert names_of(tmp_path) == ["a.txt"] and "may not be opened: 1" in capsys.readouterr().out


# ---- train, val, test

def placed(folder, *names) -> list:
    write(folder, *names)
    return [(place.path.name, place.split, "/".join(place.folders))
            for place in places(folder, list_files(folder, (".txt",), "text"))]


def test_parts_of_a_data_set(tmp_path, capsys):
    assert placed(tmp_path / "a", "Train/cat/1.txt", "Train/2.txt", "VALID/cat/3.txt", "test/dog/4.txt") == [
        ("2.txt", "train", ""), ("1.txt", "train", "cat"), ("3.txt", "val", "cat"), ("4.txt", "test", "dog")]
    assert capsys.readouterr().out == ""
    assert placed(tmp_path / "b", "train/1.txt", "validation/2.txt", "loose.txt", "more/3.txt") == [
        ("1.txt", "train", ""), ("2.txt", "val", "")]
    assert "left out: 2 beside the folders of training" in capsys.readouterr().out


def test_what_are_no_parts(tmp_path):
    assert placed(tmp_path / "a", "train/1.txt", "boat/2.txt") == [("2.txt", "", "boat"), ("1.txt", "", "train")]
    assert placed(tmp_path / "b", "train/cat/1.txt", "train/dog/2.txt") == [("1.txt", "", "cat"), ("2.txt", "", "dog")]
    assert placed(tmp_path / "c", "test/cat/1.txt", "val/dog/2.txt") == [("1.txt", "", "cat"), ("2.txt", "", "dog")]
    assert placed(tmp_path / "d", "train.txt", "val.txt") == [("train.txt", "", ""), ("val.txt", "", "")]


def test_a_folder_around_everything_does_not_count(tmp_path):
    assert placed(tmp_path, "pets/data/train/cat/1.txt", "pets/data/test/cat/2.txt") == [
        ("2.txt", "test", "cat"), ("1.txt", "train", "cat")]


def test_texts_in_parts(tmp_path, capsys):
    write(tmp_path, "test/a.txt", "train/b.txt", "train/c.txt", "val/d.txt")
    found = corpus.read_corpus(str(tmp_path))
    assert (found.train, found.val, found.test) == (["train/b.txt\n\ntrain/c.txt"], ["val/d.txt"], ["test/a.txt"])
    assert "train, val, test" in capsys.readouterr().out
    assert corpus.read_text(str(tmp_path)).split() == ["train/b.txt", "train/c.txt", "val/d.txt", "test/a.txt"]
    (tmp_path / "val/d.txt").write_text(" ")
    refused(lambda: corpus.read_corpus(str(tmp_path)), tmp_path, "no text in its folder val")
    (tmp_path / "val/d.txt").unlink()
    found = corpus.read_corpus(str(tmp_path))
    assert (found.val, found.test) == (["test/a.txt"], [])


def test_midi_in_parts(tmp_path, capsys):
    for i, name in enumerate(["train/a.mid", "train/b.MID", "valid/c.mid", "test/d.mid", "train/e.mid"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_midi(tmp_path / name, compose(i)[0], BEAT)
    training, held_out, _ = read_corpus(str(tmp_path), 0)
    assert (len(training), len(held_out)) == (3, 2) and "2 pieces in its folders" in capsys.readouterr().out
    assert sorted(len(piece) for piece in held_out) == sorted(len(compose(i)[0]) for i in (2, 3))


# ---- names

def test_either_form_of_an_accent(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    write(tmp_path, f"{composed}/{decomposed}.png")
    for folder in (composed, decomposed):
        for name in (composed, decomposed):
            for slash in "/\\":
                found = find_file(tmp_path, f"{folder}{slash}{name}.png")
                assert found.is_file() and found.parent.parent == tmp_path
    assert not find_file(tmp_path, "caf/cafe.png").exists()
    assert find_file(tmp_path, "a\0b") == tmp_path / "a\0b"


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="all names are Unicode there")
@pytest.mark.parametrize("encoding", ["utf-8", "ascii:backslashreplace"])
def test_a_name_that_is_not_utf_8(tmp_path, encoding):
    """Whatever is printed about it, it stops nothing."""
    folder = tmp_path / os.fsdecode(LATIN_1)
    folder.mkdir()
    (folder / os.fsdecode(LATIN_1 + b".mid")).write_bytes(b"<html>")
    (folder / os.fsdecode(LATIN_1 + b"." + LATIN_1)).write_bytes(b"?")
    for i in range(2):
        write_midi(folder / os.fsdecode(LATIN_1 + b"%d.mid" % i), compose(i)[0], BEAT)
    (tmp_path / "try.py").write_text(
        "import os\nfrom mini.data.music.tunes import read_corpus\nfrom mini.data.text.corpus import read_text\n"
        "folder = os.fsdecode(b'caf\\xe9')\nprint(len(read_corpus(folder, 0)[0]))\n"
        "try:\n    read_text(folder)\nexcept Exception as error:\n    print(error)\n")
    with processes(tmp_path) as start:
        out = start("try.py", PYTHONIOENCODING=encoding).communicate(timeout=60)[0]
    assert "Traceback" not in out and out.count("\n") == 4, out
    assert "left out: 1 file that is no MIDI file" in out and "an HTML page" in out and "no text in the folder" in out


def test_messages_can_be_printed():
    assert str(UserError("caf\udce9.png: damaged")) == "caf\\udce9.png: damaged" == printable("caf\udce9.png: damaged")
    assert printable("café Σ 😀") == "café Σ 😀"
    assert printable("a\n\r\t\x1b[2J\x7f\x85\u2028\u202e") == r"a\n\r\t\x1b[2J\x7f\x85\u2028\u202e"


@pytest.mark.parametrize("content, words", [
    (b"", "an empty file"), (bytes(9), "zeros"), (b"\n <!DOCTYPE HTML>", "HTML page"), (b"<html><p>", "HTML page"),
    (b"\xef\xbb\xbf<HTML>", "HTML page"), (b'{"message": "Not found"}', "JSON"), (b"PK\x03\x04abc", "unpack"),
    (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"), (b"<?xml version='1.0'?><Error>", "XML"),
    (b"name".ljust(257, b"\0") + b"ustar", "unpack"), (b"\x89PNG\r\n\x1a\n", ""), (b"MThd", ""), (b"hello", "")])
def test_what_a_file_is(content, words):
    assert words in what_is(content) and bool(words) == bool(what_is(content))


# ---- pipes and devices: reading a named pipe waits for somebody who writes into it, and /dev/zero has no end

with_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")


@pytest.fixture
def patience():
    """What takes longer than half a minute has waited, and fails."""
    def give_up(number, frame):
        pytest.fail("it waits for a pipe")      # no Exception, which a reader might take for its own
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


READERS = {
    "a.txt": lambda path: corpus.read_text(str(path)),
    "reviews.tsv": read_reviews,
    "pairs.tsv": lambda path: load_pairs(str(path), 1),
    "facts.tsv": read_facts,
    "captions.tsv": lambda path: read_captions(str(path), 8),
    "a.mid": read_midi,
    "a.png": lambda path: read_images(str(path)),
    "a.npz": lambda path: read_images(str(path)),
    "b.png": read_image,
    "c.png": read_png,
    "vocab.txt": WordPieceTokenizer.read,
    "vocab.json": lambda path: BPETokenizer.read(path.parent),
    "config.json": read_config,
    "model.safetensors": read_weights,
    "other.safetensors": read_safetensors,
    "model.safetensors.index.json": read_weights,
    "checkpoint.pt": lambda path: load_checkpoint(path, "gpt"),
    "run/checkpoint.pt": lambda path: read_gpt(train_gpt.Config(init_from=str(path.parent))),
    "log.csv": lambda path: curves.compare([path.parent]),
    ".lock": lambda path: Lock(path.parent),
    "data/fetched.gz": lambda path: download("fetched.gz", [], ""),
}


@with_pipes
@pytest.mark.parametrize("name", READERS)
def test_no_reader_waits_for_a_pipe(name, tmp_path, monkeypatch, patience):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    refused(lambda: READERS[name](path), name, "a pipe or a device")
    path.rename(tmp_path / "pipe")
    link(path, tmp_path / "pipe")
    refused(lambda: READERS[name](path), name, "a pipe or a device")


@with_pipes
def test_tokenizer_config_may_be_a_pipe_as_little(tmp_path, patience):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    os.mkfifo(tmp_path / "tokenizer_config.json")
    refused(lambda: WordPieceTokenizer.read(tmp_path / "vocab.txt"), "tokenizer_config.json", "a pipe")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no such device here")
def test_a_device_without_end(patience):
    """Memory was filled with zeros, up to its limit."""
    refused(lambda: corpus.read_text("/dev/zero"), "/dev/zero: a pipe or a device", "to a file first")
    refused(lambda: require_file("/dev/null"), "/dev/null")


def test_what_is_a_file(tmp_path):
    write(tmp_path, "a.txt")
    link(tmp_path / "b.txt", tmp_path / "a.txt")
    require_file(tmp_path / "a.txt")
    require_file(tmp_path / "b.txt")
    refused(lambda: require_file(tmp_path), tmp_path, "a folder")
    refused(lambda: require_file(tmp_path / "c.txt"), "c.txt: no such file")
    for path in (tmp_path, tmp_path / "c.txt"):
        refused(lambda: require_file(path, "nothing to read"), "nothing to read")


@with_pipes
def test_pipes_in_a_folder_are_left_out(tmp_path, capsys, monkeypatch, patience):
    shutil.copy(Path(__file__).parent / "reference/png/pillow_rgb.png", tmp_path / "a.png")
    for name in ("b.png", "data_batch_1.bin", "train-images-idx3-ubyte"):
        os.mkfifo(tmp_path / name)
    link(tmp_path / "c.png", tmp_path / "b.png")
    assert len(read_images(str(tmp_path), 8).images) == 1
    assert "devices and pipes: 4" in capsys.readouterr().out

    monkeypatch.setattr("mini.data.images.image_folder._cache_file", lambda *_: tmp_path / "b.png")
    assert len(read_pictures([tmp_path / "a.png"], 8)) == 1         # a cache that is none is not used


@with_pipes
def test_pipes_in_the_folder_of_a_run(tmp_path, capsys, patience):
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 60)
    run = [f"--out_dir={tmp_path}/run", f"--data={tmp_path}/text.txt", "--tokenizer=char", "--n_layer=1", "--n_head=1",
           "--n_embd=8", "--block_size=8", "--batch_size=2", "--max_new_tokens=5", "--steps=2", "--device=cpu"]
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run/config.json")
    refused(lambda: check_folder(tmp_path / "run"), "not a run (config.json)")
    (tmp_path / "run/config.json").unlink()
    os.mkfifo(tmp_path / "run/.lock")
    assert ".lock: a pipe" in refused_by(train_gpt.main, capsys, *run)
    (tmp_path / "run/.lock").unlink()
    train_gpt.main(run)

    (tmp_path / "run/log.csv").unlink()
    os.mkfifo(tmp_path / "run/log.csv")
    assert "log.csv: a pipe" in refused_by(train_gpt.main, capsys, *run, "--resume", "--steps=3")
    (tmp_path / "run.1").mkdir()
    os.mkfifo(tmp_path / "run.1/result.json")
    capsys.readouterr()
    remark_on_short_run(tmp_path / "run", 2)
    assert capsys.readouterr().out == f"note: the run in {tmp_path}/run has only 2 steps\n"
