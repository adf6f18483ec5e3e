"""Work of the passes on long programs: it grows with their length, not with its square. Calls are
counted, as times differ."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
from support import TARGET, system

from nnc.compiler.ir.equation import System
from nnc.compiler.passes.cpu.lower import lower
from nnc.compiler.passes.equations import common_subexpressions as cse
from nnc.compiler.passes.equations import simplify
from nnc.compiler.passes.lowering import addressing
from nnc.compiler.pipeline import plan

LENGTH = 300


def calls(module: ModuleType, name: str, run: Callable[[], object]) -> int:
    """How often a function of the module is called in a run."""
    count = 0
    plain = getattr(module, name)

    def counted(*arguments):
        nonlocal count
        count += 1
        return plain(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, counted)
        run()
    return count


def model(statements: list[str]) -> System:
    lines = "\n".join(f"    {statement}" for statement in statements)
    outputs = ", ".join(f"y{k}: f32[4]" for k in range(LENGTH))
    return system(f"model M(x: f32[4]) -> {outputs} {{\n{lines}\n}}", float_type="f32")


def test_a_chain_of_copies_is_followed_once():
    copies = ["a0[i] = x[i]", *(f"a{k}[i] = a{k - 1}[i]" for k in range(1, LENGTH))]
    text = [*copies, *(f"y{k}[i] = a{k}[i] + {k}" for k in range(LENGTH))]
    forwarded = calls(simplify, "_forwarded", lambda: model(text))
    assert LENGTH <= forwarded <= 4 * LENGTH


def test_bodies_that_differ_in_a_constant_are_not_compared():
    differing = model([f"y{k}[i] = x[i]*{k}.5 + {k}.25" for k in range(LENGTH)])
    matched = calls(cse, "match", lambda: cse.common_subexpressions(differing, TARGET))
    assert matched <= 4 * LENGTH


def test_what_nothing_matches_is_not_looked_into():
    """Only where an available body reads the same tensors are constants compared."""
    text = ["a0[i] = exp(x[i])", *(f"a{k}[i] = exp(a{k - 1}[i]*0.5)" for k in range(1, LENGTH))]
    chain = model([*text, *(f"y{k}[i] = a{k}[i]" for k in range(LENGTH))])
    looked = calls(cse, "_outside_reads", lambda: cse.common_subexpressions(chain, TARGET))
    assert LENGTH <= looked <= 6 * LENGTH


def test_equal_indices_are_linearized_once():
    """However many kernels of a network have them."""
    text = [
        f"a{k}[i, j] = sum(m) {f'a{k - 1}[i, m]' if k else 'x[i, m]'}*w[m, j]" for k in range(40)
    ]
    lines = "\n".join(f"    {line}" for line in text)
    system_ = system(
        f"model M(x: f32[8, 8], w: f32[8, 8]) -> y: f32[8, 8] {{\n{lines}\n    y = a39\n}}",
        float_type="f32",
    )
    addressing._linearized.cache_clear()
    made = plan(system_, TARGET)
    for kernel in made.kernels:
        lower(kernel, made, TARGET)
    assert addressing._linearized.cache_info().misses <= 30


def test_an_index_outside_reads_matches_a_constant():
    """A stored body with an index of its own serves for any constant in its place."""
    stored = system(
        """model M(x: i32[4]) -> y: i32[4, 3], z: i32[4] {
            y[i, j < 3] = x[i]*(x[i] + j)
            z[i] = 1 + x[i]*(x[i] + 2)
        }""",
        float_type="f32",
    )
    found = cse.common_subexpressions(stored, TARGET).definition["z"]
    assert found.sources == ["y"]
