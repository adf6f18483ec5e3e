"""Which attention is found in equations, what its kernels store, and what is left alone."""

from __future__ import annotations

import numpy as np
import pytest
from attentions import CASES, DOT, attention_kernels, gpt, learned, prepared, written
from stdlib.programs import Case
from support import NO_ATTENTION, gpu_plan, plan

from nnc.compiler.ir.affine import Affine
from nnc.compiler.ir.expr import Idx
from nnc.compiler.passes.gpu.attention.masked_tiles import masked_tiles
from nnc.compiler.programs import training_step
from nnc.compiler.reference.pass_checker import PassCheck
from nnc.runtime.data import Search
from nnc.runtime.project import planned_setup, project_of_text

LARGE = 40 * 33  # elements of the smallest matrix of scores of the cases


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_matrix_of_scores_is_stored(case: Case):
    """Softmax and values are one kernel, the gradients of keys and values another, those of queries
    a third; where a score is made of two products, there are gradients of each."""
    system, values = prepared(case)
    made = gpu_plan(system, check=PassCheck(system, values))
    kernels = attention_kernels(made)
    assert len(kernels) == (4 if case.name == "two products" else 3)
    assert kernels[0].row_max is not None and len(kernels[0].totals) == 2
    tensors = made.system.tensors
    for kernel in kernels:
        assert {t for t in kernel.local if tensors[t].size >= LARGE} == kernel.local
        assert not kernel.local & made.offsets.keys()
    matrices = [
        n
        for n in made.offsets
        if tensors[n].kind == "temp"
        and n not in system.outputs
        and len(set(tensors[n].shape) & {40, 45, 70, 90}) > 1
    ]
    assert not matrices
    assert made.arena_bytes < gpu_plan_without(system)


def gpu_plan_without(system) -> int:
    from support import gpu_plan

    return gpu_plan(system, without=NO_ATTENTION).arena_bytes


def test_a_row_stores_its_maximum_and_its_sum():
    system, _ = prepared(CASES[1])
    forward, keys, queries = attention_kernels(gpu_plan(system))
    shapes = [system.tensors[t].shape for t in forward.stored]
    assert shapes == [(2, 3, 70), (2, 3, 70), (2, 3, 70, 8)]
    assert (keys.row.name, keys.column.name) == (queries.column.name, queries.row.name)
    assert [len(k.products) for k in (forward, keys, queries)] == [1, 2, 2]


def test_the_gradient_of_a_sum_is_a_product_with_the_result():
    """Of all row sums, only the softmax's own needs a matrix of scores."""
    for case in CASES:
        for kernel in attention_kernels(gpu_plan(prepared(case)[0])):
            assert all(t.features for t in kernel.totals) or kernel.row_max is not None, case


# --- what is left alone --------------------------------------------------------------------------


def note(case: Case, outputs: tuple[str, ...] = ()) -> str:
    system, _ = prepared(case)
    made = gpu_plan(system.replace(outputs=(*system.outputs, *outputs)), verified=True)
    assert not attention_kernels(made)
    (found,) = (k.reason for k in made.kernels if "its matrix of scores is stored" in k.reason)
    return found.partition("its matrix of scores is stored: ")[2]


def test_weights_that_are_wanted():
    assert note(written("plain", DOT), ("look1_softmax1_y",)) == ("`look1_softmax1_y` is an output")


def test_weights_that_are_summed_over_examples():
    text = written("", DOT).definitions.replace(
        "y = find(weight, v)",
        "z = find(weight, v)\n    all[i, j] = sum(b) weight[b, i, j]\n"
        "    y[b, i, c] = z[b, i, c] * (max(j) all[i, j])",
    )
    found = note(Case("read", "look(q, k, v)", written("", DOT).inputs, definitions=text))
    assert found == "`look1_all` reduces neither queries nor keys alone"


def test_small_and_deep_ones():
    tile = "x |> Attention(2)"
    assert note(Case("small", tile, {"x": "f32[2, 12, 8]"})) == (
        "12 by 12 is less than a tile of 32"
    )
    assert "vectors of 160" in note(Case("deep", tile, {"x": "f32[1, 40, 320]"}))


def test_a_table_that_is_learnt():
    """Its gradient is a sum over examples, not over queries or keys."""
    case = written(
        "table",
        f"{DOT} + near[i, j]",
        more=", near: [n, m]",
        call="look(q, k, v, near)",
        inputs={"near": "f32[40, 90]"},
    )
    assert "d_near" in note(case)


def test_a_table_of_distances_that_is_learnt():
    """Its gradient is an accumulation."""
    case = written(
        "distances",
        f"{DOT} + near[far[i, j]]",
        more=", near: [d], far: i32[n, m]",
        call="look(q, k, v, near, far)",
        inputs={"near": "f32[7]", "far": "i32[40, 90]"},
        given={"far": np.arange(3600).reshape(40, 90) % 7},
    )
    assert "accumulates" in note(case)


def test_weights_on_a_diagonal():
    text = written("", DOT).definitions.replace(
        "y = find(weight, v)",
        "z = find(weight, v)\n    y[b, i, c] = z[b, i, c] * weight[b, i, i]",
    )
    inputs = dict.fromkeys("qkv", "f32[2, 40, 10]")
    found = note(Case("diagonal", "look(q, k, v)", inputs, definitions=text))
    assert "reads a diagonal" in found


# --- what is masked -------------------------------------------------------------------------------


def masked(case: Case) -> list[tuple[Affine, ...]]:
    """The forms of every kernel."""
    made = gpu_plan(prepared(case)[0])
    return [masked_tiles(kernel, made.system) for kernel in attention_kernels(made)]


def test_what_conditions_mask():
    """A causal mask hides key - query > 0, from the sums for keys too, whose weights would not be 0
    if a row were masked as a whole; lengths alone hide nothing from those."""

    def count(name: str) -> list[int]:
        (case,) = (c for c in CASES if c.name == name)
        return [len(forms) for forms in masked(case)]

    assert count("all") == [0, 0, 0]
    assert count("causal") == [1, 1, 1]
    assert count("causal with lengths") == [2, 2, 2]
    assert count("a window") == [2, 2, 2]
    assert count("rows hidden wholly") == [1, 0, 1]
    first, *_ = attention_kernels(gpu_plan(prepared(CASES[1])[0]))
    form = Affine({Idx(first.column.name): 1, Idx(first.row.name): -1}, 0)
    assert masked(CASES[1])[0] == (form,)


def test_a_window_that_masks_a_whole_row():
    """Query 0 sees nothing: its weights are NaN, and so is every key's gradient."""
    case = written("none", f"if j > i - 1 or j < i - 9 then -inf else {DOT}")
    assert [len(forms) for forms in masked(case)] == [2, 0, 2]


# --- whole models ---------------------------------------------------------------------------------


def test_the_memory_of_a_gpt():
    """A step with windows of 1024 needs less memory than the weights of one layer."""
    project = project_of_text(gpt(1024, 64, "4, 128", 65, "adam(lr = 1e-3)"), "gpt.nn", None, [])
    system, _ = training_step(planned_setup(project, Search(None, None, offline=True)))
    made, stored = gpu_plan(system), gpu_plan_without(system)
    assert len(attention_kernels(made)) == 6
    assert not any(made.system.tensors[n].shape[-2:] == (1024, 1024) for n in made.offsets)
    matrix = 2 * 4 * 1024 * 1024 * 4
    assert made.arena_bytes < matrix and 4 * matrix < stored


def test_learned_queries_are_read_before_they_are_updated():
    """Queries that are parameters stay as they are until every kernel has read them."""
    project = project_of_text(learned(8), "q.nn", None, [])
    system, _ = training_step(planned_setup(project, Search(None, None, offline=True)))
    made = gpu_plan(system, verified=True)
    order = list(made.kernels)
    readers = [n for n, k in enumerate(order) if any("q" in e.sources for e in k.equations)]
    (writer,) = (n for n, k in enumerate(order) if "q'" in k.stored)
    assert made.offsets["q'"] == made.offsets["q"] and max(readers) <= writer
    assert len(attention_kernels(made)) == 2  # x needs no gradient


def test_the_cpu_stores_matrices_of_scores():
    system, _ = prepared(CASES[0])
    assert not attention_kernels(plan(system))
    assert np.prod(system.tensors["attention1_attend1_softmax1_y"].shape) >= LARGE
