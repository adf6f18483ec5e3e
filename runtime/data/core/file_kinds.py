"""What a file is, by its first bytes: for messages on a file that is something else than was meant.

In: a path. Out: a kind by a short name, and how a message calls it.
"""

from __future__ import annotations

import re
from pathlib import Path

from ....dsl.regular_files import open_regular
from .decompress import readable

START = 64  # bytes that are looked at
TEXT, IMAGE, SOUND, ARRAYS, GZIP, UNKNOWN = "text", "image", "sound", "arrays", "gzip", "unknown"
TABLE = "table"
NO_FORMAT = "bytes of no known format"
OLD_FEATHER = "a Feather table of version 1"
CONTROL = re.compile(rb"[\0-\x08\xff]")  # bytes that no text has

# first bytes → kind, and the name of the format
MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x93NUMPY", ARRAYS, "an .npy array"),
    (b"PK\x03\x04", ARRAYS, "a ZIP archive, as .npz is"),
    (b"PK\x05\x06", ARRAYS, "an empty ZIP archive"),
    (b"\xff\xd8\xff", IMAGE, "a JPEG image"),
    (b"\x89PNG\r\n", IMAGE, "a PNG image"),
    (b"GIF8", IMAGE, "a GIF image"),
    (b"II*\0", IMAGE, "a TIFF image"),
    (b"MM\0*", IMAGE, "a TIFF image"),
    (b"\x1f\x8b", GZIP, "a gzip file"),
    (b"ID3", SOUND, "an MP3 sound"),
    (b"\xff\xfb", SOUND, "an MP3 sound"),
    (b"\xff\xfa", SOUND, "an MP3 sound"),
    (b"\xff\xf3", SOUND, "an MP3 sound"),
    (b"\xff\xf2", SOUND, "an MP3 sound"),
    (b"fLaC", SOUND, "a FLAC sound"),
    (b"OggS", SOUND, "an Ogg sound"),
    (b".snd", SOUND, "an AU sound"),
    (b"%PDF", UNKNOWN, "a PDF document"),
    (b"PAR1", TABLE, "a Parquet table"),
    (b"ARROW1", TABLE, "an Arrow table"),
    (b"\xff\xff\xff\xff", TABLE, "a stream of Arrow"),
    (b"FEA1", UNKNOWN, OLD_FEATHER),
    (b"\x89HDF\r\n", UNKNOWN, "an HDF5 file"),
    (b"\x80\x04", UNKNOWN, "a Python pickle"),
    (b"\x80\x05", UNKNOWN, "a Python pickle"),
)


def kind_of(path: Path) -> tuple[str, str]:
    """A kind from `TEXT` to `UNKNOWN`, and the format's name; E0617 if it cannot be read."""
    with readable(path), open_regular(path) as file:
        start = file.read(START)
    for magic, kind, name in MAGIC:
        # A table of text may have a first column of such a name.
        if start.startswith(magic) and (kind != TABLE or CONTROL.search(start)):
            return kind, name
    if start[:4] in (b"RIFF", b"RF64"):
        return {b"WAVE": (SOUND, "a WAV sound"), b"WEBP": (IMAGE, "a WebP image")}.get(
            start[8:12], (UNKNOWN, "a RIFF file")
        )
    if start[:4] == b"FORM" and start[8:12] in (b"AIFF", b"AIFC"):
        return SOUND, "an AIFF sound"
    # Two letters are few: a text may begin with them, but hardly with the zeros that follow.
    if start[:2] == b"BM" and b"\0" in start:
        return IMAGE, "a BMP image"
    if start[:2] in (b"P5", b"P6") and start[2:3].isspace():
        return IMAGE, "a PNM image"
    return (UNKNOWN, NO_FORMAT) if b"\0" in start else (TEXT, "a text")
