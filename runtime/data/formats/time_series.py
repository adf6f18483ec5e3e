"""`time_series("GunPoint")`: labelled series of numbers, as the UCR and UEA archives have them.

In: `GunPoint_TRAIN.ts` and `GunPoint_TEST.ts`, in a folder of the data or in `GunPoint/` there, or
in the Python package `aeon`, which contains some sets and is not imported. A file in the format .ts
has lines `@key value`, then `@data`; after it each line is an example: its channels between colons,
the numbers of a channel between commas, and the label at the end. Out: `x` f32[length, channels],
as long as the longest of training, shorter ones with zeros behind, longer ones cut; `length` i32,
the steps that count; `label` i32, numbering the labels in alphabetical order.
Dau et al. 2019, "The UCR time series archive"; Bagnall et al. 2018, arXiv:1811.00075.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ....dsl.diagnostics.diagnostic import Report, UserError, fail
from ..core.dataset import Dataset, Field, Schema, Split, validate
from ..core.file_kinds import GZIP, TEXT
from ..core.reader import NewExamples, NewFile, noted
from ..core.source import DataSource, Request, Setting, errors_at
from .text_file import read_text


@dataclass(frozen=True, eq=False)
class Series:
    """The examples of a file: numbers [length, channels] of each, its label, and its line."""

    values: tuple[np.ndarray, ...]
    labels: tuple[str, ...]
    lines: tuple[int, ...]


@dataclass(frozen=True)
class SeriesReader:
    """Series of up to `length` steps of `channels` numbers; labels are left out."""

    length: int
    channels: int

    kind: ClassVar[str] = "time_series"
    file_kinds: ClassVar[tuple[str, ...]] = (TEXT, GZIP)
    suffixes: ClassVar[frozenset[str]] = frozenset({".ts"})
    example: ClassVar[str] = "new.ts"
    fields: ClassVar[tuple[str, ...]] = ("x", "length")

    def __post_init__(self) -> None:
        """ValueError for sizes that no series has."""
        if self.length < 1 or self.channels < 1:
            raise ValueError("a series has at least one step and one channel")

    @property
    def takes(self) -> str:
        of = f" of {self.channels} numbers each" if self.channels > 1 else ""
        return f"series in the format .ts, of up to {self.length} steps{of}"

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def read(self, files: Sequence[NewFile], cache: Path) -> NewExamples:
        """E0602 to E0605 and E0607 for what is wrong in any of the files."""
        report, names = Report(), []
        values: list[np.ndarray] = []
        for file in files:
            with noted(report):
                found = read_series(file.path, cache, self.channels)
                values += found.values
                names += [f"{file.name}:{line}" for line in found.lines]
        report.check()
        cut = sum(len(one) > self.length for one in values)
        notes = (f"{cut} longer than {self.length} steps, and truncated",) if cut else ()
        return NewExamples(self.arrays(values), tuple(names), notes=notes)

    def arrays(self, values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """`x` f32[n, length, channels] and `length` i32[n]."""
        x = np.zeros((len(values), self.length, self.channels), np.float32)
        for row, one in zip(x, values, strict=True):
            row[: len(one)] = one[: self.length]
        length = np.array([min(len(one), self.length) for one in values], np.int32)
        return {"x": x, "length": length}


def describe(request: Request) -> Schema:
    """Reads the files, which are small."""
    return load(request).schema


def load(request: Request) -> Dataset:
    """Both splits. E0601 if the files are not found, E0602 to E0605 and E0607 for what is wrong."""
    name = request["name"]
    with errors_at(request.span_of("name")):
        paths = _find(request)
        cache = request.search.cache_folder
        train = read_series(paths[0], cache)
        channels = train.values[0].shape[1]
        test = read_series(paths[1], cache, channels)
        names = tuple(sorted({*train.labels}))
        reader = SeriesReader(max(map(len, train.values)), channels)
        parts = _split(reader, train, paths[0], names), _split(reader, test, paths[1], names)
        fields = (
            Field("x", "f32", (reader.length, channels)),
            Field("length", "i32", ()),
            Field("label", "i32", (), len(names)),
        )
        schema = Schema(fields, len(train.values))
        return validate(Dataset(name, schema, *parts, class_names={"label": names}, reader=reader))


def read_series(path: Path, cache: Path, channels: int | None = None) -> Series:
    """The examples of a file, all of `channels` channels, or of those of the first.

    E0602 if it is no such file, E0604 for another number of channels or channels of different
    lengths, E0605 for what is no number, E0613 without examples."""
    head, found, data = read_text(path, cache).partition("\n@data\n")
    if not found:
        message = f"{path} has no line `@data`: it is not in the format .ts"
        raise fail("E0602", message, help="https://www.aeon-toolkit.org has files in this format")
    labelled = "@classlabel true" in head.lower()
    report, values, labels, lines = Report(), [], [], []
    for number, line in enumerate(data.split("\n"), head.count("\n") + 3):
        if not line.strip():
            continue
        *parts, label = line.split(":") if labelled else [*line.split(":"), ""]
        with noted(report):
            one = _numbers(f"{path}:{number}", parts, channels)
            channels = one.shape[1]
            values.append(one)
            labels.append(label.strip())
            lines.append(number)
    report.check()
    if not values:
        raise fail("E0613", f"{path} has no series")
    return Series(tuple(values), tuple(labels), tuple(lines))


def _numbers(place: str, parts: Sequence[str], channels: int | None) -> np.ndarray:
    """One example, f32[length, channels]."""
    if channels not in (None, len(parts)):
        message = f"{place} has {len(parts)} channels, those before have {channels}"
        raise fail("E0604", message)
    rows = [[cell.strip() for cell in part.split(",")] for part in parts]
    if len({*map(len, rows)}) != 1:
        lengths = ", ".join(str(len(row)) for row in rows)
        message = f"{place}: the channels have different numbers of steps: {lengths}"
        raise fail("E0604", message, help="is a label missing at the end of the line?")
    try:
        found = np.array(rows, np.float64).T
    except ValueError:
        bad = next(cell for row in rows for cell in row if not _is_number(cell))
        what = "a missing value" if bad in ("?", "") else f"`{bad}`, which is no number"
        raise fail("E0605", f"{place} has {what}") from None
    if not np.isfinite(found).all():
        step, channel = (int(n) for n in np.argwhere(~np.isfinite(found))[0])
        message = f"{place} has {found[step, channel]} at step {step} of channel {channel}"
        raise fail("E0605", message, help="steps and channels are counted from 0")
    return found.astype(np.float32)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _split(reader: SeriesReader, found: Series, path: Path, names: tuple[str, ...]) -> Split:
    unknown = [n for n, label in enumerate(found.labels) if label not in names]
    if unknown:
        label, line = found.labels[unknown[0]], found.lines[unknown[0]]
        message = f"{path}:{line} has the label `{label}`, which no series of training has"
        raise fail("E0606", message, help=f"there are {', '.join(names)}")
    if names == ("",):
        raise fail("E0604", f"{path} has no labels", help="its head says `@classLabel false`")
    numbers = np.array([names.index(label) for label in found.labels], np.int32)
    return Split({**reader.arrays(found.values), "label": numbers})


def _find(request: Request) -> list[Path]:
    """The files that train and test; E0601."""
    name = request["name"]
    wanted = [f"{name}_{part}.ts" for part in ("TRAIN", "TEST")]
    try:
        folder = "" if _has(request, wanted[0]) else f"{name}/"
        return [request.search.find_file(folder + file) for file in wanted]
    except UserError as error:
        if error.diagnostics[0].code != "E0601":
            raise
        package = importlib.util.find_spec("aeon")
        for place in (package and package.submodule_search_locations) or ():
            paths = [Path(place) / "datasets" / "data" / name / file for file in wanted]
            if all(path.is_file() for path in paths):
                return paths
        raise


def _has(request: Request, file: str) -> bool:
    return any((root / file).is_file() for root in request.search.roots)


TIME_SERIES = DataSource(
    "time_series",
    "labelled series from files .ts: x f32[length, channels], length i32, label i32",
    (Setting("name", "text", "what the files are called before `_TRAIN.ts`", positional=True),),
    describe,
    load,
)
