"""One picture as the pixels that a model reads: upright, on white, of one size and in 8 bits.

In: an image file, or the bytes of one. Out: u8 [height, width, channels]. `images.py` says how
pixels become those of 8 bits.
"""

from __future__ import annotations

from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np

from ....dsl.diagnostics.diagnostic import UserError, fail
from ....dsl.files import reason
from ....dsl.regular_files import NotRegularError, open_regular
from .image_tables import StoredImage

CHANNEL_MODES = {1: "L", 3: "RGB"}
ORIENTATION = 0x0112  # the EXIF tag
# orientation → the transposition that undoes it (EXIF 2.3, 4.6.4); those that exchange the sides
TURNS = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270",
    7: "TRANSVERSE", 8: "ROTATE_90",
}  # fmt: skip
SIDEWAYS = (5, 6, 7, 8)
MAX_PIXELS = 1 << 26  # of an image, as it is decoded
LARGE = 1 << 22  # pixels above which images are decoded one after the other
_large = Lock()


def decoded(path: Path | StoredImage, shape: tuple[int, ...], pillow: Any) -> np.ndarray:
    """The pixels of a file in a shape. UserError E0603, E0611 or E0617."""
    height, width, channels = shape
    mode = CHANNEL_MODES[channels]
    try:
        with _opened(path) as file, pillow.open(file) as image:
            # Modes I and F hold 32 bits per pixel, `I;16` holds 16.
            if image.mode[0] in "IF":  # 16 bits and more, which conversion would cut off
                message = f"{path} has pixels of more than 8 bits (mode {image.mode})"
                raise fail("E0611", message, help="save it with 8 bits per channel")
            size = (width, height)
            if image.format in ("JPEG", "MPO"):  # these decode at a smaller scale
                sideways = image.getexif().get(ORIENTATION) in SIDEWAYS
                image.draft(mode, size[::-1] if sideways else size)
            pixels = image.width * image.height
            if pixels > MAX_PIXELS:
                message = f"image {path} has {pixels:,} pixels, more than {MAX_PIXELS:,}"
                raise fail("E0603", message, help="save it smaller")
            # One at a time: each takes up to a dozen bytes for a pixel.
            with _large if pixels > LARGE else nullcontext():
                image.load()
                found = _resized(_upright(image, pillow), size, mode, pillow)
            return np.asarray(_opaque(found, pillow).convert(mode)).reshape(shape)
    except (UserError, MemoryError):
        raise
    except (PermissionError, NotRegularError) as error:
        raise fail("E0617", f"cannot read {path}: {reason(error)}") from error
    # Pillow's decoders raise whatever the damage leads to.
    except Exception as error:
        # Its own words for this name the open file in Python's notation.
        unknown = isinstance(error, pillow.UnidentifiedImageError)
        why = "it is no image that Pillow knows" if unknown else reason(error)
        message = f"image {path} cannot be decoded: {why}"
        raise fail("E0603", message, help="replace it or remove it") from error


def size_of(path: Path, pillow: Any) -> tuple[int, int]:
    """Height and width of a picture that can be decoded, as it is meant to be seen."""
    with _opened(path) as file, pillow.open(file) as image:
        sideways = image.getexif().get(ORIENTATION) in SIDEWAYS
        return image.size if sideways else image.size[::-1]


def _opened(image: Path | StoredImage) -> BinaryIO:
    return BytesIO(image.data) if isinstance(image, StoredImage) else open_regular(image)


def _upright(image: Any, pillow: Any) -> Any:
    """The image as it is meant to be seen, from the EXIF orientation of a camera that was turned:
    1 to 8, by which the stored picture is mirrored or rotated."""
    # Asked once it is decoded: of a TIFF, Pillow turns the pixels itself and says 1 then.
    method = TURNS.get(image.getexif().get(ORIENTATION, 1))
    return image if method is None else image.transpose(getattr(pillow.Transpose, method))


def _resized(image: Any, size: tuple[int, int], mode: str, pillow: Any) -> Any:
    """The image in a mode, L or RGB, or else in RGBA if any of it may be transparent."""
    # Pillow applies a transparent colour of a palette, or of a PNG, when it makes an alpha channel.
    clear = "A" in image.getbands() or image.mode[-1] == "a" or "transparency" in image.info
    image = image.convert("RGBA" if clear else mode)
    # Colours are weighted by their alpha, so that none that is hidden gets into its neighbours.
    return image if image.size == size else image.resize(size, pillow.Resampling.BILINEAR)


def _opaque(image: Any, pillow: Any) -> Any:
    """The image on white, where it is transparent."""
    if image.mode != "RGBA":
        return image
    white = pillow.new("RGBA", image.size, (255, 255, 255, 255))
    return pillow.alpha_composite(white, image).convert("RGB")
