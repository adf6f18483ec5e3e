"""The GPU's kernels on the CPU: the same CUDA C++ compiled by g++ against a stand-in for the GPU.

In: a `System` or `Plan`. Out: a `ShimProgram`. It is slow and made for tests: the threads of a
block run as fibers in several schedules, and asynchronous copies are made as early and as late as
may be, which must all agree to the bit; shared memory, temps and outputs are full of NaN before;
every access is checked. It needs g++ and no GPU.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np

from ....compiler.codegen.cuda.module import Launch, Launches, Module, module, prelude
from ....compiler.ir.equation import System
from ....compiler.passes.kernels.kernel import Plan
from ....compiler.pipeline import plan
from ....compiler.targets import GpuTarget
from .arrays import array

HERE = Path(__file__).parent
FLAGS = ("-std=c++17", "-fPIC", "-w", "-ffp-contract=off", f"-I{HERE}")


class ShimError(Exception):
    """A kernel did what a GPU would not forgive."""


class ShimProgram:
    """A compiled system with its memory. Tried are `schedules`, orders of threads, each with
    `copies` that are made when asked for (eager) or when waited for (lazy)."""

    def __init__(
        self,
        source: System | Plan,
        schedules: tuple[int, ...] = (0, 1),
        target: GpuTarget | None = None,
        copies: tuple[str, ...] = ("eager", "lazy"),
    ):
        target = target or GpuTarget()
        self.plan = source if isinstance(source, Plan) else plan(source, target)
        self.system = self.plan.system
        self.module = module(self.plan, target)
        alike = "COMMIT(" not in self.module.kernels
        self.ways = tuple(product(schedules, copies[:1] if alike else copies))
        self._library = library(self.module)
        self.arena = np.zeros(self.module.arena_bytes + 64, np.uint8)
        self.arrays = {
            t.name: self.view(t.name)
            for t in self.system.tensors.values()
            if t.kind != "temp" or t.name in self.system.outputs
        }
        given = [self._range(t.name) for t in self.system.tensors.values() if t.kind != "temp"]
        self._given = sorted(given)

    @property
    def loops(self) -> str:
        made = (*self.module.grids.values(), *self.module.sweeps.values())
        return "\n\n".join(map(str, made))

    def _range(self, name: str) -> tuple[int, int]:
        start = self.plan.offsets[name]
        return start, start + self.system.tensors[name].bytes

    def view(self, name: str) -> np.ndarray:
        """The tensor's place in the arena as an array."""
        start, stop = self._range(name)
        return array(self.arena[start:stop], self.system.tensors[name])

    def run(self) -> None:
        """Computes everything, in every way from the same start. ShimError if a kernel is wrong or
        two ways differ."""
        self._poison()
        before = self.arena.copy() if len(self.ways) > 1 else self.arena
        first: np.ndarray | None = None
        for schedule, copies in self.ways:
            if first is not None:
                self.arena[:] = before
            self._run(schedule, copies)
            if first is None:
                first = self.arena.copy() if len(self.ways) > 1 else self.arena
            elif not np.array_equal(first, self.arena):
                start, early = self.ways[0]
                raise ShimError(f"schedules {start} ({early}) and {schedule} ({copies}) differ")

    def _run(self, schedule: int, copies: str) -> None:
        self._library.nnc_begin(schedule, copies == "lazy")
        self._library.run(ctypes.c_void_p(self.arena.ctypes.data))
        error = self._library.nnc_error().decode()
        if error:
            raise ShimError(error)

    def _poison(self) -> None:
        """NaN in all that is computed."""
        end = 0
        for start, stop in [*self._given, (len(self.arena), 0)]:
            self.arena[end:start] = 0xFF
            end = max(end, stop)


# --- building -------------------------------------------------------------------------------------


def library(module: Module) -> ctypes.CDLL:
    """The module compiled by g++. RuntimeError without it."""
    folder, header = _folder(), _header()
    source = f'#include "{header.name}"\n{module.kernels}\n{_driver(module.launches)}'
    name = hashlib.sha256(source.encode()).hexdigest()[:24]
    path = folder / f"{name}.so"
    if not path.exists():
        text = folder / f"{name}.cpp"
        text.write_text(source, "utf-8")
        _gpp("-O1", "-shared", text, _runtime(), "-o", path)
    loaded = ctypes.CDLL(str(path))
    loaded.nnc_error.restype = ctypes.c_char_p
    return loaded


@cache
def _folder() -> Path:
    made = tempfile.TemporaryDirectory(prefix="nnc-shim-")
    _folders.append(made)  # removed when Python ends
    return Path(made.name)


_folders: list[tempfile.TemporaryDirectory] = []


@cache
def _header() -> Path:
    """The prelude, compiled once: it is the longer part of most sources."""
    path = _folder() / "prelude.h"
    path.write_text(f"#define NNC_SHIM\n{prelude()}", "utf-8")
    _gpp("-O1", "-x", "c++-header", path, "-o", f"{path}.gch")
    return path


@cache
def _runtime() -> Path:
    """The fibers, compiled once."""
    path = _folder() / "shim.o"
    _gpp("-O2", "-c", HERE / "shim.cpp", "-o", path)
    return path


def available() -> bool:
    return shutil.which("g++") is not None


def _gpp(*arguments: str | Path) -> None:
    if not available():
        raise RuntimeError("the device cuda-shim needs g++, which is not installed")
    command = ["g++", *FLAGS, *_sanitizer(), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"g++ failed:\n{done.stderr[:4000]}")


def _sanitizer() -> tuple[str, ...]:
    """With `NNC_SHIM_SANITIZE=address` accesses are watched by g++'s own means, too; the process
    must have been started with its library (`LD_PRELOAD`)."""
    chosen = os.environ.get("NNC_SHIM_SANITIZE")
    return (f"-fsanitize={chosen}", "-g") if chosen else ()


def _driver(launches: Launches) -> str:
    """The function `run`, which launches everything once."""
    lines: list[str] = []
    _spell(launches, lines, "  ", {})
    return "\n".join(['extern "C" void run(char* arena) {', *lines, "}", ""])


def _spell(launches: Launches, lines: list[str], indent: str, at: dict[str, str]) -> None:
    for item in launches:
        if isinstance(item, Launch):
            places = [f"nnc::Pointer{{arena + {o}}}" for o in item.offsets]
            arguments = ", ".join([*places, *(at[name] for name in item.fixed)])
            lines.append(
                f'{indent}nnc::launch("{item.function}", {item.blocks}, {item.layers}, '
                f"{item.threads}, {item.shared}, [&] {{ {item.function}({arguments}); }});"
            )
            continue
        values, name = item.values, f"at{len(at)}"
        lines.append(
            f"{indent}for (int {name} = {values.start}; {name} != {values.stop}; "
            f"{name} += {values.step}) {{"
        )
        _spell(item.launches, lines, indent + "  ", {**at, item.index.name: name})
        lines.append(f"{indent}}}")
