"""Attention by tensor cores through the CUDA source: every form beside the evaluator, sizes about
those of tiles, what has them and what has not, missing barriers and waits, machine code."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from attentions import (
    CASES,
    DOT,
    FORM,
    attention_kernels,
    gpt,
    learned,
    of_sixteen,
    prepared,
    written,
)
from gpu_simulator import SimulatedProgram, SimulatorError, available, library
from stdlib.programs import Case
from support import cuda_module, gpu_plan, mostly_slow, round_contractions

from nnc.compiler.codegen.cuda.module import Module
from nnc.compiler.ir.equation import System
from nnc.compiler.ir.functions import TABLE
from nnc.compiler.passes.gpu.attention.attention_tile import AttentionTile
from nnc.compiler.passes.gpu.grid_ir import Grid
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.reference.pass_checker import PassCheck
from nnc.compiler.targets import GpuTarget
from nnc.runtime.device.cpu.program import CpuProgram
from nnc.runtime.inspect.code_check import check_code, run_stored

from .gates import check_usage, nvrtc_or_skip
from .roundings import BF16, as_near
from .whole_steps import run_steps, step_of_text

needs_gpp = pytest.mark.skipif(not available(), reason="needs g++")
bf16 = TABLE["bf16"].numpy

FORMS = [of_sixteen(case) for case in CASES if case.name != "two products"]
LONE = GpuTarget(processors=1)


def rounded(case: Case) -> tuple[System, System, dict[str, np.ndarray]]:
    """Without rounding, with it, and values."""
    system, values = prepared(case)
    return system, round_contractions(system), values


def run(system: System, values, target=None, schedules=(0, 1)) -> SimulatedProgram:
    program = SimulatedProgram(system, schedules, target)
    for name, value in values.items():
        program.arrays[name][...] = value
    program.run()
    return program


def grids(made: Module) -> list[Grid]:
    """Those with tensor cores."""
    return [
        g for g in made.grids.values() if isinstance(g.how, AttentionTile) and g.how.tensor_cores
    ]


def hows(made: Module) -> list[AttentionTile]:
    return [g.how for g in grids(made) if isinstance(g.how, AttentionTile)]


# --- values ---------------------------------------------------------------------------------------


@needs_gpp
@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("case", mostly_slow(FORMS, FORMS[1:3]), ids=str)
def test_values_and_gradients(case: Case):
    """In two orders of threads, copies early and late, on a small GPU and a large one."""
    system, given, values = rounded(case)
    exact = evaluate(system, values, wide=True)
    expected = evaluate(given, values, wide=True)
    heights = set()
    for target in (None, LONE):
        program = run(given, values, target)
        assert len(hows(program.module)) == 3
        heights |= {how.height for how in hows(program.module)}
        for name in system.outputs:
            as_near(program.arrays[name], expected[name], exact[name], name)
        if "v" in values:
            positive = evaluate(given, values | {"v": np.abs(values["v"])}, wide=True)["y"]
            off = np.abs(program.arrays["y"] - expected["y"])
            assert np.nanmax(off - (2 * BF16 + 1e-5) * positive) <= 0
    assert min(heights) == 32 and max(heights) == 128


def flash(q, k, v, hidden, width: int) -> tuple[np.ndarray, np.ndarray]:
    """What the first kernel computes of one head, `width` keys at a time, and the weights that the
    others compute; the weights of values are rounded, sums are not."""
    score = np.where(hidden, -np.inf, q @ k.T)
    top, total, y = np.full((len(q), 1), -np.inf), 0.0, 0.0
    for n in range(0, len(k), width):
        part = score[:, n : n + width]
        new = np.maximum(top, part.max(1, keepdims=True))
        weight, shrunk = np.exp(part - new), np.exp(top - new)
        y = shrunk * y + near(weight) @ v[n : n + width]
        total, top = shrunk * total + weight.sum(1, keepdims=True), new
    return y / total, np.exp(score - top) / total


def near(x: np.ndarray) -> np.ndarray:
    """Rounded to bf16 from f32."""
    return bf16(x.astype(np.float32)).astype(np.float64)


@needs_gpp
def test_roundings_are_where_they_should_be():
    """Beside the algorithm in float64 with the kernels' roundings: all but what lies at ties agrees
    as sums in f32 do."""
    inputs = {"q": "f32[1, 140, 32]", "k": "f32[1, 140, 32]", "v": "f32[1, 140, 48]"}
    case = written("flash", f"if j > i then -inf else {DOT}", inputs=inputs)
    _, given, values = rounded(case)
    program = run(given, values, LONE, (0,))
    found = {
        name: program.arrays[name][0].astype(np.float64) for name in given.outputs if name != "cost"
    }
    i, j = np.indices((140, 140))
    q, k, v = (near(values[name][0]) for name in "qkv")
    y, weight = flash(q, k, v, j > i, hows(program.module)[0].columns)
    dy = 1 + 2 * np.cos(2 * found["y"] + 0.3)
    slope = near(weight * (near(dy) @ v.T - (dy * found["y"]).sum(1, keepdims=True)))
    expected = {"y": y, "d_v": near(weight).T @ near(dy), "d_k": slope.T @ q, "d_q": slope @ k}
    for name, value in expected.items():
        scale, off = np.abs(value).max(), np.abs(found[name] - value)
        assert np.quantile(off, 0.9) <= 1e-5 * scale, name
        assert off.max() <= BF16 * scale, name


@pytest.mark.slow
@needs_gpp
@pytest.mark.parametrize(
    ("queries", "keys", "deep", "wide"),
    [
        (32, 33, 16, 128),
        (64, 64, 32, 16),
        (65, 128, 128, 128),
        (128, 130, 64, 64),
        (130, 32, 112, 80),
        (129, 65, 96, 96),
    ],
)
def test_sizes_about_those_of_tiles(queries: int, keys: int, deep: int, wide: int):
    inputs = {
        "q": f"f32[1, {queries}, {deep}]",
        "k": f"f32[1, {keys}, {deep}]",
        "v": f"f32[1, {keys}, {wide}]",
    }
    case = written("sizes", f"if j > i + 40 then -inf else {DOT} * 0.5", inputs=inputs)
    system, given, values = rounded(case)
    exact, expected = (evaluate(s, values, wide=True) for s in (system, given))
    for target in (None, LONE):
        program = run(given, values, target)
        assert len(hows(program.module)) == 3
        for name in system.outputs:
            as_near(program.arrays[name], expected[name], exact[name], name)


@needs_gpp
@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("case", FORMS[1:4], ids=str)
def test_every_result_is_that_of_its_equation(case: Case):
    """From what the kernels before had computed: values within two roundings of their weights."""
    _, given, values = rounded(case)
    apart = gpu_plan(given, shared=False)
    assert {n for k in attention_kernels(apart) for n in k.rounded_before_division} == {
        "attention1_attend1_y"
    }
    found = check_code(apart, run_stored(SimulatedProgram(apart, (0,)), values), 1e-5)
    assert all(value.right for value in found)
    assert max(v.error for v in found if v.equation.target.endswith("_y")) > 1e-4


@needs_gpp
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
def test_infinite_scores_and_those_that_are_no_numbers():
    """A row with a score of inf or nan is nan, as in the evaluator; the others are as they were."""
    inputs = {"near": "f32[40, 90]", "q": "f32[2, 40, 16]", "k": "f32[2, 90, 16]"}
    case = written(
        "inf",
        f"{DOT} + near[i, j]",
        more=", near: [n, m]",
        call="look(q, k, v, near)",
        inputs=inputs,
    )
    system, given, values = rounded(of_sixteen(case))
    values["near"] = np.zeros((40, 90), np.float32)
    values["near"][3, 80], values["near"][5, 2], values["near"][7, :] = np.inf, np.nan, -np.inf
    values["near"][9, 10:] = -np.inf
    outside = {"outputs": ("y",)}
    system, given = system.replace(**outside), given.replace(**outside)
    exact, expected = (evaluate(s, values, wide=True)["y"] for s in (system, given))
    program = run(given, values)
    assert len(hows(program.module)) == 1
    as_near(program.arrays["y"], expected, exact, "y")
    assert np.isnan(exact).all(axis=(0, 2)).nonzero()[0].tolist() == [3, 5, 7]


def of_products(count: int, deep: int) -> Case:
    """Scores that are sums of several products, each of queries and keys of its own."""
    score = " + ".join(f"(sum(a) q{n}[b, i, a] * k{n}[b, j, a])" for n in range(count))
    kinds = [(f"q{n}: [b, n, e]", f"k{n}: [b, m, e]") for n in range(count)]
    names = ", ".join(f"q{n}, k{n}" for n in range(count))
    text = FORM.replace("q: [b, n, e], k: [b, m, e]", ", ".join(map(", ".join, kinds)))
    inputs = {
        f"{x}{n}": f"f32[1, {size}, {deep}]"
        for n in range(count)
        for x, size in (("q", 40), ("k", 90))
    }
    return Case(
        "products",
        f"look({names}, v)",
        inputs | {"v": "f32[1, 90, 128]"},
        definitions=text % ("", f"({score}) * 0.1", "weight"),
    )


@pytest.mark.slow
@needs_gpp
@pytest.mark.parametrize(("count", "deep", "columns"), [(2, 128, 16), (12, 16, 0)])
def test_several_products_at_once(count: int, deep: int, columns: int):
    """Where the smallest tiles are needed, and where registers do not hold even these."""
    system, given, values = rounded(of_products(count, deep))
    exact, expected = (evaluate(s, values, wide=True) for s in (system, given))
    program = run(given, values, LONE, (0,))
    for name in system.outputs:
        as_near(program.arrays[name], expected[name], exact[name], name)
    none = program.module.source.count("// no tensor cores: not enough registers")
    assert bool(none) == (not columns)
    assert not columns or min(how.columns for how in hows(program.module)) == columns


# --- what is stored, and what has none ------------------------------------------------------------


@pytest.mark.slow
def test_operands_are_stored_once_for_all_kernels():
    """Queries, keys, values and the result's gradient, by the kernels that compute them; of groups
    of heads, keys and values once for each group."""
    (grouped,) = (case for case in FORMS if case.name == "grouped")
    _, given, values = rounded(grouped)
    made = gpu_plan(given, check=PassCheck(given, values))
    read = {
        s for k in attention_kernels(made) for e in k.equations for s in e.sources if "_bf16" in s
    }
    assert {name: made.system.tensors[name].shape for name in read} == {
        "attention1_heads1_z_bf16": (2, 6, 70, 16),
        "attention1_heads2_z_bf16": (2, 2, 70, 16),
        "attention1_heads3_z_bf16": (2, 2, 70, 16),
        "d_attention1_attend1_y_bf16": (2, 6, 70, 16),
    }
    products = [kernel for kernel in made.kernels if read & set(kernel.stored)]
    assert len(products) == 4 and all(kernel.anchor.reduce == "sum" for kernel in products)
    assert not {name.removesuffix("_bf16") for name in read if "heads" in name} & set(made.offsets)
    forward, keys, queries = hows(cuda_module(made))
    assert [len(how.row_panels) for how in (forward, keys, queries)] == [1, 2, 2]
    assert [len(how.column_panels) for how in (forward, keys, queries)] == [2, 2, 2]
    queried, weighted = ([p.column_panel for p in how.products] for how in (keys, queries))
    assert [t.panel for t in keys.totals] == queried[::-1]
    assert [t.panel for t in queries.totals] == weighted[1:]


def test_computed_operands_and_other_orders_are_stored_by_rows():
    inputs = {"q": "f32[1, 40, 16]", "k": "f32[16, 1, 40]", "v": "f32[1, 40, 16]"}
    text = written("", "(sum(a) q[b, i, a] * tanh(k[a, b, j]))").definitions
    case = Case(
        "rows", "look(q, k, v)", inputs, definitions=text.replace("k: [b, m, e]", "k: [e, b, m]")
    )
    made = gpu_plan(rounded(case)[1].replace(outputs=("y",)))
    (eq,) = (e for e in made.system.equations if e.target == "k_bf16")
    assert [i.size for i in eq.indices] == [1, 40, 16] and len(hows(cuda_module(made))) == 1


PARTS = """
fn look(x: [b, t, w]) -> y: [b, 2, t, 16] {
    fit[b, h < 2, i, j < t] = sum(a < 16) x[b, i, a + 16*h] * (x[b, j - 1, a + 32] else 0)
    weight = softmax(fit)
    y[b, h, i, c < 16] = sum(j) weight[b, h, i, j] * x[b, 2 * (j // 2), c + 48]
}
"""


@needs_gpp
def test_operands_that_are_parts_of_rows():
    """Of one tensor with all three; keys that are moved by one, values of every other place."""
    case = Case("parts", "look(x)", {"x": "f32[2, 40, 64]"}, definitions=PARTS)
    system, given, values = rounded(case)
    outside = {"outputs": ("y",)}
    system, given = system.replace(**outside), given.replace(**outside)
    made = gpu_plan(given, check=PassCheck(given, values))
    copies = [t for t in made.system.tensors.values() if t.storage == "bf16"]
    assert [(t.name, t.shape) for t in copies] == [("x_bf16", (2, 40, 64))]
    exact, expected = (evaluate(s, values, wide=True)["y"] for s in (system, given))
    program = run(given, values)
    assert hows(program.module)
    as_near(program.arrays["y"], expected, exact, "y")


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (CASES[0], "rows of 8 numbers are no multiple of 16"),
        (
            of_sixteen(next(c for c in CASES if c.name == "two products")),
            "`d_k_via_look1_fit` is no sum of products of two rounded numbers",
        ),
    ],
    ids=["rows of 8", "two products"],
)
def test_the_source_says_why_there_are_no_tensor_cores(case: Case, words: str):
    made = cuda_module(gpu_plan(rounded(case)[1]))
    assert not grids(made)
    assert made.source.count(f"; no tensor cores: {words}") >= 3
    assert "no tensor cores" not in cuda_module(gpu_plan(prepared(case)[0])).source


# --- training -------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_gpp
def test_a_gpt_loses_what_it_loses_on_the_cpu():
    """Each loss to half of what rounding to bf16 changes in a number, though steps add up; and both
    learn."""
    system, start = step_of_text(gpt(70, 32), precision="bf16")
    here, there = CpuProgram(system), SimulatedProgram(system, (0,))
    assert len(grids(there.module)) == 3  # for both layers
    losses = [run_steps(p, system, start, 5) for p in (here, there)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=BF16 / 2)
    assert losses[1][-1] < 0.8 * losses[1][0]


@needs_gpp
def test_learned_queries_are_rounded_before_they_are_updated():
    system, start = step_of_text(learned(16), precision="bf16")
    here, there = CpuProgram(system), SimulatedProgram(system)
    assert len(grids(there.module)) == 2  # x needs no gradient
    losses = [run_steps(p, system, start, 3) for p in (here, there)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=BF16 / 2)


# --- tests of the test ----------------------------------------------------------------------------


@pytest.mark.slow
@needs_gpp
def test_a_missing_barrier_or_wait_is_caught():
    """Each of each kernel left out, with keys of groups of queries, and a sequence of which nothing
    is seen: threads read what has not come yet, copies come where others still read, or too late.
    """
    layer = "x |> Attention(6, causal = true, kv_heads = 2, bias = false)(length)"
    _, given, values = rounded(
        Case(
            "all",
            layer,
            {"x": "f32[2, 70, 96]", "length": "i32[2]"},
            given={"length": np.array([0, 70])},
        )
    )
    program = run(given, values, LONE)
    expected = {name: program.arrays[name].copy() for name in given.outputs}
    made = program.module
    found = [
        re.search(rf"KERNEL\(\d+, 2\) {name}\(.*?\n}}", made.kernels, re.S)
        for name, g in made.grids.items()
        if g in grids(made)
    ]
    waits = re.compile(r"(BARRIER\(\)|WAIT\(0\));")
    places = [
        (m.start() + b.start(), m.start() + b.end())
        for m in found
        if m
        for b in waits.finditer(m[0])
    ]
    assert len(places) == 3 + 4 + 3  # of one with extra indices one more
    for start, end in places:
        text = made.kernels[:start] + made.kernels[end:]
        program._library = library(replace(made, kernels=text))
        for name, value in values.items():
            program.arrays[name][...] = value
        with pytest.raises((SimulatorError, AssertionError)):
            program.run()
            for name, value in expected.items():
                np.testing.assert_array_equal(program.arrays[name], value)


# --- machine code ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("width", "steps"), [(32, 256), (64, 1024), (80, 250), (128, 250)])
def test_kernels_compile_without_spills(width: int, steps: int):
    nvrtc_or_skip()
    inputs = {"x": f"f32[16, {steps}, {6 * width}]", "length": "i32[16]"}
    layer = "x |> Attention(6, causal = true, kv_heads = 2, bias = false)(length)"
    made = cuda_module(gpu_plan(rounded(Case("wide", layer, inputs))[1]))
    assert len(grids(made)) == 3
    check_usage(made)
    assert all(grid.shared_bytes <= 96 << 10 for grid in grids(made))


@pytest.mark.slow
def test_kernels_of_several_products_compile_without_spills():
    nvrtc_or_skip()
    made = cuda_module(gpu_plan(rounded(of_products(2, 128))[1]))
    assert len(grids(made)) == 4
    check_usage(made)
    assert all(grid.shared_bytes <= 96 << 10 for grid in grids(made))


def test_products_are_instructions():
    library = nvrtc_or_skip()
    inputs = {"x": "f32[4, 128, 192]"}
    made = cuda_module(
        gpu_plan(rounded(Case("plain", "x |> Attention(3, bias = false)", inputs))[1])
    )
    ptx = library.ptx(made.source, "sm_80")
    kernels = {text.split("(")[0].strip(): text for text in ptx.split(".entry ")[1:]}
    for name in (n for n, g in made.grids.items() if g in grids(made)):
        text = kernels[name]
        assert "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32" in text
        assert "ldmatrix.sync.aligned.m8n8.x4.shared" in text
        assert "ldmatrix.sync.aligned.m8n8.x4.trans.shared" in text
        assert "cp.async.cg.shared.global" in text and "st.shared" not in text
        assert "fma.rn.f32" in text and "mul.bf16" not in text
