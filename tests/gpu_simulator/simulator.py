"""A GPU simulator: the emitted CUDA C++, compiled by g++ and run thread by thread on the CPU.

The threads of a block are fibers (`simulator.cpp`), and `simulator.h` defines the prelude's
primitives in their terms. A run is repeated under several schedules of threads and blocks, and with
asynchronous copies completing both as early and as late as the hardware may complete them; all
these runs must agree to the bit, or a barrier is missing. Shared memory, temporaries and outputs
are filled with NaN before a run, and every access is checked against the bounds of its array. It
is slow. It needs g++ and no GPU.
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

from nnc.compiler.codegen.cuda.module import Module, prelude
from nnc.compiler.ir.equation import System
from nnc.compiler.passes.gpu.launch_ir import Launch, Launches
from nnc.compiler.passes.kernels.kernel import Plan
from nnc.compiler.pipeline import generate, plan
from nnc.compiler.targets import GpuTarget
from nnc.runtime.device.bf16_arrays import Bf16Arrays, is_converted, memory_array, readable

HERE = Path(__file__).parent
# Most of the time goes to g++: -Og compiles in two thirds of the time of -O1, and its code takes a
# third longer; that of -O0 takes three times as long.
OPTIMIZED = "-Og"
FLAGS = ("-std=c++17", "-fPIC", "-w", "-ffp-contract=off", f"-I{HERE}")


class SimulatorError(Exception):
    """A kernel did what is undefined on a GPU, or two schedules gave different results."""


class SimulatedProgram:
    """A compiled system with its memory. `schedules` are orders of threads and blocks (0 ascending,
    1 descending, others random); each is run with asynchronous copies made at their request
    (`eager`) and at the wait for them (`lazy`)."""

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
        self.module = generate(self.plan, target)
        asynchronous = "COMMIT(" in self.module.kernels
        self.variants = tuple(product(schedules, copies if asynchronous else copies[:1]))
        self._library = library(self.module)
        self.arena = np.zeros(self.module.arena_bytes + 64, np.uint8)
        tensors = self.system.tensors.values()
        self.arrays = {
            t.name: self._memory_of(t.name)
            for t in tensors
            if t.kind != "temp" or t.name in self.system.outputs
        }
        bf16 = {n: a for n, a in self.arrays.items() if is_converted(self.system.tensors[n])}
        self._bf16 = Bf16Arrays(self.system, bf16)
        self.arrays |= self._bf16.arrays
        self._initialized = sorted(self._range(t.name) for t in tensors if t.kind != "temp")

    @property
    def loops(self) -> str:
        """The grids and persistent loops as text."""
        made = (*self.module.grids.values(), *self.module.loops.values())
        return "\n\n".join(map(str, made))

    def _range(self, name: str) -> tuple[int, int]:
        start = self.plan.offsets[name]
        return start, start + self.system.tensors[name].bytes

    def view(self, name: str) -> np.ndarray:
        """The tensor's bytes of the arena as an array; of numbers of bf16 a copy."""
        return readable(self._memory_of(name), self.system.tensors[name])

    def _memory_of(self, name: str) -> np.ndarray:
        start, stop = self._range(name)
        return memory_array(self.arena[start:stop], self.system.tensors[name])

    def run(self) -> None:
        """Computes everything under every schedule from the same start. SimulatorError if a kernel
        is wrong or two schedules differ."""
        self._bf16.store()
        self._poison()
        before = self.arena.copy()
        expected: np.ndarray | None = None
        for schedule, copies in self.variants:
            self.arena[:] = before
            self._run(schedule, copies)
            if expected is None:
                expected = self.arena.copy()
            elif not np.array_equal(expected, self.arena):
                start, early = self.variants[0]
                raise SimulatorError(
                    f"schedules {start} ({early}) and {schedule} ({copies}) differ"
                )
        self._bf16.load()

    def _run(self, schedule: int, copies: str) -> None:
        self._library.nnc_begin(schedule, copies == "lazy")
        self._library.run(ctypes.c_void_p(self.arena.ctypes.data))
        error = self._library.nnc_error().decode()
        if error:
            raise SimulatorError(error)

    def _poison(self) -> None:
        """Fills all that is computed with NaN."""
        end = 0
        for start, stop in [*self._initialized, (len(self.arena), 0)]:
            self.arena[end:start] = 0xFF
            end = max(end, stop)


def available() -> bool:
    return shutil.which("g++") is not None


def library(module: Module) -> ctypes.CDLL:
    """The module compiled by g++. RuntimeError without g++."""
    folder, header = _folder(), _header()
    source = f'#include "{header.name}"\n{module.kernels}\n{_driver(module.launches)}'
    name = hashlib.sha256(source.encode()).hexdigest()[:24]
    path = folder / f"{name}.so"
    if not path.exists():
        text = folder / f"{name}.cpp"
        text.write_text(source, "utf-8")
        _gpp(OPTIMIZED, "-shared", text, _runtime(), "-o", path)
    loaded = ctypes.CDLL(str(path))
    loaded.nnc_error.restype = ctypes.c_char_p
    return loaded


@cache
def _folder() -> Path:
    made = tempfile.TemporaryDirectory(prefix="nnc-gpu-simulator-")
    _folders.append(made)  # removed when Python ends
    return Path(made.name)


_folders: list[tempfile.TemporaryDirectory] = []


@cache
def _header() -> Path:
    """The prelude as a precompiled header: it is the longer part of most sources."""
    path = _folder() / "prelude.h"
    path.write_text(f"#define NNC_SIMULATOR\n{prelude()}", "utf-8")
    _gpp(OPTIMIZED, "-x", "c++-header", path, "-o", f"{path}.gch")
    return path


@cache
def _runtime() -> Path:
    """The fibers, compiled once."""
    path = _folder() / "simulator.o"
    _gpp("-O2", "-c", HERE / "simulator.cpp", "-o", path)
    return path


def _gpp(*arguments: str | Path) -> None:
    if not available():
        raise RuntimeError("the GPU simulator needs g++, which is not installed")
    command = ["g++", *FLAGS, *_sanitizer(), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"g++ failed:\n{done.stderr[:4000]}")


def _sanitizer() -> tuple[str, ...]:
    """With `NNC_SIMULATOR_SANITIZE=address` AddressSanitizer watches every access, too; the process
    must have been started with its library (`LD_PRELOAD`)."""
    chosen = os.environ.get("NNC_SIMULATOR_SANITIZE")
    return (f"-fsanitize={chosen}", "-g") if chosen else ()


def _driver(launches: Launches) -> str:
    """The function `run`, which makes every launch once."""
    lines: list[str] = []
    _write_launches(launches, lines, "  ", {})
    return "\n".join(['extern "C" void run(char* arena) {', *lines, "}", ""])


def _write_launches(
    launches: Launches, lines: list[str], indent: str, indices: dict[str, str]
) -> None:
    for item in launches:
        if isinstance(item, Launch):
            pointers = [f"nnc::Pointer{{arena + {o}}}" for o in item.offsets]
            arguments = ", ".join([*pointers, *(indices[name] for name in item.fixed)])
            lines.append(
                f'{indent}nnc::launch("{item.function}", {item.blocks}, {item.layers}, '
                f"{item.threads}, {item.shared}, [&] {{ {item.function}({arguments}); }});"
            )
            continue
        values, name = item.values, f"at{len(indices)}"
        lines.append(
            f"{indent}for (int {name} = {values.start}; {name} != {values.stop}; "
            f"{name} += {values.step}) {{"
        )
        _write_launches(item.launches, lines, indent + "  ", {**indices, item.index.name: name})
        lines.append(f"{indent}}}")
