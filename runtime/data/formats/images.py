"""`images("folder", size = [32, 32])`: one folder of image files per class.

In: `folder/CLASS/FILE`, or `folder/train/CLASS/FILE` with `folder/test/CLASS/FILE` (and
`validation`); or images whose labels stand in a table, as Hugging Face lays them out: beside
`metadata.csv` or `metadata.jsonl` with columns `file_name` and `label`, for the folder or for each
split of it, or in Parquet and Arrow files (`data/train-00000-of-00003.parquet`) with a column of
records `bytes` and `path`. The columns `label` and `image` (or `img`) may be called otherwise;
classes have the names that `datasets` notes in the file, if it does. Out: `image` f32[height,
width, channels] from 0 to 1, stored as bytes, and `label` i32, the number of the class folder in
alphabetical order. Files are read in alphabetical order, turned as their EXIF orientation says,
converted to `channels`, and resized without regard to their aspect ratio. Sets of which the pixels
take more than the memory for data are decoded batch by batch, in every epoch anew; smaller ones
once, those of more than 256 MiB into an unnamed temporary file. Needs the package Pillow.

How pixels become 8 bits per channel: what is transparent is laid on white (an alpha channel, a
transparent colour of a palette or of a PNG, a mask of a GIF), for the colours behind it are
arbitrary; of an animation the first picture counts; CMYK, YCbCr and the like become RGB as Pillow
converts them, without colour profiles; RGB is weighted to grey by 0.299, 0.587 and 0.114; colours
of 16 bits keep their upper 8; grey of 16 bits and more is an error, as its range is not known.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ....dsl.diagnostics.diagnostic import Report, UserError, did_you_mean, fail
from ....dsl.files import reason, temporary_folder, unnamed_file
from ....dsl.records import record
from ..core.dataset import Dataset, Field, Schema, Split, validate
from ..core.decompress import readable
from ..core.file_kinds import IMAGE
from ..core.reader import NewExamples, NewFile, listed
from ..core.shards import SPLIT_OF, is_about
from ..core.source import MAX_SIDE, DataSource, Request, Setting, errors_at
from ..core.splitting import split_rows, training_size
from ..core.stored import Computed
from .image_tables import StoredImage, described_images
from .picture_files import CHANNEL_MODES, decoded, size_of

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
IGNORED = {"thumbs.db", "desktop.ini"}  # of file managers; names with a dot are skipped too
SPLITS = ("train", "test", "validation")
IN_MEMORY = 256 << 20  # bytes of pixels; more than that goes to a temporary file


@record
class Listing:
    """The images of one split, in files or in tables, and the indices of their classes."""

    files: tuple[Path | StoredImage, ...]
    labels: np.ndarray


def describe(request: Request) -> Schema:
    """Lists the folders; opens no image."""
    # Counting files gives the sizes; how many of them test is only a question if no folder says.
    classes, listings = _listings(request, decode=False)
    count = len(listings["train"].labels)
    if len(listings) == 1:
        count = training_size(count, request["test"])
    return _schema(request, classes, count)


def load(request: Request) -> Dataset:
    """All splits. E0601, E0603, E0609, E0611, E0613, E0617 or E0618 if that cannot be."""
    _pillow()
    height, width = request["size"]
    reader = ImageReader(height, width, request["channels"])
    classes, listings = _listings(request)
    # Without `test/` and `validation/`, a share of `train` tests, the same of every class.
    if len(listings) == 1:
        whole = listings["train"]
        rows = split_rows(len(whole.files), request["test"], request["seed"], whole.labels)
        parts = (Listing(tuple(whole.files[i] for i in of), whole.labels[of]) for of in rows)
        # Two parts for three names: `validation` stays absent, as does `test` if nothing tests.
        listings = {name: part for name, part in zip(SPLITS, parts, strict=False) if part.files}
    count = sum(len(part.files) for part in listings.values())
    streams = count * prod(reader.shape) > request.search.memory
    decode = reader.streamed if streams else reader.pixels
    with errors_at(request.span_of("folder")):
        splits = {
            name: Split(
                # Pixels stay bytes in memory and become f32, times 1/255, when a batch is taken.
                {"image": decode(part.files), "label": part.labels},
                {"image": reader.scale},
            )
            for name, part in listings.items()
        }
    schema = _schema(request, classes, len(splits["train"]))
    train, test, validation = map(splits.get, SPLITS)
    assert train is not None
    names = {"label": classes}
    found = Dataset(request["folder"], schema, train, test, validation, names, reader=reader)
    return validate(found)


def _schema(request: Request, classes: tuple[str, ...], count: int) -> Schema:
    height, width = request["size"]
    image = Field("image", "f32", (height, width, request["channels"]))
    return Schema((image, Field("label", "i32", (), len(classes))), count)


# ── folders ──────────────────────────────────────────────────────────────────────────────────────


def _listings(request: Request, decode: bool = True) -> tuple[tuple[str, ...], dict[str, Listing]]:
    """The classes, and the images of every split that there is (only `train` if nothing says one).
    Without `decode` those in tables are left out."""
    with errors_at(request.span_of("folder")):
        described = described_images(request, decode)
    if described is not None:
        return described.classes, {
            name: Listing(split.images, described.labels[name])
            for name, split in described.splits.items()
        }
    for setting in ("label", "image"):
        if request[setting] is not None:
            message = f"`{setting}` names a column, and {request['folder']} has no table"
            help = "a table is `metadata.csv` or Parquet; of folders, each is a class"
            raise fail("E0614", message, request.span_of(setting), help=help)
    root = request.folder()
    with errors_at(request.span_of("folder")), readable(root):
        names = {entry.name for entry in _entries(root, request) if entry.is_dir()}
        # Splits may lie in a folder `data`, alone there; a single class would be no set of classes.
        if names == {"data"}:
            root /= "data"
            names = {entry.name for entry in _entries(root, request) if entry.is_dir()}
        folders = _split_folders(root, names)
        if not folders:
            only = _class_folders(root, request)
            return tuple(only), {"train": _listing(only, tuple(only))}
        found = {split: _class_folders(path, request) for split, path in folders.items()}
        # The training classes number the labels; another split may lack some of them.
        classes = tuple(found["train"])
        for split, path in folders.items():
            new = next((folder for folder in found[split] if folder not in classes), None)
            if new is not None:
                message = f"class `{new}` of {path} is not among the training classes"
                raise fail("E0607", message, help=did_you_mean(new, classes))
        return classes, {split: _listing(found[split], classes) for split in folders}


def _split_folders(root: Path, names: Collection[str]) -> dict[str, Path]:
    """The folders of the splits, that of training first; none if there is no `train`. E0618 for
    other folders beside them, or two of one split."""
    # `train` alone decides about the layout: without it, `test` is the name of a class.
    if not any(SPLIT_OF.get(name.lower()) == "train" for name in names):
        return {}
    found: dict[str, Path] = {}
    for name in sorted(names):
        split = SPLIT_OF.get(name.lower())
        if split is None or split in found:
            message = f"{root} holds `train` and also `{name}`"
            if split is not None:
                message = f"{root} holds `{found[split].name}` and `{name}`, which are one split"
            raise fail("E0618", message, help="beside `train`, only `test` and `validation`")
        found[split] = root / name
    return {split: found[split] for split in SPLITS if split in found}


def _entries(folder: Path, request: Request) -> list[Path]:
    """The entries of a folder, in alphabetical order, without hidden files and `IGNORED`."""
    return sorted(
        entry
        for entry in request.search.checked_entries(folder.iterdir())
        if entry.name[0] != "." and entry.name.lower() not in IGNORED and not is_about(entry)
    )


def _class_folders(root: Path, request: Request) -> dict[str, list[Path]]:
    """Class name → its files. E0618 for files outside the folders, E0613 for none within."""
    entries = _entries(root, request)
    # Files beside class folders would be left out in silence, so they are an error.
    loose = next((entry for entry in entries if not entry.is_dir()), None)
    if loose is not None:
        mixed = any(entry.is_dir() for entry in entries)
        raise fail(
            "E0618",
            f"{root} holds the file `{loose.name}`"
            + (" beside its class folders" if mixed else " but no class folders"),
            help="every image belongs into a folder named after its class",
        )
    if not entries:
        raise fail("E0613", f"{root} is empty: no class folders")
    return {entry.name: _images_in(entry, request) for entry in entries}


def _images_in(folder: Path, request: Request) -> list[Path]:
    files = _entries(folder, request)
    # All or nothing: a file left out in silence would change the data without a word.
    for file in files:
        if file.is_dir():
            raise fail("E0618", f"{folder} is a class but holds the folder `{file.name}`")
        if file.suffix.lower() not in SUFFIXES:
            known = " ".join(sorted(SUFFIXES))
            message = f"{file} is not an image that can be read"
            raise fail("E0602", message, help=f"move it away; images end in {known}")
    if not files:
        raise fail("E0613", f"class folder {folder} holds no images")
    return files


def _listing(found: dict[str, list[Path]], classes: tuple[str, ...]) -> Listing:
    files = tuple(file for folder in found.values() for file in folder)
    # Labels in one step: each class's number as often as it has files.
    counts = [len(folder) for folder in found.values()]
    labels = np.repeat(np.array([classes.index(name) for name in found], np.int32), counts)
    return Listing(files, labels)


# ── pixels ───────────────────────────────────────────────────────────────────────────────────────


def _pillow() -> Any:
    try:
        from PIL import Image  # an optional dependency
    except ImportError as error:
        help = "install it with `pip install 'nnc-lang[images]'`"
        raise fail("E0609", "`images` needs the package Pillow", help=help) from error
    return Image


@record
class ImageReader:
    """Image files as `image` f32[height, width, channels]: bytes, times `scale`. `is_dark` of a set
    of light drawings on black; `invert` takes light for dark."""

    height: int
    width: int
    channels: int
    scale: float = 1 / 255
    is_dark: bool = False
    invert: bool = False

    kind: ClassVar[str] = "images"
    file_kinds: ClassVar[tuple[str, ...]] = (IMAGE,)
    suffixes: ClassVar[frozenset[str]] = frozenset(SUFFIXES)
    example: ClassVar[str] = "cat.jpg"
    fields: ClassVar[tuple[str, ...]] = ("image",)

    def __post_init__(self) -> None:
        """ValueError for what no source of images allows."""
        sides = 0 < self.height <= MAX_SIDE and 0 < self.width <= MAX_SIDE
        if not sides or self.channels not in CHANNEL_MODES:
            raise ValueError(f"images of {self.height}x{self.width}x{self.channels}")

    @property
    def takes(self) -> str:
        how = "in grey" if self.channels == 1 else "in colour"
        return f"images, which become {self.height}x{self.width} pixels {how}"

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def pixels(self, files: Sequence[Path | StoredImage]) -> np.ndarray:
        """All images, u8 [files, height, width, channels]; decoded by several threads, in order.
        UserError E0603, E0609, E0611 or E0617 with what is wrong in any of them."""
        try:
            pixels = _storage((len(files), *self.shape))
        # The disk or the memory is too small: found before decoding begins, which may take minutes.
        except OSError as error:
            size = f"{len(files) * prod(self.shape) >> 20} MiB"
            message = f"no room for {size} of pixels in {temporary_folder()}: {reason(error)}"
            raise fail("E0617", message) from error
        # Pillow's own warning of large images: ours is an error, with another limit.
        ignored = _pillow().DecompressionBombWarning
        with warnings.catch_warnings(action="ignore", category=ignored):
            self.decode(files, pixels)
        return pixels

    def streamed(self, files: Sequence[Path | StoredImage]) -> Computed:
        """As `pixels`, decoded whenever they are read."""
        return Computed(
            (len(files), *self.shape),
            np.dtype(np.uint8),
            lambda rows, out: self.decode([files[row] for row in rows], out),
        )

    def decode(self, files: Sequence[Path | StoredImage], pixels: np.ndarray) -> None:
        """Write images to `pixels`, u8 [files, height, width, channels]; errors as `pixels`."""
        pillow, shape = _pillow(), self.shape

        # Every thread writes rows of its own, so the result depends neither on their number nor
        # order.
        def decode(index: int) -> UserError | None:
            try:
                pixels[index] = decoded(files[index], shape, pillow)
            except UserError as error:
                return error
            return None

        report = Report()
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for wrong in pool.map(decode, range(len(files)), chunksize=16):
                report.extend(wrong.diagnostics if wrong else ())
        report.check()
        if self.invert:
            np.subtract(255, pixels, out=pixels)

    def read(self, files: Sequence[NewFile], cache: Path) -> NewExamples:
        """The inputs of image files; UserError as `pixels`."""
        pixels = self.pixels([file.path for file in files])
        names, notes = tuple(f.name for f in files), self._on_light(files, pixels)
        sizes = np.array([size_of(file.path, _pillow()) for file in files]).reshape(-1, 2)
        scale = {"image": self.scale}
        return NewExamples({"image": pixels}, names, scale, notes=notes, sizes=sizes)

    def _on_light(self, files: Sequence[NewFile], pixels: np.ndarray) -> tuple[str, ...]:
        """A remark on pictures that are light at their edges, where those of training are dark."""
        if not self.is_dark:
            return ()
        edges = np.concatenate(
            [pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], axis=1
        )
        light = edges.reshape(len(files), -1).mean(axis=1) > 127
        if not light.any():
            return ()
        names = listed(file.name for file, one in zip(files, light, strict=True) if one)
        return (
            f"{names}: dark on light, and the images of training are light on dark; "
            + ("leave `--invert` out" if self.invert else "`--invert` exchanges the two"),
        )


def _storage(shape: tuple[int, ...]) -> np.ndarray:
    """Memory for pixels, or a temporary file whose disk space is allocated beforehand."""
    size = int(np.prod(shape, dtype=np.int64))
    if size <= IN_MEMORY:
        return np.empty(shape, np.uint8)
    with unnamed_file() as file:
        if hasattr(os, "posix_fallocate"):  # else a full disk would raise SIGBUS on a write
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            # The mapping keeps the disk space after the file, which has no name, is closed.
            file.truncate(size)
        return np.asarray(np.memmap(file, np.uint8, "r+", shape=shape))


IMAGES = DataSource(
    "images",
    "one folder of images per class: image f32[height, width, channels], label i32",
    (
        Setting("folder", "text", "the folder, or files with images in tables", positional=True),
        Setting("size", "size", "[height, width] that all images are resized to"),
        Setting("channels", "integer", "3 for colour, 1 for grey", 3, allowed=(1, 3)),
        Setting("label", "text", "the column of the labels, in a table (label)", None),
        Setting("image", "text", "the column of the images, in a table (image)", None),
        Setting("test", "fraction", "the share that tests, if nothing says what does", 0.2),
        Setting("seed", "seed", "of the choice of what tests", 0),
    ),
    describe,
    load,
)
