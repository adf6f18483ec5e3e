"""`nnc plot`: what was measured in training, as curves.

In: the command line. Out: a picture in characters on stdout, or a file. The work is done in
`curves.py`, `curve_pictures.py` and `terminal_plot.py`.
"""

from __future__ import annotations

import os
import shutil
import sys

import click

from ..inspect.curve_pictures import check_ending, picture
from ..inspect.curves import Choice, panels, read_histories
from ..inspect.terminal_plot import Screen, terminal_plot
from ..messages import notify, uses_color
from ..training.atomic_files import write_bytes


def plot(runs, metrics, against, smooth, log, output_file) -> None:
    """What `nnc plot` does."""
    if output_file is not None:
        check_ending(output_file)
    names = tuple(name.strip() for text in metrics for name in text.split(",") if name.strip())
    histories, empty = read_histories(runs)
    shown = panels(histories, Choice(names, against, smooth, log))
    for name in empty:
        notify(f"{name} has measured nothing yet")
    if output_file is None:
        click.echo(terminal_plot(shown, _screen()), nl=False)
        return
    write_bytes(output_file, picture(shown, output_file))
    notify(f"{len(shown)} panel{'s' * (len(shown) != 1)} in {output_file}")


def _screen() -> Screen:
    """What standard output can show. Elsewhere than in a terminal: 80 columns, no colours."""
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    dumb = os.environ.get("TERM") == "dumb"
    unicode = encoding.startswith("utf") and not dumb
    if not sys.stdout.isatty():
        return Screen(color=uses_color(sys.stdout), unicode=unicode)
    size = shutil.get_terminal_size()
    return Screen(size.columns, size.lines, uses_color(sys.stdout), unicode)
