"""Attention through the CUDA source: values, gradients, training steps, and machine code.

Every run is made in two orders of threads and blocks, which must agree to the bit.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from attentions import CASES, DOT, attention_kernels, gpt, prepared, written
from gpu_simulator import SimulatedProgram, SimulatorError, available, library
from stdlib.programs import Case
from support import cuda_module, gpu_plan, mostly_slow, round_contractions

from nnc.compiler.ir.equation import System
from nnc.compiler.passes.gpu.attention.attention_tile import AttentionTile
from nnc.compiler.pipeline import derive
from nnc.compiler.programs import training_step
from nnc.compiler.reference.evaluator import evaluate
from nnc.runtime.data import Search
from nnc.runtime.project import planned_setup, project_of_text

from .gates import check_usage, nvrtc_or_skip
from .roundings import BF16, as_near, steps_as_near
from .simulated import SMALL

needs_gpp = pytest.mark.skipif(not available(), reason="needs g++")


def agree(found: np.ndarray, expected: np.ndarray, name: str) -> None:
    """Equal to a part in 10^5 of the largest; no numbers in the same places."""
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected), err_msg=name)
    seen = ~np.isnan(expected)
    allowed = 1e-5 * np.abs(expected[seen]).max(initial=1e-3)
    assert np.abs(found - expected)[seen].max(initial=0) <= allowed, name


def run(system: System, values, target=None, schedules=(0, 1)) -> SimulatedProgram:
    program = SimulatedProgram(system, schedules, target)
    for name, value in values.items():
        program.arrays[name][...] = value
    program.run()
    return program


@needs_gpp
@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("case", mostly_slow(CASES, CASES[1:4]), ids=str)
def test_values_and_gradients(case: Case):
    """No size is a multiple of a tile's; tiles are high on a small GPU, low on a large one."""
    system, values = prepared(case)
    expected = evaluate(system, values, wide=True)
    heights = set()
    for target in (None, SMALL.__class__(processors=1)):
        program = run(system, values, target)
        for name in system.outputs:
            agree(program.arrays[name], expected[name], name)
        forms = [g.how for g in program.module.grids.values() if isinstance(g.how, AttentionTile)]
        assert len(forms) >= 3
        heights |= {form.height for form in forms}
    assert heights == {32, 64}


@needs_gpp
@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("case", mostly_slow(CASES, CASES[1:4]), ids=str)
def test_values_and_gradients_of_bf16(case: Case):
    """As near to exact numbers as the equations' roundings; values within the rounding of each
    weight that the kernel makes and the one of the equations, of the sum of what is weighted."""
    system, values = prepared(case)
    exact = evaluate(system, values, wide=True)
    rounded = round_contractions(system)
    expected = evaluate(rounded, values, wide=True)
    program = run(rounded, values)
    assert len(attention_kernels(program.plan)) == (4 if case.name == "two products" else 3)
    for name in system.outputs:
        as_near(program.arrays[name], expected[name], exact[name], name)
    if "v" in values:
        positive = evaluate(rounded, values | {"v": np.abs(values["v"])}, wide=True)["y"]
        off = np.abs(program.arrays["y"] - expected["y"])
        assert np.nanmax(off - (2 * BF16 + 1e-5) * positive) <= 0


@needs_gpp
@pytest.mark.parametrize("size", [32, 64, 65, 128, 130])
def test_sizes_about_those_of_tiles(size: int):
    """Sequences and heads as large as a tile, and one more; queries and keys of other numbers."""
    deep = {32: 16, 64: 17, 65: 64, 128: 65, 130: 128}[size]
    inputs = {"q": f"f32[1, {size}, {deep}]", "k": f"f32[1, 64, {deep}]", "v": "f32[1, 64, 20]"}
    case = written("sizes", f"if j > i then -inf else {DOT}", inputs=inputs)
    system, values = prepared(case)
    expected = evaluate(system, values, wide=True)
    program = run(system, values)
    for name in system.outputs:
        agree(program.arrays[name], expected[name], name)


@needs_gpp
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
def test_infinite_scores_and_those_that_are_no_numbers():
    """A row with a score of inf or nan is nan, as in the evaluator; the others are as they were."""
    system, values = prepared(
        written(
            "inf",
            f"{DOT} + near[i, j]",
            more=", near: [n, m]",
            call="look(q, k, v, near)",
            inputs={"near": "f32[40, 90]"},
        )
    )
    system = system.replace(outputs=("y",))
    values["near"] = np.zeros((40, 90), np.float32)
    values["near"][3, 80], values["near"][5, 2], values["near"][7, :] = np.inf, np.nan, -np.inf
    values["near"][9, 10:] = -np.inf
    expected = evaluate(system, values)
    agree(run(system, values).arrays["y"], expected["y"], "y")
    assert np.isnan(expected["y"]).all(axis=(0, 2)).nonzero()[0].tolist() == [3, 5, 7]


# --- training -------------------------------------------------------------------------------------


def gpt_step(precision: str = "") -> tuple[System, dict[str, np.ndarray]]:
    from nnc.compiler.reference.initial_values import initial_values

    project = project_of_text(gpt(40, 16, more=precision), "gpt.nn", None, [])
    system, drawn = training_step(planned_setup(project, Search(None, None, offline=True)))
    return derive(system), dict(initial_values(system, drawn, 3))


@needs_gpp
@pytest.mark.parametrize(
    "precision", ["", pytest.param("precision = bf16", marks=pytest.mark.slow)]
)
def test_training_steps_are_those_of_the_evaluator(precision: str):
    """With bf16 a step is as near to that without rounding as the evaluator's; every such step
    begins where the evaluator is, for errors grow."""
    (system, state), (plain, _) = gpt_step(precision), gpt_step()
    program = SimulatedProgram(system)
    assert len(attention_kernels(program.plan)) == 6
    rng = np.random.default_rng(0)
    for step in range(1, 4):
        state |= {n: rng.integers(0, 17, (2, 40)).astype(np.int32) for n in ("token", "target")}
        state["step"] = np.array(step, np.int32)
        if precision or step == 1:
            for name, array in program.arrays.items():
                array[...] = state.get(name, 0)
        for name in ("token", "target", "step"):
            program.arrays[name][...] = state[name]
        program.run()
        found, exact = evaluate(system, state), evaluate(plain, state, wide=True)
        state |= {old: found[new] for old, new in system.updates.items()}
        params = {t.name: system.updates[t.name] for t in system.of_kind("param")}
        if precision:
            steps_as_near(
                [
                    (program.arrays[name], found[new], exact[plain.updates[name]])
                    for name, new in params.items()
                ]
            )
            np.testing.assert_allclose(program.arrays["loss"], found["loss"], rtol=1e-3)
            continue
        for name, new in {"loss": "loss", **params}.items():
            agree(program.arrays[name], found[new], name)


# --- tests of the test ----------------------------------------------------------------------------


@pytest.mark.slow
@needs_gpp
def test_a_missing_barrier_is_caught():
    """Each barrier of each kernel left out: threads then read what is not there yet, or write over
    what others still read. Two orders differ, or what was not there is seen as no number."""
    two_tiles = dict.fromkeys("qkv", "f32[1, 70, 6]")
    system, values = prepared(written("plain", DOT, inputs=two_tiles))
    expected = evaluate(system, values, wide=True)["y"]
    program = SimulatedProgram(system)
    made = program.module
    names = [n for n, g in made.grids.items() if isinstance(g.how, AttentionTile)]
    streams = [
        re.search(rf"KERNEL\(256, 2\) {name}\(.*?\n}}", made.kernels, re.S) for name in names
    ]
    places = [
        (m.start() + b.start(), m.start() + b.end())
        for m in streams
        if m
        for b in re.finditer(r"BARRIER\(\);", m[0])
    ]
    assert len(places) == 4 + 8 + 6
    for start, end in places:
        text = made.kernels[:start] + made.kernels[end:]
        program._library = library(replace(made, kernels=text))
        for name, value in values.items():
            program.arrays[name][...] = value
        with pytest.raises((SimulatorError, AssertionError), match=r"differ|\by\b"):
            program.run()
            agree(program.arrays["y"], expected, "y")


# --- machine code ---------------------------------------------------------------------------------


@needs_gpp
def test_low_tiles_where_nothing_else_fits():
    """Scores of two products of vectors of 128, and the gradients' own product; where both products
    have the same queries, these are in shared memory once."""
    inputs = dict.fromkeys("qkv", "f32[1, 33, 128]")
    score = f"({DOT} + sum(a) q[b, i, a] * tanh(k[b, j, a])) * 0.05"
    system, values = prepared(written("wide", score, inputs=inputs))
    expected = evaluate(system, values, wide=True)
    program = run(system, values)
    for name in system.outputs:
        agree(program.arrays[name], expected[name], name)
    forms = [g.how for g in program.module.grids.values() if isinstance(g.how, AttentionTile)]
    assert {(form.height, len(form.products)) for form in forms} == {(32, 2), (32, 3), (16, 3)}
    assert all(form.shared_bytes <= 96 << 10 for form in forms)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "steps"), [(64, 256), (128, 250)])
def test_kernels_compile_without_spills(width: int, steps: int):
    """Heads as wide as those of most models, in tiles that fit and that do not."""
    nvrtc_or_skip()
    inputs = {"x": f"f32[16, {steps}, {6 * width}]", "length": "i32[16]"}
    layer = "x |> Attention(6, causal = true, kv_heads = 2, bias = false)(length)"
    made = cuda_module(gpu_plan(prepared(Case("wide", layer, inputs))[0]))
    assert sum(isinstance(g.how, AttentionTile) for g in made.grids.values()) == 3
    check_usage(made)
    for grid in made.grids.values():
        assert grid.shared_bytes <= 96 << 10
