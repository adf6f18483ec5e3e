"""Diagnostics to stderr, in the form that the command line asks for.

In: diagnostics. Out: text on stderr. `form` is set once by `cli.py`, before any command runs.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable

import click

from ...dsl.diagnostics.diagnostic import Diagnostic
from ...dsl.diagnostics.render import render_all
from ..project import Project

ERROR_FORMAT = "error_format"  # its key in click's context


def print_diagnostics(diagnostics: Iterable[Diagnostic], form: str = "") -> None:
    """Render them all to stderr, in the form asked for on the command line if none is given."""
    found = tuple(diagnostics)
    if not form:
        context = click.get_current_context(silent=True)
        form = context.find_root().params[ERROR_FORMAT] if context else "human"
    if found:
        terminal = sys.stderr.isatty()
        width = shutil.get_terminal_size().columns if terminal else 100
        color = terminal and not os.environ.get("NO_COLOR")  # no-color.org
        text = render_all(found, form, color=color, width=width)
        print(text, file=sys.stderr, flush=True)


def print_warnings(project: Project) -> None:
    """What is odd but not wrong in a program."""
    print_diagnostics(project.warnings)
