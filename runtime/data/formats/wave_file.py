"""WAV files: whole numbers of 8 to 32 bits, or floats of 32 or 64, in any number of channels.

In: a path. Out: what the header says of the samples, or the samples from -1 to 1; and samples as a
file of 16 bits. The standard
module `wave` is not used: it knows the extensible header from Python 3.12 on, and no floats.

    RIFF size WAVE  { name size content [0] }…      chunks of even length; sizes in 4 bytes, little
    fmt             format, channels, samples per second, …, bits; extensible: the format again
    data            the samples

A program that writes to a pipe does not know the sizes, and cannot go back: ffmpeg writes
0xFFFFFFFF or 0, SoX 0x7FFFF000. Then the samples go on to the end of the file.
Tests: tests/runtime/test_sounds_and_images.py.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ....dsl.regular_files import open_regular
from ..core.decompress import AGAIN, readable

WHOLE, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
# What follows the format's number in the extensible header, where it is one of those above.
STANDARD = b"\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"
FORMATS = {2: "ADPCM", 6: "A-law", 7: "µ-law", 0x11: "IMA ADPCM", 0x50: "MPEG", 0x55: "MP3"}
# the bytes of a sample; of whole numbers with fewer bits than that, the lower ones are zeros
WIDTHS = {WHOLE: (1, 2, 3, 4), FLOAT: (4, 8)}
STREAMED = 0x7FFFF000  # from this size on, more than there is means: to the end


class OtherSamples(Exception):
    """The samples of a WAV file are coded in a way that is not read here; which, in words."""


@dataclass(frozen=True)
class Sound:
    """Where the samples of a file are, and what they are."""

    kind: int  # WHOLE or FLOAT
    width: int  # bytes of a sample
    channels: int
    rate: int  # samples per second
    begin: int
    count: int  # of each channel: that the header states, or as many as there are


def read_header(path: Path) -> Sound:
    """What a file says of its samples; E0602, E0603, E0613 or E0617, or OtherSamples."""
    with readable(path), open_regular(path) as file:
        return _read_header(file, path)


def read_samples(path: Path) -> tuple[np.ndarray, int]:
    """All samples, f64 [n, channels] from -1 to 1, and how many are in a second; errors as
    `read_header`."""
    with readable(path), open_regular(path) as file:
        sound = _read_header(file, path)
        file.seek(sound.begin)
        frame = sound.width * sound.channels
        raw = file.read(sound.count * frame)
    found = len(raw) // frame
    if found < sound.count:
        message = f"{path} is cut off: {found} samples, and its header promises {sound.count}"
        raise fail("E0603", message, help=AGAIN)
    return _decoded(raw, sound).reshape(-1, sound.channels), sound.rate


def wave_bytes(samples: np.ndarray, rate: int) -> bytes:
    """A file of one channel in 16 bits: samples [n] from -1 to 1, `rate` of them in a second. What
    is beyond is cut there."""
    # 32,768 as in reading, so that a sound of 16 bits is written as it was read.
    whole = np.clip(np.round(samples.astype(np.float64) * 32768), -32768, 32767)
    content = whole.astype("<i2").tobytes()
    form = struct.pack("<IHHIIHH", 16, WHOLE, 1, rate, 2 * rate, 2, 16)
    head = b"WAVEfmt " + form + b"data" + struct.pack("<I", len(content))
    return b"RIFF" + struct.pack("<I", len(head) + len(content)) + head + content


def _decoded(raw: bytes, sound: Sound) -> np.ndarray:
    """Samples f64; whole numbers are divided by the largest power of two among them."""
    if sound.kind == FLOAT:
        return np.frombuffer(raw, f"<f{sound.width}").astype(np.float64)
    if sound.width == 1:  # unsigned, with silence at 128
        return (np.frombuffer(raw, np.uint8) - 128.0) / 128
    if sound.width == 3:
        # Three bytes become the upper three of four, which keeps the sign.
        wide = np.zeros((len(raw) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0] / 2.0**31
    return np.frombuffer(raw, f"<i{sound.width}") / 2.0 ** (8 * sound.width - 1)


def _read_header(file: BinaryIO, path: Path) -> Sound:
    """What the file says of its samples, checked against its length."""
    length = file.seek(0, 2)
    file.seek(0)
    start = file.read(12)
    if not start:
        raise fail("E0603", f"{path} is empty", help=AGAIN)
    if start[:4] not in (b"RIFF", b"RF64") or start[8:12] != b"WAVE":
        raise fail("E0602", f"{path} is not a WAV file: it begins with {start!r}")
    described: Sound | None = None
    while True:
        head = file.read(8)
        if len(head) < 8:
            what = "has no samples" if described else "is cut off within its header"
            raise fail("E0603", f"{path} is damaged: it {what}", help=AGAIN)
        name, size = head[:4], int.from_bytes(head[4:], "little")
        begin, left = file.tell(), length - file.tell()
        if name == b"data":
            if described is None:
                raise fail("E0603", f"{path} is damaged: its samples are not described", help=AGAIN)
            # Without a size in front of the whole, none of the samples is one of "no samples".
            unknown = size == 0 and start[4:8] in (b"\0\0\0\0", b"\xff\xff\xff\xff")
            if unknown or (size >= STREAMED and size > left):
                size = left
            count = size // (described.width * described.channels)
            if not count:
                raise fail("E0613", f"{path} holds no samples", help="remove it")
            return replace(described, begin=begin, count=count)
        if size > left:
            raise fail("E0603", f"{path} is cut off within its header", help=AGAIN)
        if name == b"fmt ":
            described = _read_format(file.read(min(size, 40)), path)
        file.seek(begin + size + size % 2)  # a chunk of odd length is followed by a zero


def _read_format(content: bytes, path: Path) -> Sound:
    """The samples that the chunk `fmt ` describes; E0603, or OtherSamples."""
    if len(content) < 16:
        raise fail("E0603", f"{path} is cut off within its header", help=AGAIN)
    kind, channels, rate, _, frame, bits = struct.unpack("<HHIIHH", content[:16])
    if kind == EXTENSIBLE and content[26:40] == STANDARD:
        # Here `bits` is the room of a sample, and how many of them count does not matter: the
        # others, behind them, are zeros.
        kind = int.from_bytes(content[24:26], "little")
    if not channels or not rate:
        message = f"{path} is damaged: {channels} channels, {rate} samples per second"
        raise fail("E0603", message, help=AGAIN)
    width = frame // channels
    if width not in WIDTHS.get(kind, ()) or frame != width * channels or bits > 8 * width:
        known = FORMATS.get(kind, f"format {kind}")
        raise OtherSamples(f"{bits} bits" if kind in WIDTHS else known)
    return Sound(kind, width, channels, rate, 0, 0)
