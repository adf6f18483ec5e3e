"""Images whose labels stand in a table: layouts of data sets as Hugging Face has them.

In: a folder with `metadata.csv` or `metadata.jsonl`, one for all or one in each of the folders
`train`, `test` and `validation`, whose column `file_name` says where each image is from there; or
Parquet and Arrow files, in shards and splits, whose column of images has records of `bytes` and
`path`. Out: images by split, with the numbers of their labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ....dsl.diagnostics.diagnostic import Report, did_you_mean, fail
from ....dsl.records import record
from ..core.data_paths import Search
from ..core.label_numbers import number_labels
from ..core.reader import listed
from ..core.shards import MAGIC, WORDS, Splits, find_shards, is_about, split_of
from ..core.source import Request
from .table_file import TableFile, TextForm, open_table
from .table_texts import TextTable

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_NAME = "file_name"
TABLES = frozenset({".parquet", ".pq", ".arrow", ".arrows", ".feather"})
IMAGES, LABELS = ("image", "img"), "label"


@record
class StoredImage:
    """An image that is in a table, and what messages call it."""

    data: bytes
    name: str

    def __str__(self) -> str:
        return self.name


@record
class Labelled:
    """The images of one split, and their labels as texts."""

    images: tuple[Path | StoredImage, ...]
    labels: tuple[str, ...]


@record
class Described:
    """The images by split, the names of the classes, and the numbers of each split's labels."""

    splits: dict[str, Labelled]
    classes: tuple[str, ...]
    labels: dict[str, np.ndarray]


def described_images(request: Request, decode: bool = True) -> Described | None:
    """The images of a folder, a file or a pattern, if tables say their labels; None of other
    folders. Without `decode` the bytes of images in tables are not read. UserError E0601, E0606,
    E0609, E0611, E0613, E0614, E0616 to E0618."""
    search, name = request.search, request["folder"]
    if MAGIC & set(name) and not search.has(name):
        return _of_tables(request, find_shards(search, name, TABLES), decode)
    if not search.has(name):
        return None
    path = search.find(name)
    if not path.is_dir():
        is_table = path.suffix.lower() in TABLES
        return _of_tables(request, {"train": (path,)}, decode) if is_table else None
    metadata = _metadata(search, path)
    if metadata:
        return _of_metadata(request, path, metadata)
    if any(one.suffix.lower() in TABLES for deep in ("*", "*/*") for one in path.glob(deep)):
        return _of_tables(request, find_shards(search, name, TABLES), decode)
    return None


def _metadata(search: Search, root: Path) -> list[Path]:
    """The metadata of a folder, or of its folders of splits."""
    below = [one for one in sorted(root.iterdir()) if one.is_dir() and split_of(one, root)]
    places = [root, *below]
    found = [place / name for place in places for name in METADATA if (place / name).is_file()]
    return search.checked_entries(found)


def _numbered(splits: dict[str, Labelled], own: tuple[str, ...], what: object) -> Described:
    """Labels as numbers: those of the file's own names of classes, or in order."""
    every = [label for split in splits.values() for label in split.labels]
    numbers, classes = number_labels(every)
    if own:
        known = {str(number): number for number in range(len(own))}
        wrong = next((name for name in classes if name not in known), None)
        if wrong is not None:
            message = f"label `{wrong}` of {what} is none of 0 to {len(own) - 1}, which have names"
            raise fail("E0606", message)
        numbers, classes = np.array([known[one] for one in classes], np.int32)[numbers], own
    parts = np.split(numbers, np.cumsum([len(split.labels) for split in splits.values()])[:-1])
    return Described(splits, classes, dict(zip(splits, parts, strict=True)))


# --- metadata -------------------------------------------------------------------------------------


def _of_metadata(request: Request, root: Path, files: Sequence[Path]) -> Described:
    report = Report()
    found: dict[str, tuple[list[Path | StoredImage], list[str]]] = {}
    named: set[Path] = set()
    own: tuple[str, ...] = ()
    for file in files:
        label = request["label"] or LABELS
        columns = [(label, request.span_of("label")), (FILE_NAME, None)]
        table = TextTable(file, columns, TextForm(cache=request.search.cache_folder))
        own = table.class_names or own
        for (text, name), line in zip(table.rows(), table.lines(), strict=True):
            image = file.parent / name.strip()
            named.add(image)
            if not image.is_file():
                near = did_you_mean(image.name, _names(image.parent))
                report.add("E0601", f"{file}, line {line}: there is no file `{name}`", help=near)
                continue
            images, labels = found.setdefault(split_of(image, root) or "train", ([], []))
            images.append(request.search.checked(image))
            labels.append(text.strip())
    report.check()
    _check_all_named(root, files, named)
    splits = {
        split: Labelled(tuple(found[split][0]), tuple(found[split][1]))
        for split in WORDS
        if split in found
    }
    if "train" not in splits:
        raise fail("E0618", f"{root} has no images that train, but of {' and '.join(splits)}")
    return _numbered(splits, own, root)


def _names(folder: Path) -> list[str]:
    try:
        return [one.name for one in folder.iterdir()]
    except OSError:
        return []


def _check_all_named(root: Path, files: Sequence[Path], named: set[Path]) -> None:
    """E0618 for files beside the metadata that it does not name: they would be left out."""
    folders = {file.parent for file in files}
    every = {one for folder in folders for one in folder.rglob("*") if one.is_file()}
    left = sorted(
        one
        for one in every - named - {*files}
        if not any(part[0] == "." for part in one.relative_to(root).parts) and not is_about(one)
    )
    if left:
        shown = listed(str(one.relative_to(root)) for one in left)
        message = f"{listed(file.name for file in files)} of {root} does not name {shown}"
        raise fail("E0618", message, help="name it there or move it away")


# --- tables ---------------------------------------------------------------------------------------


def _of_tables(request: Request, splits: Splits, decode: bool) -> Described:
    form = TextForm(cache=request.search.cache_folder)
    own: tuple[str, ...] = ()
    found = {}
    for split, paths in splits.items():
        images: list[Path | StoredImage] = []
        labels: list[str] = []
        for path in paths:
            table = open_table(path, form)
            column, label = _columns(request, table)
            own = table.class_names.get(label, own)
            labels += [text.strip() for _, b in table.blocks([label]) for text in b[label].texts()]
            if decode:
                images += _stored(request, table, column)
        _check_labels(paths, labels, label)
        found[split] = Labelled(tuple(images), tuple(labels))
    return _numbered(found, own, request["folder"])


def _check_labels(paths: Sequence[Path], labels: Sequence[str], column: str) -> None:
    if "" in labels:
        row = labels.index("") + 1
        help = "remove the row; a split without labels is left out by naming the others"
        where = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and the files after it"
        raise fail("E0616", f"{where}, row {row}, column `{column}`: is empty", help=help)


def _columns(request: Request, table: TableFile) -> tuple[str, str]:
    """The columns of the images and of the labels; E0614 for one that there is not."""
    records = [name.removesuffix(".bytes") for name in table.names if name.endswith(".bytes")]
    known = [*records, *(name for name in table.names if not name.endswith((".bytes", ".path")))]
    # As data sets call it, or the only column of records with bytes.
    usual = [name for name in IMAGES if name in known] or records[:1] or [IMAGES[0]]
    image, label = request["image"] or usual[0], request["label"] or LABELS
    for setting, name in (("image", image), ("label", label)):
        if name not in known:
            shown = listed(f"`{one}`" for one in known)
            help = did_you_mean(name, known) or f"the columns are {shown}"
            span = request.span_of(setting)
            raise fail("E0614", f"{table.path} has no column `{name}`", span, help=help)
    return image, label


def _stored(request: Request, table: TableFile, column: str) -> list[Path | StoredImage]:
    """The images in a column: records of bytes and a path, or bytes."""
    data = f"{column}.bytes" if f"{column}.bytes" in table.names else column
    path = f"{column}.path"
    names = [data, *([path] if path in table.names else [])]
    found: list[Path | StoredImage] = []
    for rows, cells in table.blocks(names):
        values = cells[data].values()
        paths: Sequence[Any] = cells[path].values() if path in names else [None] * rows
        for content, name in zip(values, paths, strict=True):
            place = f"{table.path}, row {len(found) + 1}"
            if isinstance(content, bytes):
                found.append(StoredImage(content, f"{place} ({name})" if name else place))
            elif content is None and isinstance(name, str):
                found.append(_beside(request, table.path.parent / name, place))
            else:
                held = "is empty" if content is None else f"holds `{content!s:.40}` and no image"
                raise fail("E0616" if content is None else "E0611", f"{place}, `{column}`: {held}")
    return found


def _beside(request: Request, path: Path, place: str) -> Path:
    if not path.is_file():
        raise fail("E0601", f"{place}: there is no file `{path}`")
    return request.search.checked(path)
