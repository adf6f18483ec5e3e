"""What a user gives to predict with: files, folders, patterns, standard input, as inputs of a
model.

In: names as they were given, and what the run keeps of its data. Out: arrays by field, with the
name of each example. Files of arrays, `.npy` and `.npz`, are taken as they are; all others go
through the reader of the run, which read its data. Everything that is wrong is reported at once.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import numpy as np

from ...dsl.diagnostics.diagnostic import Report, UserError, fail
from ...dsl.files import reason, replacing, temporary_folder, unfinished_folder
from ...dsl.likely_paths import did_you_mean_path
from ..data.core import file_kinds
from ..data.core.reader import NewFile, Reader, listed, noted
from ..data.formats.array_file import read_arrays
from ..data.recorded import Recorded
from ..memory import size_text

STDIN, STDIN_NAME = "-", "standard input"
ARRAY_SUFFIXES = frozenset({".npy", ".npz"})
ARRAYS_HELP = "arrays as .npy or .npz, one entry per example, are always read"


@dataclass(frozen=True, eq=False)
class Given:
    """Inputs of a model. `names` say where each example comes from, `texts` what it says if it is
    one; both are empty for arrays, whose examples have no names. `scale` is that of a `Split`."""

    arrays: np.ndarray | Mapping[str, np.ndarray]
    origin: str
    scale: Mapping[str, float] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    lengths: np.ndarray | None = None  # of texts in tokens, where the model is not told them
    sizes: np.ndarray | None = None  # of pictures, before they became those that the model reads


@dataclass(frozen=True)
class Run:
    """What is known of a run: its name for messages, what it keeps of its data if it does, where
    files are unpacked, the inputs that are needed, whether light is taken for dark, and how a file
    is given, for messages."""

    name: str
    recorded: Recorded | None
    cache: Path
    needed: tuple[str, ...] = ()
    invert: bool = False
    usage: str = "nnc predict {name} {file}"

    def given(self, file: str) -> str:
        """How a file is given."""
        return f"`{self.usage.format(name=self.name, file=file)}`"

    @property
    def reader(self) -> Reader | None:
        """The reader of new files; None if only arrays can be given. UserError E0717 if it reads no
        images that could be inverted."""
        reader = self.recorded.reader if self.recorded else None
        if not self.invert:
            return reader
        if reader is None or reader.kind != "images":
            takes = reader.takes if reader else "arrays"
            raise fail("E0717", f"only images are inverted, and {self.name} reads {takes}")
        inverted: Reader = replace(reader, invert=True)  # type: ignore[type-var]
        return inverted


def read_inputs(given: Sequence[str], run: Run, stdin: bytes | None = None) -> Given:
    """The inputs in files, folders and patterns; `-` is `stdin`. UserError with all mistakes:
    E0601, E0613 or E0617 for names, E0717 for files that are no inputs of this run, and what its
    reader finds wrong in them."""
    reader, report = run.reader, Report()
    with ExitStack() as held:
        # From standard input to a file, as every reader reads files; it is removed at the end.
        files, notes = _expanded(given, reader, stdin, held, report)
        try:
            return _read(files, run, reader, notes, report)
        except UserError as error:
            raise _without_places(error, files) from None


def _read(
    files: Sequence[NewFile],
    run: Run,
    reader: Reader | None,
    notes: Sequence[str],
    report: Report,
) -> Given:
    """The inputs in files. `report` has what was wrong with their names; all of it is raised
    here."""
    kinds = {}
    for file in files:
        with noted(report):
            kinds[file] = _kind(file)
    origin = files[0].name if len(files) == 1 else f"the {len(files)} files"
    others = [file for file, (kind, _) in kinds.items() if kind != file_kinds.ARRAYS]
    if not others:
        report.check()
        return given_arrays(_joined(files), origin, run, notes)
    if reader is None:
        _refuse(report, run, others, kinds)
    assert reader is not None
    fitting = []
    for file in files:
        with noted(report):
            if file in kinds:
                _check_kind(file, *kinds[file], reader, run)
                fitting.append(file)
    if not fitting:
        report.check()
    # Those that fit are read even if others do not, for what is wrong in them.
    with noted(report):
        found = reader.read(fitting, run.cache)
    report.check()
    _check_needed(found.arrays, run, origin)
    notes = (*notes, *found.notes)
    return Given(
        found.arrays,
        origin,
        found.scale,
        found.names,
        found.texts,
        notes,
        found.lengths,
        found.sizes,
    )


def _check_needed(arrays: Mapping[str, np.ndarray], run: Run, origin: str) -> None:
    """E0717 for inputs of the model that files of this kind do not have."""
    missing = [name for name in run.needed if name not in arrays]
    if not missing:
        return
    help = "give all inputs by name in an .npz"
    # The tokens that a model writes are its inputs, too: it reads what it has written.
    if run.recorded and "source" in arrays and "target_in" in missing:
        help = (
            f"`nnc generate {run.name} --prompt TEXT` writes the target of a text; with its target "
            f"after a tab on every line, {run.name} says what it makes of it"
        )
    listed_names = " and ".join(f"`{name}`" for name in missing)
    raise fail("E0717", f"the model reads {listed_names}, too, and {origin} has none", help=help)


# --- names → files --------------------------------------------------------------------------------


def _expanded(
    given: Sequence[str],
    reader: Reader | None,
    stdin: bytes | None,
    held: ExitStack,
    report: Report,
) -> tuple[list[NewFile], list[str]]:
    """The files that are meant, in order, and what was left out; E0601, E0613 and E0617 are
    reported."""
    files: list[NewFile] = []
    notes: list[str] = []
    for name in given:
        with noted(report):
            if name == STDIN:
                files.append(_stored(stdin or b"", held))
                continue
            for path in _named(name):
                if not path.is_dir():
                    files.append(_file(path))
                    continue
                found, others = _files_in(path, reader)
                files += map(_file, found)
                if others:
                    left = listed(one.name for one in others)
                    notes.append(f"left out of {path}: {left}")
    return files, notes


def _file(path: Path) -> NewFile:
    """A file under its own name; bytes in it that are no UTF-8 are shown like `\\xff`."""
    return NewFile(path, os.fsencode(path).decode("utf-8", "backslashreplace"))


def _stored(content: bytes, held: ExitStack) -> NewFile:
    """Standard input as a file, until `held` is closed."""
    if not content:
        raise fail("E0613", f"{STDIN_NAME} is empty")
    try:
        folder = held.enter_context(unfinished_folder(Path(temporary_folder())))
        path = folder / "stdin"
        with replacing(path, durable=False, private=True) as file:
            file.write(content)
    except OSError as error:
        raise fail("E0709", f"cannot store {STDIN_NAME}: {reason(error)}") from error
    return NewFile(path, STDIN_NAME)


def _named(name: str) -> list[Path]:
    """The file or folder of a name, or what a pattern fits, sorted; E0601 if there is none."""
    path = Path(name)
    # A shell expands patterns; in quotes they come here as they are.
    if not path.exists() and glob.has_magic(name):
        found = sorted(map(Path, glob.iglob(name, recursive=True)))
        if not found:
            raise fail("E0601", f"nothing fits `{name}`")
        return found
    if not path.exists():
        raise fail("E0601", f"no file `{name}`", help=did_you_mean_path(path))
    return [path]


def _files_in(folder: Path, reader: Reader | None) -> tuple[list[Path], list[Path]]:
    """The files in a folder and in those below it that the run reads, and the others, both sorted,
    without those whose names begin with a dot. E0613 if there are none."""
    suffixes = reader.suffixes if reader else ARRAY_SUFFIXES
    try:
        every = sorted(path for path in folder.rglob("*") if path.is_file())
    except OSError as error:
        raise fail("E0617", f"cannot read {folder}: {reason(error)}") from error
    shown = [path for path in every if not any(p[0] == "." for p in _parts(path, folder))]
    found = [path for path in shown if path.suffix.lower() in suffixes]
    if not found:
        known = " ".join(sorted(suffixes))
        endings = listed(f"`{path.suffix or path.name}`" for path in shown)
        raise fail(
            "E0613",
            f"{folder} holds no files that end in {known}" if shown else f"{folder} is empty",
            help=f"it has {endings}" if shown else "",
        )
    return found, [path for path in shown if path not in set(found)]


def _parts(path: Path, folder: Path) -> tuple[str, ...]:
    return path.relative_to(folder).parts


# --- what they are --------------------------------------------------------------------------------


def _kind(file: NewFile) -> tuple[str, str]:
    """As `kind_of`; E0603 for an empty file, E0617 for one that cannot be read."""
    kind, format = file_kinds.kind_of(file.path)
    if not file.path.stat().st_size:
        raise fail("E0603", f"{file.name} is empty", help="fetch or copy it again")
    # Of a damaged array its reader says what is wrong.
    damaged = file.path.suffix.lower() in ARRAY_SUFFIXES and kind in (
        file_kinds.TEXT,
        file_kinds.UNKNOWN,
    )
    return (file_kinds.ARRAYS, "an array") if damaged else (kind, format)


def _described(file: NewFile, format: str) -> str:
    size = size_text(file.path.stat().st_size)
    return f"{file.name} ({size}) is {format}"


def _check_kind(file: NewFile, kind: str, format: str, reader: Reader, run: Run) -> None:
    """E0717 for a file of another kind than the run reads."""
    # What is of no known kind may be damaged: the reader says what is wrong with it.
    unknown = kind == file_kinds.UNKNOWN and format == file_kinds.NO_FORMAT
    if kind not in reader.file_kinds and not unknown:
        raise fail(
            "E0717",
            f"{_described(file, format)}, and {run.name} reads {reader.takes}",
            help=f"{run.given(reader.example)}; {ARRAYS_HELP}",
        )


def _refuse(
    report: Report,
    run: Run,
    files: Sequence[NewFile],
    kinds: Mapping[NewFile, tuple[str, str]],
) -> NoReturn:
    """UserError E0717 for each of the files, where only arrays can be read."""
    if run.recorded is None:
        why = f"{run.name} does not say how its data were read: it is a run of an earlier version"
        help = f"`nnc train --resume {run.name}` adds it where the data still are; {ARRAYS_HELP}"
    else:
        source = run.recorded.source
        why = f"{run.name} was trained on arrays" + (f" (`{source}`)" if source else "")
        help = ARRAYS_HELP
    for file in files:
        report.add("E0717", f"{_described(file, kinds[file][1])}, and {why}", help=help)
    raise UserError(report.diagnostics)


def given_arrays(
    arrays: np.ndarray | Mapping[str, np.ndarray], origin: str, run: Run, notes: Sequence[str] = ()
) -> Given:
    """Arrays, which are inputs as they are. UserError E0717 where they are to be inverted; a remark
    on bytes where the model takes pixels up to 1."""
    if run.invert:
        message = f"only images are inverted, and {origin} holds arrays"
        raise fail("E0717", message, help="arrays are taken as they are: 1 - x in NumPy")
    reader, named = run.reader, arrays if isinstance(arrays, Mapping) else {"image": arrays}
    pixels = named.get("image")
    is_scaled = reader is not None and reader.kind == "images" and reader.plain()["scale"] != 1
    if is_scaled and pixels is not None and pixels.dtype == np.uint8 and pixels.max(initial=0) > 1:
        notes = (*notes, f"the pixels of {origin} go up to {pixels.max()}, those of training to 1: "
                 "arrays are taken as they are")  # fmt: skip
    return Given(arrays, origin, notes=tuple(notes))


def _joined(files: Sequence[NewFile]) -> np.ndarray | dict[str, np.ndarray]:
    """The arrays of one file, or those of several one after the other; E0708 if they differ."""
    found = [read_arrays(file.path) for file in files]
    if len(found) == 1:
        return found[0]
    named = [one if isinstance(one, dict) else {"": one} for one in found]
    for file, one in zip(files, named, strict=True):
        forms = {name: array.shape[1:] for name, array in one.items()}
        first = {name: array.shape[1:] for name, array in named[0].items()}
        if forms != first:
            message = f"{files[0].name} and {file.name} hold arrays of different names or sizes"
            raise fail("E0708", message, help=f"{_forms(first)}, and {_forms(forms)}")
    whole = {name: np.concatenate([one[name] for one in named]) for name in named[0]}
    return whole[""] if set(whole) == {""} else whole


def _forms(forms: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"`{name}` [n, …] of {list(shape)}" for name, shape in forms.items())


def _without_places(error: UserError, files: Sequence[NewFile]) -> UserError:
    """The same error with the names of files where messages have their places."""
    names = {str(f.path): f.name for f in files if str(f.path) != f.name}

    def renamed(text: str) -> str:
        for place, name in names.items():
            text = text.replace(place, name)
        return text

    return UserError(
        replace(d, message=renamed(d.message), help=renamed(d.help)) for d in error.diagnostics
    )
