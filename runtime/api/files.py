"""Files in the place of arrays: `model.predict("cat.jpg")`, and rows with names as `nnc predict`.

In: names of files, folders and patterns, and what a model keeps of its data. Out: its inputs. They
are read by the code that read the data of training (`data/core/reader.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from ..data import Search
from ..data.recorded import Recorded, from_plain
from ..inference.given_files import Given, Run, read_inputs
from ..inference.predict import Request, needed_names
from .errors import warn
from .state import Trained

Names = str | PathLike[str] | Sequence[str | PathLike[str]]
USAGE = 'predict("{file}")'


def is_files(arrays: Sequence[Any]) -> bool:
    """Whether all of what is given are names of files, or lists of such names."""
    return bool(arrays) and all(
        _is_name(one) or (isinstance(one, list | tuple) and bool(one) and all(map(_is_name, one)))
        for one in arrays
    )


def _is_name(value: object) -> bool:
    return isinstance(value, str | PathLike)


def run_of(trained: Trained, request: Request, invert: bool = False) -> Run:
    """What a model knows of its data. UserError as `needed_names`."""
    needed = needed_names(trained.executor, request)
    cache = Search(None, Path()).cache_folder
    return Run(trained.project.name, recorded_of(trained), cache, needed, invert, USAGE)


def recorded_of(trained: Trained) -> Recorded:
    """What a model keeps of its data: nothing, if they were arrays."""
    if trained.inputs is None:
        return Recorded("", None, {}, {}, {}, {})
    return from_plain(trained.inputs, trained.vocabularies, "the model")


def read_files(run: Run, arrays: Sequence[Any]) -> Given:
    """The inputs in files. UserError as `read_inputs`; remarks are warnings."""
    names: list[str] = []
    for one in arrays:
        names += [fspath(one)] if _is_name(one) else map(fspath, one)
    given = read_inputs(names, run)
    warn(given.notes)
    return given
