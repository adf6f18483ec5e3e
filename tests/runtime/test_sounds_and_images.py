"""Sounds and images as programs really write them: the same content in every form is the same.

Each form is written byte by byte or by Pillow, and compared with the plain one.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import data
from nnc.runtime.data.formats.sound_file import read_sound, sound_length
from nnc.runtime.data.formats.wave_file import STANDARD


@pytest.fixture
def search(tmp_path, monkeypatch):
    monkeypatch.delenv("NNC_DATA", raising=False)
    return data.Search(None, tmp_path, offline=True, cache=tmp_path / "cache")


# ── sounds ───────────────────────────────────────────────────────────────────────────────────────

SAMPLES = np.array([0, 1, -1, 127, -128, 64, -64, 5, 100], np.int64)  # of 8 bits
RATE = 8000


def encoded(bits: int, kind: int) -> bytes:
    if kind == 3:
        return (SAMPLES / 128).astype(f"<f{bits // 8}").tobytes()
    if bits == 8:
        return (SAMPLES + 128).astype(np.uint8).tobytes()
    wide = (SAMPLES << (bits - 8)).astype("<i4" if bits != 16 else "<i2")
    if bits == 24:
        return b"".join(int(one).to_bytes(3, "little", signed=True) for one in SAMPLES << 16)
    return wide.tobytes()


def chunk(name: bytes, content: bytes, size: int | None = None) -> bytes:
    stated = len(content) if size is None else size
    return name + struct.pack("<I", stated) + content + b"\0" * (len(content) % 2)


def wav(
    bits: int = 16,
    kind: int = 1,
    extensible: bool = False,
    channels: int = 1,
    before: bytes = b"",
    behind: bytes = b"",
    data_size: int | None = None,
    riff_size: int | None = None,
    samples: bytes | None = None,
) -> bytes:
    width = channels * bits // 8
    written = 0xFFFE if extensible else kind
    form = struct.pack("<HHIIHH", written, channels, RATE, RATE * width, width, bits)
    if extensible:
        form += struct.pack("<HHIH", 22, bits, 4, kind) + STANDARD
    content = encoded(bits, kind) if samples is None else samples
    inside = chunk(b"fmt ", form) + before + chunk(b"data", content, data_size) + behind
    size = 4 + len(inside) if riff_size is None else riff_size
    return b"RIFF" + struct.pack("<I", size) + b"WAVE" + inside


LIST = chunk(b"LIST", b"INFOISFT\x05\0\0\0Lavf\0")  # of odd length, with its padding
STREAM = 0xFFFFFFFF
FORMS = {
    "plain": wav(),
    **{f"{bits} bits": wav(bits) for bits in (8, 24, 32)},
    **{f"float {bits}": wav(bits, 3) for bits in (32, 64)},
    **{f"extensible {bits}": wav(bits, 1, True) for bits in (8, 16, 24, 32)},
    "extensible float": wav(32, 3, True),
    "as ffmpeg writes to a pipe": wav(before=LIST, data_size=STREAM, riff_size=STREAM),
    "as other versions do": wav(data_size=0, riff_size=0),
    "and others": wav(data_size=0, riff_size=STREAM),
    "as SoX does": wav(data_size=0x7FFFF000, riff_size=0x7FFFF024),
    "as arecord does": wav(data_size=0x80000000, riff_size=0x80000024),
    "odd chunks before and behind": wav(before=chunk(b"junk", b"abc"), behind=LIST),
    "RF64": b"RF64" + wav(before=chunk(b"ds64", bytes(28)), data_size=STREAM)[4:],
    "a wrong size of the whole": wav(riff_size=0),
    "half a sample at the end": wav(samples=encoded(16, 1) + b"\x07"),
}


@pytest.mark.parametrize("form", FORMS)
def test_sounds_of_every_form_are_the_same(tmp_path, form):
    path = tmp_path / "a.wav"
    path.write_bytes(FORMS[form])
    np.testing.assert_array_equal(read_sound(path, RATE)[:, 0], SAMPLES / 128)
    assert sound_length(path, RATE) == len(SAMPLES)


@pytest.mark.parametrize(
    "content, code, told",
    [
        (wav(32, 3, samples=struct.pack("<f", np.nan) * 9), "E0603", "not finite"),
        (wav(data_size=400), "E0603", "cut off: 9 samples, and its header promises 200"),
        (wav(data_size=0), "E0613", "no samples"),
        (wav(samples=b""), "E0613", "no samples"),
        (wav(before=chunk(b"LIST", b"", 1 << 30)), "E0603", "cut off"),
        (b"RIFF\xff\xff\xff\xffWAVE" + chunk(b"data", bytes(8)), "E0603", "not described"),
    ],
)
def test_sounds_that_are_wrong(tmp_path, content, code, told):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_sound(path, RATE)
    (found,) = caught.value.diagnostics
    assert found.code == code
    assert told in found.message


# ── images ───────────────────────────────────────────────────────────────────────────────────────

ARROW = np.array([[[200, 0, 0], [0, 200, 0], [0, 0, 200]], [[9, 9, 9], [80, 80, 80], [250, 1, 2]]])
ARROW = ARROW.astype(np.uint8)


@pytest.fixture
def pillow():
    return pytest.importorskip("PIL.Image", reason="the image tests need Pillow")


def read(search, path, height=2, width=3, channels=3) -> np.ndarray:
    """The pixels of the one image in a folder of its own."""
    settings = {"folder": path.parent.parent.name, "size": [height, width], "channels": channels}
    found = data.load("images", {**settings, "test": 0}, search)
    return found.train.arrays["image"][0]


def place(search, name: str):
    path = search.base / name.replace(".", "_") / "one" / name
    path.parent.mkdir(parents=True)
    return path


def test_photographs_are_turned_as_their_camera_was(search, pillow):
    """For each of the eight orientations, what is stored is turned back to the same picture."""
    # EXIF: where row 0 and column 0 of what is stored lie in the picture as it is seen.
    stored = {
        1: ARROW,
        2: ARROW[:, ::-1],
        3: ARROW[::-1, ::-1],
        4: ARROW[::-1],
        5: ARROW.swapaxes(0, 1),
        6: ARROW.swapaxes(0, 1)[::-1],
        7: ARROW.swapaxes(0, 1)[::-1, ::-1],
        8: ARROW.swapaxes(0, 1)[:, ::-1],
    }
    for orientation, pixels in stored.items():
        for ending in ("png", "tiff"):
            path = place(search, f"o{orientation}.{ending}")
            exif = pillow.Exif()
            exif[0x0112] = orientation
            pillow.fromarray(np.ascontiguousarray(pixels)).save(path, exif=exif)
            np.testing.assert_array_equal(read(search, path), ARROW, err_msg=path.name)
    # As a JPEG, which decodes at a smaller scale, before it is turned.
    patches = ARROW.repeat(64, 0).repeat(64, 1)
    upright, photo = place(search, "upright.jpg"), place(search, "photo.jpg")
    exif = pillow.Exif()
    exif[0x0112] = 6
    turned = np.ascontiguousarray(patches.swapaxes(0, 1)[::-1])
    pillow.fromarray(patches).save(upright, quality=100, subsampling=0)
    pillow.fromarray(turned).save(photo, exif=exif, quality=100, subsampling=0)
    found = [read(search, path).astype(int) for path in (upright, photo)]
    assert np.abs(found[0] - found[1]).max() <= 4


HIDDEN = (200, 10, 10)  # a colour behind what cannot be seen


def test_what_is_transparent_is_white(search, pillow):
    def saved(name: str, image, **more) -> np.ndarray:
        path = place(search, name)
        image.save(path, **more)
        return read(search, path, 2, 2)

    clear = pillow.new("RGBA", (2, 2), (*HIDDEN, 0))
    clear.putpixel((0, 0), (0, 0, 255, 255))
    half = pillow.new("RGBA", (2, 2), (0, 0, 0, 51))
    grey = pillow.new("LA", (2, 2), (90, 0))
    grey.putpixel((0, 0), (90, 255))
    palette = pillow.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 255, *HIDDEN])
    palette.putpixel((0, 0), 0)
    keyed = pillow.new("RGB", (2, 2), HIDDEN)
    keyed.putpixel((0, 0), (0, 0, 255))
    keyed_grey = pillow.new("L", (2, 2), 7)
    keyed_grey.putpixel((0, 0), 90)
    blue, white = [0, 0, 255], [255, 255, 255]
    for name, image, more in (
        ("alpha.png", clear, {}),
        ("alpha.webp", clear, {"lossless": True, "exact": True}),
        ("alpha.tiff", clear, {}),
        ("palette.png", palette, {"transparency": 1}),
        ("palette-alpha.png", palette, {"transparency": b"\xff\x00"}),
        ("palette.gif", palette, {"transparency": 1}),
        ("key.png", keyed, {"transparency": HIDDEN}),
    ):
        found = saved(name, image, **more)
        assert found[0, 0].tolist() == blue, name
        assert found[1, 1].tolist() == white, name
    for name, image, more in (
        ("grey.png", grey, {}),
        ("key-grey.png", keyed_grey, {"transparency": 7}),
    ):
        found = saved(name, image, **more)
        assert found[0, 0].tolist() == [90] * 3, name
        assert found[1, 1].tolist() == white, name
    # 51 of 255 of black on white: four fifths of white
    assert np.all(saved("half.png", half) == 204)


def test_pixels_of_other_kinds_become_what_the_page_says(search, pillow):
    def saved(name: str, image, channels=3, **more) -> list:
        path = place(search, name)
        image.save(path, **more)
        return read(search, path, 2, 2, channels)[0, 0].tolist()

    frames = [pillow.new("RGB", (2, 2), colour) for colour in ((0, 0, 255), HIDDEN)]
    assert saved("moving.gif", frames[0], save_all=True, append_images=frames[1:]) == [0, 0, 255]
    assert saved("moving.png", frames[0], save_all=True, append_images=frames[1:]) == [0, 0, 255]
    assert saved("ink.tiff", pillow.new("CMYK", (2, 2), (255, 0, 0, 0))) == [0, 255, 255]
    assert saved("bits.png", pillow.new("1", (2, 2), 1)) == [255] * 3
    weighted = round(0.299 * 100 + 0.587 * 50 + 0.114 * 200)
    assert saved("weights.png", pillow.new("RGB", (2, 2), (100, 50, 200)), 1) == [weighted]
    # 16 bits of grey may be 12 of a camera, so nothing is assumed of their range
    for mode, value in (("I;16", 40_000), ("I", 1), ("F", 0.5)):
        path = place(search, f"deep{mode[0]}{len(mode)}.tiff")
        pillow.new(mode, (2, 2), value).save(path)
        with pytest.raises(UserError, match=r"E0611: .*more than 8 bits"):
            read(search, path)


def test_an_image_that_claims_to_be_huge_is_refused_before_it_is_decoded(search, pillow):
    path = place(search, "bomb.png")
    pillow.new("1", (4, 4)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 9_000, 9_000)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"E0603: .*bomb.png has 81,000,000 pixels"):
        read(search, path)
