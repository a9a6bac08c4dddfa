"""What a file is by its first bytes, where it is not the text that its name promises, and what to do about it."""

from __future__ import annotations

import codecs
from pathlib import Path

from xtrain.errors import Problem

FIRST = 1 << 16
"""As many bytes are looked at."""
_UNPACKED = (  # first bytes, what such a file is, the command that writes what is packed in it
    (b"\x1f\x8b", "compressed with gzip", "gunzip -c"),
    *((b"BZh%d1AY&SY" % level, "compressed with bzip2", "bunzip2 -c") for level in range(1, 10)),
    (b"\xfd7zXZ\x00", "compressed with xz", "xz -dc"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "zstd -dc"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "lz4 -dc"),
    (b"PK\x03\x04", "a zip archive (or a document of an office program)", "unzip -p"),
)
_OTHERS = (  # first bytes, what such a file is, what to do
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it: 7z x {name}"),
    (b"Rar!\x1a\x07", "a rar archive", "unpack it: unrar x {name}"),
    (b"%PDF-", "a PDF document", "take the text out of it: pdftotext {name}"),
    (
        b"PAR1\x15",
        "a parquet file",
        "name its folder with hub = in the task's source: such folders are read as they are",
    ),
    (b"ARROW1", "an Arrow file", "name its folder with hub = in the task's source: such folders are read as they are"),
    (b"SQLite format 3\x00", "an SQLite database", "export the table: sqlite3 -csv -header {name} 'select * from ...'"),
    (b"\x93NUMPY", "an array of NumPy", "write its rows as one JSON object a line"),
    (b"\x89HDF", "an HDF5 file", "write its rows as one JSON object a line"),
    (b"\xd0\xcf\x11\xe0", "a document of an old office program", "save it as csv or as text in UTF-8"),
)
_POINTER = b"version https://git-lfs.github.com/spec/"
_PICKLE = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_MARKS = (  # byte order marks; those of UTF-32 first, for UTF-16's begins one of them
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_TEXT = "text in UTF-8"


def foreign(path: Path, first: bytes) -> Problem | None:
    """What is wrong with ``path``, whose first bytes these are, if it is no plain text in UTF-8; None if it may be."""
    for magic, what, command in _UNPACKED:
        if first.startswith(magic):
            remedy = f"unpack it: {command} {path.name} > {_unpacked(path)}"
            return Problem(str(path), f"is {what}", _TEXT, f"{remedy} (and name that file, or put it in its place)")
    for magic, what, remedy in _OTHERS:
        if first.startswith(magic):
            return Problem(str(path), f"is {what}", _TEXT, remedy.format(name=path.name))
    if first.startswith(_PICKLE):
        remedy = "write its rows as one JSON object a line where it comes from"
        return Problem(str(path), "is a pickle of Python, which is never read: it can run code", _TEXT, remedy)
    if first[257:262] == b"ustar":
        return Problem(str(path), "is a tar archive", _TEXT, f"unpack it: tar -xf {path.name}")
    if first.startswith(_POINTER):
        remedy = f'fetch the file itself: git lfs pull --include "*{path.name}" in the folder that was cloned'
        return Problem(str(path), "is a pointer of Git LFS, not the file that it stands for", _TEXT, remedy)
    page = first.removeprefix(codecs.BOM_UTF8).lstrip()[:64].lower()
    if page.startswith((b"<!doctype html", b"<html", b"<!doctype xhtml")):
        remedy = "open it in a browser to see what it says; download the file itself (its raw form, after logging in)"
        return Problem(str(path), "is an HTML page, not the file that it was downloaded as", _TEXT, remedy)
    encoding = _encoding(first)
    if encoding:
        remedy = f"convert it: iconv -f {encoding} -t UTF-8 {path.name} > {path.stem}.utf8{path.suffix}"
        return Problem(str(path), f"is text in {encoding}", _TEXT, remedy)
    return None


def not_utf8(path: Path, line: int, data: bytes, error: UnicodeDecodeError) -> Problem:
    """What to tell of the byte on ``line`` at which ``data`` stopped to be UTF-8, in a file of no other known kind."""
    place = error.start
    if data[place] == 0xED and data[place + 1 : place + 2] >= b"\xa0":
        what = "half of a surrogate pair stands there, which is no character"
        return Problem(f"{path}:{line}", what, _TEXT, "write the whole character, or remove it")
    return Problem(
        f"{path}:{line}",
        f"byte 0x{data[place]:02x} is not UTF-8",
        allowed=_TEXT,
        remedy=f"convert it, for example: iconv -f LATIN1 -t UTF-8 {path.name}",
    )


def _unpacked(path: Path) -> str:
    """A name for what is packed in ``path``."""
    if path.suffix.lower() in (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip"):
        return path.stem
    return f"{path.stem}.unpacked{path.suffix}"


def _encoding(first: bytes) -> str:
    """UTF-16 or UTF-32, if these bytes are text in it; with a byte order mark, or told by where the zeros are."""
    for mark, encoding in _MARKS:
        if first.startswith(mark) and len(first) % 2 == 0:
            return encoding
    if b"\0" not in first or first.startswith(codecs.BOM_UTF8):
        return ""
    for encoding, width, high in (("UTF-32LE", 4, 3), ("UTF-32BE", 4, 0), ("UTF-16LE", 2, 1), ("UTF-16BE", 2, 0)):
        if len(first) % width == 0 and _fits(first, encoding, width, high):
            return encoding
    return ""


def _fits(data: bytes, encoding: str, width: int, high: int) -> bool:
    """Whether ``data`` is text in ``encoding``; ``high`` is the place of a unit's highest byte.

    UTF-8 may hold a zero here and there, and zeros often pair up with what is beside them: there has to be a blank or a
    line end, and most bytes that look like one have to be one.
    """
    if not data or (width == 4 and data[high::4].strip(b"\0")):
        return False
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(data)
    except UnicodeDecodeError:
        return False
    low = width - 1 - high
    plain = sum(data[low::width].count(sign) for sign in b" \n")
    seen = sum(text.count(sign) for sign in " \n")
    return seen > 0 and plain <= 2 * seen and "\0" not in text
