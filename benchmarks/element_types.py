"""The matrix product by the type of its factors: what 16 and 8 bits cost or bring on this CPU.

    python benchmarks/element_types.py

Numbers of 16 bits are widened as they are read and multiplied in f32; those of 8 bits are
multiplied in i32. Out: a line for each type and each order of the second factor: the fastest of
some runs, on one thread, and 10^9 operations a second.
"""

from __future__ import annotations

from time import perf_counter

import numpy as np

from nnc.compiler.elaboration.model import forward
from nnc.compiler.passes.equations.simplify import simplify
from nnc.dsl.check.checker import load_source
from nnc.dsl.diagnostics.diagnostic import Report
from nnc.dsl.syntax.source import Source
from nnc.runtime.device import DEVICES

ROWS, TERMS, COLUMNS = 256, 512, 512
KINDS = ("f32", "f16", "bf16", "i32", "i8", "u8")
RUNS = 20


def seconds(kind: str, transposed: bool) -> float:
    """Of the fastest run."""
    result = "i32" if kind[0] in "iu" else "f32"
    shape, place = ((COLUMNS, TERMS), "o, i") if transposed else ((TERMS, COLUMNS), "i, o")
    text = f"""model Product(a: {kind}[{ROWS}, {TERMS}], b: {kind}[{shape[0]}, {shape[1]}])
            -> y: {result}[{ROWS}, {COLUMNS}] {{
        y[n, o] = sum(i) a[n, i] * b[{place}]
    }}"""
    report = Report()
    checked = load_source(Source("product.nn", text), report)
    report.check()
    program = DEVICES["cpu"](1)(simplify(forward(checked.definitions, "Product", {})))
    rng = np.random.default_rng(1)
    for name in ("a", "b"):
        program.arrays[name][...] = rng.integers(0, 100, program.arrays[name].shape)
    program.run()
    found = []
    for _ in range(RUNS):
        began = perf_counter()
        program.run()
        found.append(perf_counter() - began)
    return min(found)


def main() -> None:
    operations = 2 * ROWS * TERMS * COLUMNS / 1e9
    for kind in KINDS:
        for transposed in (False, True):
            took = seconds(kind, transposed)
            order = "b[o, i]" if transposed else "b[i, o]"
            print(f"{kind:5}{order:10}{took * 1e3:8.3f} ms{operations / took:8.1f} · 10^9/s")


if __name__ == "__main__":
    main()
