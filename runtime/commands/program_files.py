"""The programs that `nnc check`, `fmt` and `fix` are given: files, folders, standard input.

In: paths of the command line. Out: texts. A folder stands for all `.nn` files in it and below it,
but for hidden folders, environments of Python, and the folders of runs: their programs are what was
trained, and no source.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from ...dsl.check.library import read_source, source_of
from ...dsl.diagnostics.diagnostic import Report, fail
from ...dsl.files import reason
from ...dsl.syntax.source import Source
from ..program_folders import programs_below

STDIN = Path("-")
STDIN_NAME = "<stdin>"


@dataclass(frozen=True)
class ProgramFiles:
    """The files that were named, each once, and whether a folder was among them."""

    files: tuple[Path, ...]
    searched: bool

    @property
    def many(self) -> bool:
        return self.searched or len(self.files) > 1


def program_files(paths: Sequence[Path], report: Report) -> ProgramFiles:
    """The files that the paths stand for, in order. A folder without any is reported (E0216).
    UsageError for standard input beside others."""
    if STDIN in paths and len(paths) > 1:
        raise click.UsageError("`-` is standard input, and goes with no other FILE")
    found: dict[str, Path] = {}
    for path in paths:
        inside = sorted(programs_below(path)) if path != STDIN and path.is_dir() else [path]
        if not inside:
            report.add("E0216", f"there is no `.nn` file in `{path}` or below it")
        for file in inside:
            found.setdefault(os.path.realpath(file), file)
    return ProgramFiles(tuple(found.values()), any(p != STDIN and p.is_dir() for p in paths))


def read_program(path: Path, report: Report) -> Source | None:
    """The text of a file, or of standard input; None if it cannot be read, which is reported."""
    if path == STDIN:
        return source_of(standard_input(), STDIN_NAME, report)
    return read_source(path, report)


def standard_input() -> bytes:
    """All of standard input. UserError E0709 if it is closed, or a folder."""
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise fail("E0709", f"cannot read standard input: {reason(error)}") from error


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def some_of(count: int, files: Iterable[Path]) -> str:
    """`2 of 5 files`."""
    return f"{count} of {plural(len(tuple(files)), 'file')}"
