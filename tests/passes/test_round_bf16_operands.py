"""Rounded operands are stored where that saves work, and only as much of them as is read."""

from __future__ import annotations

import numpy as np
import pytest
from support import optimize, plan, round_contractions, system, values

from nnc.compiler.ir.equation import System
from nnc.compiler.ir.expr import Apply, walk
from nnc.compiler.pipeline import compile
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.reference.pass_checker import PassCheck
from nnc.compiler.targets import CPU_TARGETS, CpuTarget
from nnc.runtime.device.cpu.program import CpuProgram
from nnc.runtime.project import project_of_text, setup_of

WITHOUT = ("pack-bf16-pairs",)
HEAD = (
    "model M(table: f32[500, 32], token: i32[24], other: i32[24, 3], w: f32[32, 40], "
    "x: f32[24, 32], d: f32[24, 40]) -> y {\n"
)
COLLECTED = {
    "rows": "y[b, o] = sum(i) table[token[b], i]*w[i, o]",
    "rows of two indices": "y[b, n, o] = sum(i) table[other[b, n], i]*w[i, o]",
    "summed": "y[i, o] = sum(b) table[token[b], i]*d[b, o]",
    "next rows": "y[b, o] = sum(i) (table[token[b] + 1, i] else 0)*w[i, o]",
    "columns": "y[r < 500, b, o] = sum(i < 32) table[r, i]*w[other[b, 0] % 32, o]*x[b, i]",
}  # fmt: skip
WHOLE = {
    "a small table": "y[b, o] = sum(i) w[token[b] % 32, o]*x[b, i]*x[b, o % 32]",
    "no table": "y[b, o] = sum(i) x[b, i]*w[i, o]",
    "few products": "y[b, o < 2] = sum(i) table[token[b], i]*w[i, o]",
}  # fmt: skip


def rounded(line: str) -> System:
    return round_contractions(system(f"{HEAD}{line}\n}}", float_type="f32"))


def given_to(found: System) -> dict[str, np.ndarray]:
    return values(found, integers=32)


@pytest.mark.parametrize("line", [*COLLECTED.values(), *WHOLE.values()])
@pytest.mark.parametrize("target", [CpuTarget(), CpuTarget(lanes=8, registers=16)], ids=["16", "8"])
def test_the_numbers_of_the_evaluator(line: str, target: CpuTarget):
    found = rounded(line)
    given = given_to(found)
    made = plan(found, without=WITHOUT, check=PassCheck(found, given))
    program = CpuProgram(made, 2, target)
    for name, value in given.items():
        program.arrays[name][...] = value
    program.run()
    expected = evaluate(found, given, wide=True)["y"]
    np.testing.assert_allclose(program.arrays["y"], expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["rows", "rows of two indices", "summed", "next rows"])
def test_of_a_large_table_only_the_rows_that_are_read(name: str):
    after = optimize(rounded(COLLECTED[name]), without=WITHOUT)
    assert "table_rows" in after.tensors and "table_bf16" not in after.tensors
    assert "table_rows_bf16" in after.tensors


@pytest.mark.parametrize("line", WHOLE.values(), ids=WHOLE)
def test_nothing_is_collected_in_vain(line: str):
    after = optimize(rounded(line), without=WITHOUT)
    assert not any("_rows" in name for name in after.tensors)


@pytest.mark.parametrize("name", [n for n, t in CPU_TARGETS.items() if t.lanes == 16])
def test_no_sum_of_a_convolutional_network_rounds(name: str):
    """Also where the gradient of pooling is sparse: what it selects by a computed index is
    multiplied as often as what a sum reads in order."""
    text = DIGITS_CNN
    project = project_of_text(text, "cnn.nn", None, [])
    from nnc.runtime.device import DEVICES
    from nnc.runtime.training.executor import Executor

    found = Executor(setup_of(project, None), DEVICES["cpu"](1), 1).training(32).system
    after = compile(found, CPU_TARGETS[name]).plan.system
    accumulations = [eq for eq in after.equations if eq.at is not None]
    assert accumulations
    for eq in after.equations:
        if eq.reduce or eq.at is not None:
            inside = {n.fn for n in walk(eq.body) if isinstance(n, Apply)}
            assert "bf16" not in inside, eq.target


@pytest.mark.parametrize(("rows", "copied"), [(3, False), (8, True), (64, False), (5000, True)])
def test_a_weight_is_copied_where_it_is_not_packed_or_the_copy_costs_nothing(rows, copied):
    """For very few rows each element is rounded as it is read."""
    found = _rounded_product(f"(x: f32[{rows}, 784], w: f32[784, 512]) -> y {{")
    after = optimize(found, target=CPU_TARGETS["icelake-server"])
    assert ("w_bf16" in after.tensors) == copied
    # Where pairs pay they are stored.
    pairs = "w_pairs" in optimize(found, target=CPU_TARGETS["zen5"]).tensors
    assert pairs == (rows >= 64)


def test_a_weight_of_a_prediction_is_rounded_once_for_all():
    found = _rounded_product("(x: f32[64, 784]) -> y {\nparam w: f32[784, 512] = 1")
    after = optimize(found, target=CPU_TARGETS["icelake-server"])
    assert "w_bf16" in after.tensors and "x_bf16" in after.tensors


def _rounded_product(head: str) -> System:
    text = f"model M{head}\ny[b, o] = sum(i) x[b, i]*w[i, o]\n}}"
    return round_contractions(system(text, float_type="f32"))


DIGITS_CNN = """model Cnn(image: f32[B, 28, 28, 1]) -> logits: f32[B, 10] {
    logits = image |> Conv(32, 3) |> relu |> MaxPool(2) |> Conv(64, 3) |> relu |> MaxPool(2)
        |> Flatten |> Dense(10)
}
train Cnn {
    input label: i32[B]
    loss = cross_entropy(logits, label)
    optimizer = adam(lr = 1e-3)
    precision = bf16
    batch = 32
    steps = 1
}
"""
