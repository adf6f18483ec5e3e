"""`nnc check`: every mistake of files, of those in folders, or of standard input.

In: the command line. Out: diagnostics on stderr. The work is done in `inspect/mistakes.py`.
"""

from __future__ import annotations

from pathlib import Path

import click

from ...dsl.diagnostics.diagnostic import Diagnostic, Report, UserError
from ..inspect.mistakes import examine
from ..messages import notify
from . import options as o
from .program_files import STDIN, plural, program_files, read_program, some_of
from .report import print_diagnostics


def check(files, sets, data) -> None:
    """What `nnc check` does."""
    report = Report()
    programs = program_files(files, report)
    found: dict[Diagnostic, None] = dict.fromkeys(report.diagnostics)
    wrong_files = []
    for file in programs.files:
        here = _mistakes(file, sets, data)
        if any(d.is_error for d in here):
            wrong_files.append(file)
        # Without repetitions: programs that share a file share its mistakes.
        found.update(dict.fromkeys(here))
    print_diagnostics(found)
    wrong = sum(d.is_error for d in found)
    if programs.many:
        _tell_summary(wrong, len(found) - wrong, wrong_files, programs.files)
    elif wrong:
        notify(plural(wrong, "mistake"))
    # Exit code 2 if all that is wrong is what `--set` says, and 1 if a file is.
    if wrong:
        raise click.exceptions.Exit(2 if UserError(found).of_flags else 1)


def _tell_summary(
    wrong: int, doubtful: int, wrong_files: list[Path], files: tuple[Path, ...]
) -> None:
    warnings = f", {plural(doubtful, 'warning')}" if doubtful else ""
    if not wrong:
        notify(f"no mistakes in {plural(len(files), 'file')}{warnings}")
    elif files:
        notify(f"{plural(wrong, 'mistake')} in {some_of(len(wrong_files), files)}{warnings}")


def _mistakes(file: Path, sets: tuple[str, ...], data: Path | None) -> list[Diagnostic]:
    """Everything that is wrong in one file."""
    report = Report()
    source = read_program(file, report)
    if source is None:
        return report.diagnostics
    path = Path(source.name) if file == STDIN else file
    search = o.search(data, path.parent, offline=True)
    return examine(source, path, search, o.assignments(sets), notify).diagnostics
