"""`nnc explore`: a page with a program at every stage.

In: the command line. Out: HTML, on stdout or in a file. The page is made in `inspect/explore.py`.
"""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path

import click

from ...dsl.diagnostics.diagnostic import did_you_mean, fail
from ..inspect.emit import Stages
from ..inspect.explore import ENDINGS
from ..inspect.explore import explore as page
from ..inspect.profile_on import profile_on
from ..messages import notify
from ..training.atomic_files import write_text
from . import options as o
from .report import print_diagnostics


def explore(program, timed, steps, threads, device_name, output_file, opened) -> None:
    """What `nnc explore` does."""
    if output_file is not None and output_file.suffix.lower() not in ENDINGS:
        what = f"as `{output_file.suffix}`" if output_file.suffix else "without an ending"
        near = did_you_mean(output_file.suffix.lower(), ENDINGS)
        help = near or "a page is .html"
        raise fail("E0716", f"a page is not written {what}", help=help)
    if output_file is None and (opened or sys.stdout.isatty()):
        output_file = Path(f"{program.file.stem}.html")
    project = program.project
    stages = Stages(project, program.setup if timed else program.setup_if_trained)
    if o.verifying():
        o.check_passes(stages.program)
    profile = profile_on(device_name, project, program.setup, threads, steps) if timed else None
    text = page(stages, device_name, profile)
    print_diagnostics(stages.report.diagnostics)
    if output_file is None:
        click.echo(text, nl=False)
        return
    write_text(output_file, text)
    notify(f"{len(text) // 1000:,} kB in {output_file}")
    if opened and not webbrowser.open(output_file.resolve().as_uri()):
        notify("no browser was found; open the file yourself")
