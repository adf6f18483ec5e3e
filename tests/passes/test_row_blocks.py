"""Row blocks: which matrices are not stored, what of them is computed, and what comes of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from attentions import CASES, DOT, gpt, prepared, written
from stdlib.programs import Arrays, Case
from support import mostly_slow, plan

from nnc.compiler.ir.equation import System
from nnc.compiler.passes.kernels.kernel import Blocks, Plan
from nnc.compiler.pipeline import derive
from nnc.compiler.programs import training_step
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.reference.pass_checker import PassCheck
from nnc.compiler.targets import CPU_TARGETS, CpuTarget, RowBlockLimits
from nnc.runtime.data import Search
from nnc.runtime.device.cpu import host
from nnc.runtime.device.cpu.program import CpuProgram
from nnc.runtime.project import planned_setup, project_of_text

# A matrix is read at a computed row, or two axes of it are reduced at once: it is stored.
STORED = ("grouped", "one head of keys for all", "the same queries for all")
LARGE = 40 * 33  # elements of the smallest matrix of the cases


def blocking(target: CpuTarget, rows: int) -> CpuTarget:
    """The target, on which every matrix is worth blocks of so many rows."""
    return replace(target, row_blocks=RowBlockLimits(1, 1, 0.0, rows))


def blocks_of(made: Plan) -> list[Blocks]:
    return [item for item in made.items if isinstance(item, Blocks)]


def check(system: System, values: Arrays, made: Plan, target: CpuTarget, tolerance: float) -> None:
    """The outputs, beside the evaluator's and to the bit for any number of threads. What threads
    hold begins as NaN: nothing may be read that was not computed."""
    expected = evaluate(derive(system), values)
    found: dict[str, list[np.ndarray]] = {name: [] for name in system.outputs}
    for threads in (1, 2, 3, 17):
        program = CpuProgram(made, threads, target)
        for name, value in values.items():
            program.arrays[name][...] = value
        program.arena[made.arena_bytes :] = 255
        for _ in range(2):
            program.run()
        for name, every in found.items():
            every.append(program.arrays[name].copy())
    for name, every in found.items():
        size = np.abs(expected[name][np.isfinite(expected[name])]).max(initial=0.0)
        np.testing.assert_allclose(
            every[0], expected[name], rtol=0, atol=tolerance * max(1.0, size), err_msg=name
        )
        assert len({array.tobytes() for array in every}) == 1, name


@pytest.mark.parametrize("case", mostly_slow(CASES, CASES[:1]), ids=str)
def test_attention_in_many_forms_with_its_gradients(case: Case) -> None:
    system, values = prepared(case)
    target = blocking(host.target(), 16)
    made = plan(system, check=PassCheck(system, values), target=target)
    assert len(blocks_of(made)) == (0 if case.name in STORED else 3)
    if case.name not in STORED:
        tensors = made.system.tensors
        held = {name for item in blocks_of(made) for name in item.held}
        assert held and not held & made.offsets.keys()
        assert all(tensors[name].size >= LARGE for name in held)
        assert all(tensors[name].bytes < 4 * tensors[name].size for name in held)
    check(system, values, made, target, 2e-6)


MASKS = {
    "j > i": {"j - i - 1"},
    "j < i": {"i - j - 1"},
    "j > i or j < i - 50": {"j - i - 1", "i - j - 51"},
    "i > j + 70": {"i - j - 71"},
    "j > 2*i + 20 or j < 2*i - 9": {"i * 2 - j - 10", "j - i * 2 - 21"},
    "j % 3 == 1": set(),
}


@pytest.mark.parametrize(
    "target", mostly_slow(["generic-avx512", "generic-avx2", "generic-sse"], ["generic-avx2"])
)
@pytest.mark.parametrize("mask", mostly_slow(MASKS, ["j > i"]))
def test_what_a_mask_hides_is_not_computed(mask: str, target: str) -> None:
    """More rows than fit evenly into blocks, and long enough for whole steps to be left out."""
    rows = 17 if target == "generic-avx2" else 24
    case = written(
        "masked",
        f"if {mask} then -inf else {DOT}",
        inputs={"q": "f32[1, 257, 6]", "k": "f32[1, 257, 6]", "v": "f32[1, 257, 9]"},
    )
    system, values = prepared(case)
    chosen = blocking(CPU_TARGETS[target], rows)
    made = plan(system, verified=True, target=chosen)
    found = {str(form) for kernel in made.kernels for form in kernel.unread_where}
    assert found == MASKS[mask]
    if CPU_TARGETS[target].lanes <= host.target().lanes:
        check(system, values, made, chosen, 2e-6)


@pytest.mark.slow
def test_in_double_precision() -> None:
    system, values, gradients = CASES[1].prepared("f64")
    system = system.replace(outputs=(*system.outputs, *gradients.values()))
    target = blocking(host.target(), 16)
    made = plan(system, check=PassCheck(system, values), target=target)
    assert len(blocks_of(made)) == 3
    check(system, values, made, target, 1e-12)


@pytest.mark.slow
def test_other_sums_and_maxima_of_a_product() -> None:
    """The pass knows products, maps and reductions, not softmax: a kernel machine's smoothed
    neighbours, with their nearest."""
    case = Case(
        "kernels",
        "near(q, k, v)",
        {"q": "f32[70, 6]", "k": "f32[90, 6]", "v": "f32[90]"},
        definitions="""
fn near(q: [n, e], k: [m, e], v: [m]) -> y: [n] {
    d[i, j] = 1.0 / (1.0 + (sum(a) q[i, a] * k[j, a]) ^ 2)
    top[i] = max(j) d[i, j]
    y[i] = top[i] + (sum(j) d[i, j] * v[j])
}
""",
    )
    system, values = prepared(case)
    target = blocking(host.target(), 16)
    made = plan(system, check=PassCheck(system, values), target=target)
    assert len(blocks_of(made)) >= 2
    check(system, values, made, target, 2e-6)


def step(length: int, more: str = "") -> System:
    project = project_of_text(gpt(length, 32, more=more), "m.nn", None, [])
    return training_step(planned_setup(project, Search(None, None, offline=True)))[0]


def test_memory_is_linear_in_the_length() -> None:
    sizes = {}
    for length in (1024, 2048):
        made = plan(step(length), target=replace(host.target(), row_blocks=RowBlockLimits(1)))
        assert len(blocks_of(made)) == 6  # three for each of two layers
        sizes[length] = made.arena_bytes + made.held_bytes
    assert sizes[2048] < 2.05 * sizes[1024]


def test_a_small_matrix_is_stored() -> None:
    assert not blocks_of(plan(step(64), target=CPU_TARGETS["zen5"]))
    assert blocks_of(plan(step(2048), target=CPU_TARGETS["zen5"]))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["zen5", "skylake-server"])
def test_products_of_rounded_numbers(target: str) -> None:
    """With and without an instruction for pairs, beside the step that stores the matrices."""
    system, chosen = step(96, "precision = bf16"), CPU_TARGETS[target]
    own = host.target()
    if chosen.lanes > own.lanes or (chosen.saved_by_pairs > 0) > (own.saved_by_pairs > 0):
        pytest.skip("not on this processor")
    rng = np.random.default_rng(0)
    results = []
    blocked = blocking(chosen, 16)
    made, stored = (plan(system, verified=True, target=t) for t in (blocked, chosen))
    assert len(blocks_of(made)) == 6 and not blocks_of(stored)
    given: Arrays = {}
    for every, threads in ((stored, 1), (made, 1), (made, 3)):
        program = CpuProgram(every, threads, chosen)
        for name, array in program.arrays.items():
            if system.tensors[name].kind in ("input", "param") and array.shape:
                whole = array.dtype.kind == "i"
                if name not in given:
                    given[name] = (
                        rng.integers(0, 17, array.shape)
                        if whole
                        else rng.normal(0, 0.2, array.shape)
                    ).astype(array.dtype)
                array[...] = given[name]
        program.arena[every.arena_bytes :] = 255
        program.run()
        results.append({name: array.copy() for name, array in program.arrays.items()})
    assert any((results[1][n] != given[n]).any() for n in given if given[n].dtype.kind == "f")
    for name, array in results[0].items():
        np.testing.assert_allclose(results[1][name], array, rtol=0, atol=2e-3, err_msg=name)
        assert results[1][name].tobytes() == results[2][name].tobytes(), name


@pytest.mark.parametrize("target", ["sapphire-rapids-amx", "zen4", "generic-avx2"])
def test_no_copy_of_a_block_is_made_outside_of_it(target: str) -> None:
    """Tiles and pairs of bf16 numbers, and transposed copies, are of whole tensors: what is held
    has none, and only the kernels of its blocks read it."""
    made = plan(
        step(96, "precision = bf16"), verified=True, target=blocking(CPU_TARGETS[target], 16)
    )
    inside = {kernel for item in blocks_of(made) for kernel in item.every}
    for kernel in set(made.kernels) - inside:
        assert not any(made.system.tensors[n].held for eq in kernel.equations for n in eq.sources)
