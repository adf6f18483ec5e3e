"""Random numbers as LLVM IR, by the counter-based generator Threefry.

Source: J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011."""

from __future__ import annotations

from ...ir.random import PARITY, ROTATIONS, ROUNDS, UNIFORM_SCALE, UNIFORM_SHIFT
from .arithmetic import Arithmetic
from .vector import Vector


def threefry(a: Arithmetic, seed: str, step: str, stream: str, index: str) -> str:
    """Uniform f32 in [0, 1) from i32 operands: the function that compiler/ir/random.py defines."""
    i, v = Vector(a, "i32"), Vector(a, "f32")
    # Threefry's key schedule: the third word is the other two and a constant, xor-ed.
    keys = (seed, step, i.op("xor", i.op("xor", seed, step), PARITY))
    x0, x1 = i.op("add", index, keys[0]), i.op("add", stream, keys[1])
    for done in range(ROUNDS):
        x0 = i.op("add", x0, x1)
        x1 = i.op("xor", i.intrinsic("fshl", x1, x1, ROTATIONS[done % 8]), x0)
        # A key is injected after every four rounds, with the injection's number against symmetry.
        if done % 4 == 3:
            j = done // 4 + 1
            x0 = i.op("add", x0, keys[j % 3])
            x1 = i.op("add", x1, i.op("add", keys[(j + 1) % 3], j))
    return v.mul(i.convert("uitofp", i.op("lshr", x0, UNIFORM_SHIFT), "f32"), UNIFORM_SCALE)
