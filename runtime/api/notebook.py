"""Notebooks: the magic `%%nn`, whose cell is a program.

%load_ext nnc
%%nn net batch=64
model Net(x: f32[B, 4]) -> …
"""

from __future__ import annotations

import shlex
from typing import Any

from ...dsl.diagnostics.diagnostic import fail
from .errors import boundary
from .model import Model
from .opening import loads

USAGE = "like `%%nn net`, or `%%nn net batch=64 optimizer.lr=1e-3 device=cpu threads=2`"


def load_ipython_extension(shell: Any) -> None:
    """What `%load_ext nnc` calls."""
    shell.register_magic_function(lambda line, cell: define(shell, line, cell), "cell", "nn")


@boundary
def define(shell: Any, line: str, cell: str) -> Model:
    """`%%nn NAME KEY=VALUE …`: the model of the cell, as a variable of the notebook. The keys are
    `model`, `device`, `threads` and those of `--set`. UserError with what is wrong in the cell."""
    words = shlex.split(line)
    names = [word for word in words if "=" not in word]
    if len(names) > 1 or not all(name.isidentifier() for name in names):
        raise fail("E0704", f"`%%nn {line.strip()}` is not one name and settings", help=USAGE)
    settings: dict[str, Any] = dict(word.split("=", 1) for word in words if "=" in word)
    own = {key: settings.pop(key) for key in ("model", "device", "threads") if key in settings}
    if "threads" in own:
        if not own["threads"].isdecimal():
            raise fail("E0704", f"`threads={own['threads']}` is no whole number", help=USAGE)
        own["threads"] = int(own["threads"])
    name = names[0] if names else "model"
    found = loads(cell, name=f"{name}.nn", settings=settings, **own)
    shell.user_ns[name] = found
    return found
