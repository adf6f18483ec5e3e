"""Well-known sets of 70,000 grey images of 28x28 in ten classes, in four IDX files each.

In: the four canonical files, found on disk or downloaded. Out: `image` f32[28, 28, 1], stored as
bytes, and `label` i32. A user's own file is checked for its format but not its checksum, so that a
part of a set can replace it; a downloaded file is checked for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ....dsl.diagnostics.diagnostic import fail
from ..core.data_paths import ENVIRONMENT, Search, first_file
from ..core.dataset import Dataset, Field, Schema, Split, validate
from ..core.source import DataSource, Request, Setting
from ..formats.idx import idx_sizes, read_idx
from ..formats.images import ImageReader

SIDE, CLASSES, TRAINING = 28, 10, 60_000
PIXELS = Setting("normalize", "bool", "pixels from 0 to 1 rather than 0 to 255", True)


@dataclass
class IdxSet:
    """A set: its name in programs, its title in messages, where it is downloaded from, and the
    SHA-256 of each unpacked file by canonical name.

    `installed` is the folder where a package of the operating system puts the files; `classes` are
    the names of the labels 0, 1, …, if they are not digits. Where `own_folder`, only a folder of
    the set's name counts, or that of `--data`: elsewhere such files may be MNIST's."""

    name: str
    title: str
    address: str
    checksums: Mapping[str, str]
    installed: Path | None = None
    classes: tuple[str, ...] = ()
    own_folder: bool = False

    def source(self, summary: str) -> DataSource:
        return DataSource(self.name, summary, (PIXELS,), self.describe, self.load)

    def describe(self, request: Request) -> Schema:
        """Known without reading data, but for the count: from a header, if the files are found."""
        found, _ = self._find(request.search)
        # A part of a set, or another set in the same format, may have another size.
        return _schema(idx_sizes(found["train-labels-idx1-ubyte"], 1)[0] if found else TRAINING)

    def load(self, request: Request) -> Dataset:
        """Both splits, mapped. E0601 if not found and offline, E0610 if the download fails."""
        files = self._files(request.search)
        train = _split(request, files, "train")
        test = _split(request, files, "t10k")
        names = {"label": self.classes} if self.classes else {}
        reader = ImageReader(SIDE, SIDE, 1, train.scale["image"], is_dark=True)
        found = Dataset(
            self.name, _schema(len(train)), train, test, class_names=names, reader=reader
        )
        return validate(found)

    def _files(self, search: Search) -> dict[str, Path]:
        """The four files, by canonical name."""
        found, partial = self._find(search)
        if found:
            return found
        if search.offline:
            # A folder with some of the files is probably the one that was meant.
            missing = (f"; {folder} has no {', '.join(lost)}" for folder, lost in partial.items())
            help = (
                f"put {', '.join(f'{name}.gz' for name in self.checksums)} into one of these "
                f"folders, name theirs with `--data` or ${ENVIRONMENT}, or run once without "
                "`--offline`"
            )
            what = f"the {self.title} files are"
            raise search.set_missing(self.name, what, help, "".join(missing))
        folder = search.cache_folder / self.name
        # Files that an interrupted download left complete are kept.
        for name, checksum in self.checksums.items():
            if first_file(folder, _spellings(name)) is None:
                search.fetch(f"{self.address}{name}.gz", folder / f"{name}.gz", checksum)
        paths = {name: first_file(folder, _spellings(name)) for name in self.checksums}
        return {name: path for name, path in paths.items() if path}

    def _find(self, search: Search) -> tuple[dict[str, Path] | None, dict[Path, list[str]]]:
        """The files of the first folder that has all four; and what incomplete folders lack."""
        partial: dict[Path, list[str]] = {}
        # All four from one folder, so that files of different sets never mix.
        for folder in search.set_folders(self.name):
            if self.own_folder and folder.name != self.name and folder != search.explicit:
                continue
            paths = {name: first_file(folder, _spellings(name)) for name in self.checksums}
            found = {name: path for name, path in paths.items() if path}
            if len(found) == len(self.checksums):
                return {name: search.checked(path) for name, path in found.items()}, {}
            if found:
                partial[folder] = [name for name in self.checksums if name not in found]
        if self.installed is not None:
            paths = {name: first_file(self.installed, _spellings(name)) for name in self.checksums}
            if all(paths.values()):
                return {name: path for name, path in paths.items() if path}, {}
        return None, partial


def _schema(count: int) -> Schema:
    image = Field("image", "f32", (SIDE, SIDE, 1))
    return Schema((image, Field("label", "i32", (), CLASSES)), count)


def _split(request: Request, files: dict[str, Path], part: str) -> Split:
    cache, path = request.search.cache_folder, files[f"{part}-images-idx3-ubyte"]
    images = read_idx(path, 3, cache)
    labels = read_idx(files[f"{part}-labels-idx1-ubyte"], 1, cache)
    # The schema promises 28x28; a set in the same format may still have other sizes.
    if images.shape[1:] != (SIDE, SIDE):
        found = "x".join(map(str, images.shape[1:]))
        raise fail("E0607", f"{path} holds images of {found}, not {SIDE}x{SIDE}")
    # A last axis of one channel, as a view: [n, 28, 28] → [n, 28, 28, 1].
    arrays = {"image": images[..., None], "label": labels}
    return Split(arrays, {"image": 1 / 255 if request["normalize"] else 1.0})


def _spellings(name: str) -> tuple[str, ...]:
    # Both spellings circulate: `train-images-idx3-ubyte` and `train-images.idx3-ubyte`.
    dotted = name.replace("-idx", ".idx")
    return name, f"{name}.gz", dotted, f"{dotted}.gz"
