"""Whether AMX can be used here: the processor has it, the system permits it, a product is right.

`obstacle` is why not, in words; empty if nothing is in the way. Linux gives a process the tile
registers when it asks for them once, before their first use; threads made afterwards inherit them.
Then one small product is computed by tiles and compared with NumPy's.
Tests: tests/backends/test_amx.py.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from ctypes import c_int64, c_void_p
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ....compiler.codegen.llvm.thread_pool import ARENA_BYTES
from ....compiler.ir.build import call
from ....compiler.ir.dtypes import LINE
from ....compiler.ir.equation import Equation, Index, System, Tensor
from ....compiler.ir.expr import Idx, Read
from ....compiler.targets import CpuTarget
from ... import cache
from . import features
from .code_cache import cached_or_compiled, compiled
from .jit import LEVEL

if TYPE_CHECKING:
    from ....compiler.pipeline import LlvmCode

# Documentation/arch/x86/xstate.rst of Linux: arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA = 158, 0x1023, 18
ROWS, TERMS, COLUMNS = 20, 70, 37  # of the product that is compared: tiles with ends of every kind


@lru_cache
def obstacle(target: CpuTarget) -> str:
    """Why the code of a target with AMX cannot run here; empty if it can."""
    if not {"amx_tile", "amx_bf16"} <= features.flags():
        return "this processor has none, or `NNC_ISA` leaves it out"
    if not _permitted():
        return "the operating system does not permit it"
    if not agrees(target):
        return "a small product by tiles was not what it must be"
    return ""


def _permitted() -> bool:
    """Asks Linux for the tile registers."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    try:
        failed = ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA)
    except (OSError, AttributeError):
        return False
    return failed == 0


def agrees(target: CpuTarget) -> bool:
    """Whether a small product by tiles is that of the same numbers in f64."""
    free = replace(target.layout, pack_element=0, start_kernel=0)
    system, target = _product(), replace(target, layout=free)

    def made() -> LlvmCode:
        from ....compiler.pipeline import compile  # not needed where the code was cached

        return compile(system, target)

    entries = cache.kernel_cache()
    if entries is None:
        code = compiled(made(), LEVEL)
    else:
        code = cached_or_compiled(system, repr(target), LEVEL, entries, made)
    memory = np.zeros(code.arena_bytes + ARENA_BYTES + 2 * LINE, np.uint8)
    # The arena begins at a cache line, with the cells of its barrier in front of it.
    arena = memory[-memory.ctypes.data % LINE + ARENA_BYTES :]
    rng = np.random.default_rng(0)
    # Whole numbers: bf16 holds them, and sums in any order are exact.
    a, b = (rng.integers(-8, 8, system.tensors[n].shape).astype(np.float32) for n in ("a", "b"))
    views = {n: arena[code.offsets[n] :].view(np.float32) for n in ("a", "b", "y")}
    views["a"][: a.size], views["b"][: b.size] = a.ravel(), b.ravel()
    code.library.function("step", c_void_p, c_int64, c_int64)(arena.ctypes.data, 0, 1)
    return bool((views["y"][: ROWS * COLUMNS] == (a @ b).ravel()).all())


def _product() -> System:
    """y[i, j] = sum(k) bf16(a[i, k]) * bf16(b[k, j])"""
    i, j, k = Index("i", ROWS), Index("j", COLUMNS), Index("k", TERMS)
    shapes = {"a": (ROWS, TERMS), "b": (TERMS, COLUMNS)}
    tensors = {name: Tensor(name, shape, "f32", "input") for name, shape in shapes.items()}
    tensors["y"] = Tensor("y", (ROWS, COLUMNS), "f32")
    a, b = (
        call("bf16", Read(name, tuple(map(Idx, places)), None, "f32"))
        for name, places in (("a", "ik"), ("b", "kj"))
    )
    product = Equation("y", (i, j), call("mul", a, b), "sum", (k,))
    return System("product", tensors, (product,), ("y",))
