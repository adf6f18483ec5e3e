"""`mnist()`: 70,000 handwritten digits of 28x28 (LeCun, Cortes, Burges; CC BY-SA 3.0).

In: the four canonical IDX files, found on disk or downloaded. Out: `image` f32[28, 28, 1], stored
as bytes, and `label` i32. A user's own file is checked for its format but not its checksum, so that
other sets in the same format can replace it; a downloaded file is checked for both.
"""

from __future__ import annotations

from pathlib import Path

from ....dsl.diagnostics.diagnostic import fail
from ..core.data_paths import ENVIRONMENT, Search, first_file
from ..core.dataset import Dataset, Field, Schema, Split, validate
from ..core.source import DataSource, Request, Setting
from ..formats.idx import idx_sizes, read_idx
from ..formats.images import ImageReader

ADDRESS = "https://ossci-datasets.s3.amazonaws.com/mnist/"
SIDE, CLASSES, TRAINING = 28, 10, 60_000

# canonical name → SHA-256 of the unpacked file
FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte":  "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte":  "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}  # fmt: skip


def describe(request: Request) -> Schema:
    """Known without reading data, except for the count, from a header if the files are found."""
    found, _ = _find(request.search)
    # Another set in the same format, such as Fashion-MNIST or a part of it, may have another size.
    return _schema(idx_sizes(found["train-labels-idx1-ubyte"], 1)[0] if found else TRAINING)


def load(request: Request) -> Dataset:
    """Both splits, mapped. E0601 if not found and offline, E0610 if the download fails."""
    files = _files(request)
    train = _split(request, files, "train")
    test = _split(request, files, "t10k")
    reader = ImageReader(SIDE, SIDE, 1, train.scale["image"], is_dark=True)
    return validate(Dataset("mnist", _schema(len(train)), train, test, reader=reader))


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


def _files(request: Request) -> dict[str, Path]:
    """The four files, by canonical name."""
    search = request.search
    found, partial = _find(search)
    if found:
        return found
    if search.offline:
        # A folder with some of the files is probably the one that was meant, so it is mentioned.
        missing = (f"; {folder} has no {', '.join(lost)}" for folder, lost in partial.items())
        help = (
            f"put {', '.join(f'{name}.gz' for name in FILES)} into one of these folders, name "
            f"theirs with `--data` or ${ENVIRONMENT}, or run once without `--offline`"
        )
        raise search.set_missing("mnist", "the MNIST files are", help, "".join(missing))
    folder = search.cache_folder / "mnist"
    # Files that an interrupted download left complete are kept.
    for name, checksum in FILES.items():
        if first_file(folder, _spellings(name)) is None:
            search.fetch(f"{ADDRESS}{name}.gz", folder / f"{name}.gz", checksum)
    return {name: path for name in FILES if (path := first_file(folder, _spellings(name)))}


def _find(search: Search) -> tuple[dict[str, Path] | None, dict[Path, list[str]]]:
    """The files of the first folder that has all four; and what incomplete folders lack."""
    partial: dict[Path, list[str]] = {}
    # All four from one folder, so that files of different sets never mix.
    for folder in search.set_folders("mnist"):
        found = {name: path for name in FILES if (path := first_file(folder, _spellings(name)))}
        if len(found) == len(FILES):
            return {name: search.checked(path) for name, path in found.items()}, {}
        if found:
            partial[folder] = [name for name in FILES if name not in found]
    return None, partial


def _spellings(name: str) -> tuple[str, ...]:
    # Both spellings circulate: `train-images-idx3-ubyte` and `train-images.idx3-ubyte`.
    dotted = name.replace("-idx", ".idx")
    return name, f"{name}.gz", dotted, f"{dotted}.gz"


MNIST = DataSource(
    "mnist",
    "handwritten digits, 28x28: image f32[28, 28, 1], label i32",
    (Setting("normalize", "bool", "pixels from 0 to 1 rather than 0 to 255", True),),
    describe,
    load,
)
