"""`nnc graph`: a picture of a model's layers or equations.

In: the command line. Out: SVG or DOT, on stdout or in a file. The work is done in `graph.py`,
`layered_layout.py` and `graph_drawing.py` of `inspect/`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from ...dsl.diagnostics.diagnostic import did_you_mean, fail
from ..inspect.graph import equation_graph, layer_graph
from ..inspect.graph_drawing import dot, is_drawn, svg
from ..inspect.structure import structure
from ..messages import notify
from ..training.atomic_files import write_text

FORMS = {".svg": svg, ".dot": dot}


def graph(program, equations, depth, emit, output_file) -> None:
    """What `nnc graph` does."""
    if emit and output_file:
        raise click.UsageError("--emit prints to stdout, --output writes a file: give one of them")
    if equations and depth is not None:
        raise click.UsageError("--depth is for layers, and --equations shows all of them")
    if output_file is not None:
        _check_ending(output_file)
    project, setup = program.project, program.setup_if_trained
    found = structure(project, setup)
    drawn = equation_graph(project, found) if equations else layer_graph(project, found, depth)
    if output_file is None and emit is None and sys.stdout.isatty():
        output_file = _own_picture(Path(f"{program.file.stem}.svg"))
    if output_file is None:
        click.echo(FORMS[f".{emit or 'svg'}"](drawn), nl=False)
        return
    write_text(output_file, FORMS[output_file.suffix.lower()](drawn))
    notify(f"{len(drawn.nodes)} nodes in {output_file}")


def _own_picture(path: Path) -> Path:
    """The same path, which nobody has named. UserError E0709 if something else than a drawing of
    nnc is there."""
    if os.path.lexists(path) and not is_drawn(path):
        message = f"{path} is no drawing of nnc, and is not written over"
        raise fail("E0709", message, help="name a file: `--output FILE`")
    return path


def _check_ending(path: Path) -> None:
    """UserError E0716 unless there is a picture of the file's ending."""
    if path.suffix.lower() not in FORMS:
        what = f"as `{path.suffix}`" if path.suffix else "without an ending"
        near = did_you_mean(path.suffix.lower(), FORMS)
        help = f"{near} there are {', '.join(FORMS)}".strip()
        raise fail("E0716", f"graphs are not drawn {what}", help=help)
