"""The program of a plan as CUDA C++.

In: a `LaunchProgram`, in which every decision stands. Out: a `Module`: one text, and what
the device needs to launch it. Nothing here compiles or runs CUDA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ...passes.gpu.grid_ir import Grid
from ...passes.gpu.launch_ir import (
    Function,
    FusedKernel,
    Launches,
    LaunchProgram,
    distinct_launches,
)
from ...passes.gpu.persistent_loop import PersistentLoop
from .kernel import fused_kernel, grid_function
from .persistent import loop_function


@dataclass(frozen=True)
class Module:
    """The text of `kernels` without the prelude, the launches of one run, and the bytes of the
    arena that they work in. `grids` and `loops` are the bodies of the functions by name,
    `definitions` their texts and those of the kernels, and `members` the functions of a kernel."""

    kernels: str
    launches: Launches
    arena_bytes: int
    grids: Mapping[str, Grid] = field(default_factory=dict)
    loops: Mapping[str, PersistentLoop] = field(default_factory=dict)
    definitions: Mapping[str, str] = field(default_factory=dict)
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def entries(self) -> frozenset[str]:
        """The names of the kernels."""
        return frozenset(launch.function for launch in distinct_launches(self.launches))

    @property
    def source(self) -> str:
        return f"{prelude()}\n{self.kernels}"


@cache
def prelude() -> str:
    # a file of its own, so that editors and compilers can check it
    return Path(__file__).with_name("prelude.cuh").read_text("utf-8")


def emit(program: LaunchProgram) -> Module:
    """The program's text."""
    bodies = {d.name: d.body for d in program.definitions if isinstance(d, Function)}
    texts = {d.name: _text(d) for d in program.definitions}
    return Module(
        # each definition stands after what it uses, as C++ wants it
        "\n".join(texts.values()),
        program.launches,
        program.arena_bytes,
        {name: body for name, body in bodies.items() if isinstance(body, Grid)},
        {name: body for name, body in bodies.items() if isinstance(body, PersistentLoop)},
        texts,
        {
            d.name: tuple(member.name for member in d.members)
            for d in program.definitions
            if isinstance(d, FusedKernel)
        },
    )


def _text(definition: Function | FusedKernel) -> str:
    if isinstance(definition, FusedKernel):
        return fused_kernel(definition)
    if isinstance(definition.body, PersistentLoop):
        return loop_function(definition, definition.body)
    return grid_function(definition, definition.body)
