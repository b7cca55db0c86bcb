"""The bytes of a file as text; or, if they are not UTF-8, what they are and what to do about it."""
from mini.utils.config import UserError, require

# How files of other kinds begin. Some of them are named .txt, .md or .tsv all the same.
KINDS = {
    b"%PDF": "a PDF document; save its text (pdftotext), and bring that",
    b"{\\rtf": "an RTF document; save it as plain text, in UTF-8",
    b"PK\x03\x04": "a zip archive, as .docx, .odt and .epub are; save it as plain text",
    b"\xd0\xcf\x11\xe0": "an old Office document (.doc, .xls); save it as plain text, in UTF-8",
    b"\x1f\x8b": "compressed by gzip; unpack it (gunzip)",
    b"BZh9": "compressed by bzip2; unpack it (bunzip2)",
    b"\xfd7zXZ": "compressed by xz; unpack it (unxz)",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it (unzstd)",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"Rar!\x1a": "a rar archive; unpack it",
    b"PAR1\x15": "a Parquet table; write its text to a file, for instance with pandas",
    b"SQLite format 3": "an SQLite database; write its text to a file",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF89a": "a GIF image", b"GIF87a": "a GIF image",
    b"MThd\x00": "a MIDI file; mini/music.py learns from those",
    b"\x80\x02": "a pickle of Python's", b"\x80\x03": "a pickle of Python's",
    b"\x80\x04": "a pickle of Python's", b"\x80\x05": "a pickle of Python's",
}

# Byte-order marks of other encodings than UTF-8. UTF-32's begins with UTF-16's, so it comes first.
MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16",
}


def decode(data: bytes, path) -> str:
    """The text of the bytes, which are UTF-8, with or without a byte-order mark.

    Raises UserError for any others. Many encodings could be decoded, but not told apart for sure:
    a guess that is wrong would only be noticed when the model has learnt nonsense.
    """
    for start, kind in KINDS.items():
        require(not data.startswith(start), f"{path}: not UTF-8 text (see byte 0), but {kind}")
    encoding = other_unicode(data)
    if encoding:
        raise UserError(f"{path}: not UTF-8 text, but {encoding}; {remedy(encoding)}")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        why = explain(error)
        raise UserError(f"{path}: not UTF-8 text (see byte {error.start}){why}") from None
    nul = data.find(b"\0")
    require(nul < 0, f"{path}: not UTF-8 text: byte {nul} is NUL, which no text holds; if it is "
                     "text all the same, take them out: tr -d '\\000' < old > new")
    return text.removeprefix("\ufeff")


def remedy(encoding: str) -> str:
    """What to do about a text in another encoding."""
    name = encoding.split()[0]
    return f"save it as UTF-8 (in an editor, or: iconv -f {name} -t UTF-8 old > new)"


def other_unicode(data: bytes) -> str:
    """The name of a Unicode encoding that is not UTF-8, if the bytes are surely in that; or ""."""
    for mark, name in MARKS.items():
        if data.startswith(mark):
            return name
    # Without a mark: the high bytes, which are always at the same place of a number, are mostly 0.
    n_nul = data.count(0)
    if n_nul == 0 or 20 * n_nul < len(data):
        return ""
    for name, width, high in (("UTF-32LE", 4, 3), ("UTF-32BE", 4, 0),
                              ("UTF-16LE", 2, 1), ("UTF-16BE", 2, 0)):
        whole = data[:len(data) // width * width]
        n_high = whole[high::width].count(0)
        likely = n_high == len(whole) // 4 if width == 4 else n_high >= 0.9 * n_nul
        if likely and is_encoded(whole, name):
            return f"{name} without a byte-order mark"
    return ""


def is_encoded(data: bytes, encoding: str) -> bool:
    """Can the bytes be read in this encoding, and give a text?"""
    try:
        return "\0" not in data.decode(encoding)
    except UnicodeDecodeError:
        return False


def explain(error: UnicodeDecodeError) -> str:
    """Why bytes are no UTF-8: a character is cut off at their end, or they are in an old encoding,
    of which the most common one shows how it would read."""
    data, at = error.object, error.start
    if error.reason == "unexpected end of data":
        return ": the last character is cut off; fetch the file again, or take that away"
    some = data[max(0, at - 10):at + 10].decode("cp1252", errors="replace")
    return (f"; if it should read {some!r} there, it is in cp1252 (or Latin-1): "
            f"{remedy('CP1252')}; if not, in another encoding, to be named in its place")
