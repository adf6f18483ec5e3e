"""`nnc doctor`: what code for the CPU uses, whether a GPU can be used, and what is missing.

In: nothing. Out: text; exit code 0 also without a GPU. `device/cpu/host.py` and
`device/cuda/discovery.py` do the work.
"""

from __future__ import annotations

import click

from ..device.cpu.host import lines as cpu_lines
from ..device.cuda.discovery import lines, look


def doctor() -> None:
    """What `nnc doctor` does."""
    click.echo("\n".join([*cpu_lines(), "", *lines(look())]))
