"""The files of a folder that a user brings: which ones are read, and what is said about the others.

Texts, images and MIDI files are all found by `list_files`. `places` tells which of them lie in
folders called train, val or test.
"""
import os
import unicodedata
from collections import Counter, deque
from pathlib import Path
from typing import NamedTuple

from mini.utils.config import UserError, printable

# What systems put beside the user's files, in small letters. It is left out without a word.
JUNK = ("__macosx", "thumbs.db", "desktop.ini", ".ds_store")
JUNK_BEGINNING = "._"       # macOS keeps what it knows of a file in another one, ._name

# How folders are called that hold the parts of a data set, in small letters.
SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}

# What to do with files that cannot be read as they are: {suffix: advice}.
ADVICE = {
    **dict.fromkeys((".heic", ".heif", ".avif", ".svg", ".raw", ".dng", ".cr2", ".nef", ".psd"),
                    "save them as .jpg or .png"),
    **dict.fromkeys((".docx", ".doc", ".odt", ".rtf", ".pdf", ".epub"), "save them as .txt"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".rar", ".7z"), "unpack them"),
}

# How files begin that are not what their name says: (beginning, what it is and what to do).
ARCHIVE = "an archive: unpack it, and name the folder"
KINDS = (
    (b"<!doctype html", "an HTML page (a download that failed): fetch it again"),
    (b"<html", "an HTML page (a download that failed): fetch it again"),
    (b"<?xml", "XML (a download that failed?): fetch it again"),
    (b"<svg", "an SVG drawing: save it as .png"),
    (b"{", "JSON (a download that failed?): fetch it again"),
    (b"version https://git-lfs", "a pointer of git-lfs, not the file itself: run git lfs pull"),
    (b"%pdf", "a PDF file: save its pictures as .png or .jpg"),
    (b"pk\x03\x04", ARCHIVE),
    (b"pk\x05\x06", ARCHIVE),
    (b"rar!", ARCHIVE),
    (b"7z\xbc\xaf\x27\x1c", ARCHIVE),
    (b"bzh", ARCHIVE),
    (b"\xfd7zxz", ARCHIVE),
)


def what_is(content: bytes) -> str:
    """What a file is, judged by how it begins, and what to do: for files that are not what their
    name says. '' if it is nothing we know."""
    if not content.strip(b"\0"):
        return "nothing but zeros (a copy that failed)" if content else "an empty file"
    if content[257:262] == b"ustar":            # tar begins with the name of its first file
        return ARCHIVE
    start = content[:200].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for beginning, kind in KINDS:
        if start.startswith(beginning):
            return kind
    return ""


def list_files(folder, suffixes, what: str) -> list:
    """The files in a folder and below it whose names end in one of the suffixes, in any case; by
    name, so that the order is the same everywhere.

    Links to files and to folders are followed. A folder to which two ways lead is read once, so
    that a link to a folder above it does no harm. Hidden files and those of the system are left
    out. A line says how many files were left out, and why. what: "image", "text" or the like, for
    that line. Raises UserError, with that line in it, if there is no such file.
    """
    folder = Path(folder)
    found = []
    others = Counter()                  # {suffix: number of files that end in it}
    reasons = Counter()                 # {why something else was left out: how often}
    entered = set()                     # folders, by their true paths
    waiting = deque([folder])
    while waiting:
        current = waiting.popleft()
        true_path = os.path.realpath(current)
        if true_path in entered:
            reasons["links to folders that are read already"] += 1
            continue
        entered.add(true_path)
        try:
            entries = list(os.scandir(current))
        except OSError:
            reasons["folders that may not be opened"] += 1
            continue
        for entry in entries:
            name = entry.name.lower()
            suffix = os.path.splitext(name)[1]
            is_link = entry.is_symlink()
            is_folder = os.path.isdir(entry.path) if is_link else entry.is_dir()
            is_file = os.path.isfile(entry.path) if is_link else entry.is_file()
            if name in JUNK or name.startswith(JUNK_BEGINNING):
                continue
            if name.startswith("."):
                reasons["hidden ones"] += 1
            elif is_folder and is_link:
                waiting.append(Path(entry.path))            # after all folders that are none
            elif is_folder:
                waiting.appendleft(Path(entry.path))
            elif not is_file:
                is_there = os.path.exists(entry.path)
                reasons["devices and pipes" if is_there else "links that lead nowhere"] += 1
            elif suffix in suffixes:
                found.append(Path(entry.path))
            else:
                others[suffix] += 1

    left_out = _describe(others, reasons, what)
    if not found:
        known = ", ".join(suffixes)
        ending = f"; {left_out}" if left_out else ""
        raise UserError(f"{folder}: there is no {what} in the folder ({known}){ending}")
    if left_out:
        print(printable(f"note: {folder}: {left_out}"), flush=True)
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def _describe(others: Counter, reasons: Counter, what: str) -> str:
    """What was left out, as in "left out: 21 files that are no images: .heic 20, .txt 1"."""
    parts = []
    n = others.total()
    if n > 0:
        most_first = sorted(others.items(), key=lambda item: (-item[1], item[0]))
        kinds = []
        for suffix, count in most_first:
            kinds.append(f"{suffix or 'without a suffix'} {count}")
        if len(kinds) > 6:
            kinds[6:] = ["…"]
        files = f"1 file that is no {what}" if n == 1 else f"{n:,} files that are no {what}s"
        parts.append(f"{files}: {', '.join(kinds)}")
    for reason, count in reasons.items():
        parts.append(f"{reason}: {count:,}")
    for advice in dict.fromkeys(ADVICE.values()):
        meant = [suffix for suffix in others if ADVICE.get(suffix) == advice]
        if meant:
            parts.append(f"{', '.join(meant)}: {advice}")
    return f"left out: {'; '.join(parts)}" if parts else ""


# ---- the parts of a data set

class Place(NamedTuple):
    path: Path
    split: str          # "train", "val" or "test", if its folder says so; or ""
    folders: tuple      # the names of the folders in which it lies, below that one


def places(folder, paths) -> list:
    """Where files lie in a folder: a Place for each of them.

    A folder around everything does not count: zip files often hold one. Sub-folders called train,
    and val or test, are the parts of a data set, as in SPLITS; files beside them are left out,
    since it is not known to which part they belong, and a line says so.
    """
    inside = [normal(path.relative_to(folder).parts) for path in paths]
    while all(len(parts) > 1 for parts in inside) and len({parts[0] for parts in inside}) == 1:
        inside = [parts[1:] for parts in inside]

    splits = []
    for parts in inside:
        is_below = len(parts) > 1
        splits.append(SPLITS.get(parts[0].lower(), "") if is_below else "")
    kinds = set(splits)
    are_parts = "train" in kinds and ("val" in kinds or "test" in kinds)
    if not are_parts and "" in kinds:
        return [Place(path, "", parts[:-1]) for path, parts in zip(paths, inside)]
    placed = [Place(path, split, parts[1:-1])
              for path, split, parts in zip(paths, splits, inside) if split]
    n_beside = len(paths) - len(placed)
    if n_beside:
        beside = "beside the folders of training and held-out files"
        print(printable(f"note: {folder}: left out: {n_beside:,} {beside}"), flush=True)
    if not are_parts:                   # one of the parts alone: there is nothing to tell apart
        placed = [place._replace(split="") for place in placed]
    return placed


def normal(names) -> tuple:
    """Names of files as one compares and prints them: 'é' is one character (NFC), whether the
    system stores it as one or as two, and what is no UTF-8 is written as in Python."""
    return tuple(printable(unicodedata.normalize("NFC", name)) for name in names)


def find_file(folder, name: str) -> Path:
    """The path of the file `name` in a folder. If there is none, a file is taken whose name differs
    only in how the system stores accents, or in how folders are set apart (\\ or /)."""
    exact = Path(folder) / name
    if "\0" in name:
        return exact
    composed = Path(folder) / unicodedata.normalize("NFC", name)
    decomposed = Path(folder) / unicodedata.normalize("NFD", name)
    for likely in (exact, composed, decomposed):        # fast: the folder is not searched
        if likely.exists():
            return likely
    current = Path(folder)
    for part in name.replace("\\", "/").split("/"):
        following = current / part
        if not following.exists() and current.is_dir():
            for other in sorted(os.listdir(current)):
                if normal([other]) == normal([part]):
                    following = current / other
        current = following
    return current if current.exists() else exact
