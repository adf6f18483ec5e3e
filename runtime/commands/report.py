"""Diagnostics to stderr, in the form that the command line asks for.

In: diagnostics. Out: text on stderr.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...dsl.diagnostics.diagnostic import Diagnostic
from ...dsl.diagnostics.render import render_all
from ..messages import form, uses_color

if TYPE_CHECKING:
    from ..project import Project


def print_diagnostics(diagnostics: Iterable[Diagnostic]) -> None:
    """Render them all to stderr."""
    found = tuple(diagnostics)
    if found:
        width = shutil.get_terminal_size().columns if sys.stderr.isatty() else 100
        text = render_all(found, form(), color=uses_color(sys.stderr), width=width)
        print(text, file=sys.stderr, flush=True)


def print_warnings(project: Project) -> None:
    """What is odd but not wrong in a program."""
    print_diagnostics(project.warnings)
