"""`nnc doctor`: whether a GPU can be used, and what is missing.

In: nothing. Out: text; exit code 0 also without a GPU. `device/cuda/discovery.py` does the work.
"""

from __future__ import annotations

import click

from ..device.cuda.discovery import lines, look


@click.command()
def doctor() -> None:
    """Say which CuPy, driver and NVRTC are there, and how to install what is missing."""
    click.echo("\n".join(lines(look())))
