"""Recurrences as one launch each: values, gradients and training beside the evaluator and the CPU,
in every way of dividing them among blocks; what is launched; and that mistakes are caught."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gpu_simulator import SimulatedProgram, SimulatorError, available, library
from gradients.test_recurrences import CASES, model
from support import (
    NO_ATTENTION,
    cuda_module,
    gpu_plan,
    gradients,
    mostly_slow,
    one_in,
    system,
    values,
)

from nnc.compiler.codegen.cuda.module import Module
from nnc.compiler.passes.gpu import persistent_kernel as persistent
from nnc.compiler.passes.gpu.grid_ir import TreeReduction
from nnc.compiler.passes.gpu.launch_ir import Launch, unrolled_launches
from nnc.compiler.reference.evaluator import evaluate
from nnc.compiler.targets import GpuTarget
from nnc.runtime.device.cpu.program import CpuProgram

from .gates import check_usage, nvrtc_or_skip
from .test_cuda_training import agree
from .whole_steps import run_steps, step_of_text

needs_gpp = pytest.mark.skipif(not available(), reason="needs g++")

CELLS = {
    "RNN": "RNN(40)",
    "LSTM": "LSTM(33)",
    "GRU": "GRU(40)",
    "both ways": "BiLSTM(20)",
    "one upon the other": "StackedGRU(20, 2)",
    "two steps back": "Twice(36)",
    "two sums at once": "Gated(36)",
    "a look at everything": "Looking(33)",
}

TEXT = """
layer Twice(units)(x: [..., T, n]) -> h: [..., T, units] {
    param W: [n, units]     ~ glorot_uniform
    param U: [units, units] ~ orthogonal
    param V: [units, units] ~ orthogonal
    a[..., t, j] = sum(i) x[..., t, i] * W[i, j]
    h[..., t, j] = tanh(a[..., t, j] + sum(k) (h[..., t - 1, k] else 0) * U[k, j]
                        + 0.5 * sum(k) (h[..., t - 2, k] else 0) * V[k, j])
}
layer Gated(units)(x: [..., T, n]) -> h: [..., T, units] {
    param W: [n, units]     ~ glorot_uniform
    param U: [units, units] ~ orthogonal
    param V: [units, units] ~ orthogonal
    param O: [units, units] ~ orthogonal
    a[..., t, j] = sum(i) x[..., t, i] * W[i, j]
    c[..., t < T, j] = tanh(a[..., t, j] + sum(k) (h[..., t - 1, k] else 0) * U[k, j])
    g[..., t < T, j] = sigmoid(sum(k) (h[..., t - 1, k] else 0) * V[k, j])
    h[..., t, j] = tanh(sum(k) g[..., t, k] * c[..., t, k] * O[k, j])
}
layer Looking(units)(x: [..., T, n]) -> h: [..., T, units] {
    param K: [n, units]     ~ glorot_uniform
    param C: [n, units]     ~ glorot_uniform
    key[..., s, j] = sum(i) x[..., s, i] * K[i, j]
    fit[..., t < T, s]  = sum(j) (h[..., t - 1, j] else 0) * key[..., s, j]
    top[..., t < T]     = max(s) fit[..., t, s]
    e[..., t < T, s]    = exp(fit[..., t, s] - stop(top[..., t]))
    all[..., t < T]     = sum(s) e[..., t, s]
    seen[..., t < T, i] = sum(s) e[..., t, s] / all[..., t] * x[..., s, i]
    h[..., t < T, j < units] = tanh(key[..., t, j] + sum(i) seen[..., t, i] * C[i, j])
}
model M(token: i32[B, STEPS]) -> logits: f32[B, STEPS, 17] {
    logits = token |> Embedding(17, 12) |> CELL |> Dense(17)
}
train M {
    input target: i32[B, STEPS]
    loss      = cross_entropy(logits, target)
    optimizer = momentum(lr = 0.05)
    batch     = BATCH
    steps     = 20
}
"""


def step(cell: str, steps: int = 9, batch: int = 6):
    text = TEXT.replace("CELL", CELLS.get(cell, cell))
    return step_of_text(text.replace("STEPS", str(steps)).replace("BATCH", str(batch)))


# --- ways of dividing a recurrence ----------------------------------------------------------------


def each_row(count: int, target):
    """A block for every row."""
    yield 1, 1


def one_block(count: int, target):
    """One block for all rows."""
    yield count, 1


def meeting(count: int, target):
    """Three blocks for every two rows, if there are two."""
    yield (1 if count % 2 else 2), 3


def all_meeting(count: int, target):
    """Five blocks for all rows."""
    yield count, 5


WAYS = (each_row, one_block, meeting, all_meeting)


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def way(request, monkeypatch):
    divide(monkeypatch, request.param)
    return request.param


def divide(monkeypatch, way) -> None:
    """All recurrences are one launch, in this way."""
    monkeypatch.setattr(persistent, "_shapes", way)
    monkeypatch.setattr(persistent, "_launches_time", lambda *_: float("inf"))


# --- values ---------------------------------------------------------------------------------------


@needs_gpp
@pytest.mark.parametrize("name", one_in(3, CASES))
def test_every_form_of_recurrence_and_its_gradients(name: str, way):
    """In an ascending, a descending and a random order of threads and blocks."""
    plain = model(name)
    whole, _ = gradients(plain, "loss", [t.name for t in plain.of_kind("input")])
    program = SimulatedProgram(gpu_plan(whole, without=NO_ATTENTION), (0, 1, 2))
    assert all(isinstance(item, Launch) for item in program.module.launches)
    given = values(whole)
    for key, array in given.items():
        program.arrays[key][...] = array
    program.run()
    expected = evaluate(whole, given)
    for key in whole.outputs:
        np.testing.assert_allclose(program.arrays[key], expected[key], 1e-9, err_msg=key)


OTHERS = {
    "the best path": (
        "x: f32[3, 5, 40], w: f32[40, 40]",
        "y[b, t, j] = x[b, t, j] + max(k) ((y[b, t-1, k] else 0) + w[k, j])"),
    "the best path, weights the other way": (
        "x: f32[3, 5, 40], w: f32[40, 40]",
        "y[b, t, j] = x[b, t, j] + max(k) ((y[b, t-1, k] else 0) + w[j, k])"),
    "where the largest is": (
        "x: f32[2, 6, 70]",
        "y[b, t, j] = x[b, t, j] - argmax(k) (y[b, t-1, k] else 0) * x[b, 0, k]"),
    "whole numbers and flags": (
        "x: f32[4, 9]",
        "n[b, t] = (n[b, t-1] else 0) + (if s[b, t] then 2 else 1)\n"
        "s[b, t < 9] = (s[b, t-1] else false) or x[b, t] > 0.9\n"
        "y[b, t] = f32(n[b, t])"),
    "a step that is not a row": (
        "x: f32[5, 200]",
        "y[t, i] = x[t, i] + 0.5*(y[t-1, i-1] else 1) + 0.25*(y[t-1, i+1] else 0)"),
}  # fmt: skip


@needs_gpp
@pytest.mark.parametrize("name", one_in(2, OTHERS))
def test_other_reductions_and_types(name: str, way):
    inputs, equations = OTHERS[name]
    whole = system(f"model M({inputs}) -> y {{\n{equations}\n}}")
    program = SimulatedProgram(gpu_plan(whole, without=NO_ATTENTION), (0, 1, 2))
    assert program.module.loops
    given = values(whole)
    for key, array in given.items():
        program.arrays[key][...] = array
    program.run()
    np.testing.assert_allclose(program.arrays["y"], evaluate(whole, given)["y"], 1e-5)


@needs_gpp
@pytest.mark.parametrize("cell", mostly_slow(CELLS, ["GRU"]))
def test_steps_of_training_are_those_of_the_cpu(cell: str, way):
    system, start = step(cell)
    here, there = CpuProgram(system), SimulatedProgram(system, (0, 1))
    losses = [run_steps(p, system, start, 3) for p in (here, there)]
    assert losses[0][-1] != losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    for tensor in system.of_kind("param"):
        agree(there.arrays[tensor.name], here.arrays[tensor.name], tensor.name)


@pytest.mark.slow
def test_the_cells_reduce_in_every_way(monkeypatch):
    """By warps and by lanes, for one row and for several."""
    found = set()
    for way in WAYS:
        divide(monkeypatch, way)
        for cell in CELLS:
            loops = cuda_module(gpu_plan(step(cell)[0], without=NO_ATTENTION)).loops
            for kernel in (s for loop in loops.values() for s in loop.steps.kernels):
                along = (
                    kernel.grid.how.along if isinstance(kernel.grid.how, TreeReduction) else "each"
                )
                found.add((along, kernel.rows_at_once > 1))
    assert found == {
        ("reduction", True),
        ("reduction", False),
        ("outputs", True),
        ("outputs", False),
        ("each", False),
    }


def made_of(cell: str) -> Module:
    return cuda_module(gpu_plan(step(cell)[0], without=NO_ATTENTION))


@pytest.mark.parametrize("cell", CELLS)
def test_a_block_reads_its_own_steps_from_shared_memory(cell: str, monkeypatch):
    divide(monkeypatch, each_row)
    for loop in made_of(cell).loops.values():
        grids = [kernel.grid for kernel in loop.steps.kernels]
        read = {grid.accesses[r].tensor for grid in grids for r in grid.reads}
        here = {kept.name for kept in loop.shared_tensors}
        assert here and here <= read
        assert not read & ({t for grid in grids for t in grid.stored} - here)
    divide(monkeypatch, meeting)
    assert not any(loop.shared_tensors for loop in made_of(cell).loops.values())


def test_as_many_steps_are_kept_as_are_read(monkeypatch):
    divide(monkeypatch, one_block)
    forward = next(iter(made_of("two steps back").loops.values()))
    (kept,) = [k for k in forward.shared_tensors if k.tensor.endswith("_h")]
    assert kept.count == 3 * 6 * 36
    forward = next(iter(made_of("LSTM").loops.values()))
    assert [k.count for k in forward.shared_tensors] == [2 * 6 * 33] * 2


def test_blocks_that_meet_keep_their_weights(monkeypatch):
    """All of them; none where there is no room."""
    divide(monkeypatch, all_meeting)
    _, made = launches("LSTM(64)", 8, 8)
    for loop in made.loops.values():
        (kernel,) = loop.steps.kernels
        assert {r.tensor for r in kernel.weights} == {"lstm1_U"}
        assert kernel.weight_count * loop.blocks >= 64 * 4 * 64
    made = cuda_module(
        gpu_plan(step("LSTM(160)", 8, 8)[0], without=NO_ATTENTION), GpuTarget(shared=64 << 10)
    )
    assert not any(s.weights for loop in made.loops.values() for s in loop.steps.kernels)


def test_what_is_too_large_for_shared_memory_stays_in_memory(monkeypatch):
    divide(monkeypatch, one_block)
    _, made = launches("LSTM(256)", 8)
    for loop in made.loops.values():
        assert loop.shared_bytes <= 48 << 10 and not loop.shared_tensors


# --- launches -------------------------------------------------------------------------------------


def launches(cell: str, steps: int, batch: int = 32):
    made = cuda_module(gpu_plan(step(cell, steps, batch)[0], without=NO_ATTENTION))
    return list(unrolled_launches(made.launches)), made


@pytest.mark.parametrize(
    "cell", mostly_slow(["RNN(256)", "LSTM(256)", "GRU(96)", "BiLSTM(64)"], ["RNN(256)"])
)
def test_the_number_of_launches_and_the_source_do_not_grow_with_the_steps(cell: str):
    """But a longer sum over all steps may be divided, and is then joined by one launch more."""
    short, long = (launches(cell, steps) for steps in (16, 64))
    assert len(short[0]) < 80 and len(long[0]) <= len(short[0]) + 2
    assert len(long[1].kernels) < 1.1 * len(short[1].kernels)


@pytest.mark.parametrize("cell", ["RNN(256)", "LSTM(256)", "GRU(96)"])
def test_a_step_waits_once_there_and_back(cell: str):
    _, made = launches(cell, 16)
    for loop in made.loops.values():
        assert [kernel.barrier for kernel in loop.steps.kernels] == [True]


def text_of(made: Module, function: str) -> str:
    start = made.kernels.index(f" {function}(")
    return made.kernels[start : made.kernels.index("\n}", start)]


def test_equal_recurrences_share_a_function():
    _, made = launches("StackedRNN(24, 5)", 12)
    names = [item.function for item in made.launches if item.function[0] == "s"]
    assert len(names) == 10 and len(made.loops) == len(set(names)) < 6


def test_recurrences_that_need_nothing_of_each_other_are_one_launch():
    """Both directions, there and back, as long as all blocks that meet run at once."""
    found, made = launches("BiGRU(96)", 16)
    assert len(made.loops) == 4
    calls = {
        item: [s for s in made.loops if f"{s}(BLOCK" in text_of(made, item.function)]
        for item, _ in found
    }
    assert [item.blocks for item, called in calls.items() if len(called) == 2] == [64, 64]
    _, made = launches("BiLSTM(256)", 16)
    meeting = [item for item in made.launches if item.function[0] == "s"]
    assert len(meeting) == 4 and all(item.blocks <= 132 for item in meeting)


@pytest.mark.slow
def test_a_large_step_is_launches_of_its_own():
    """Where a launch is little beside the work that is done in it."""
    _, made = launches("RNN(1024)", 4, 256)
    assert not made.loops
    _, made = launches("LSTM(64)", 4, 128)
    loop = next(iter(made.loops.values()))
    assert "estimated " in str(loop) and "rows (b) are independent" in str(loop)


@pytest.mark.slow
def test_blocks_that_wait_for_each_other_all_run_at_once():
    for cell in ("RNN(256)", "LSTM(256)", "GRU(300)"):
        for batch in (8, 31, 96):
            _, made = launches(cell, 16, batch)
            meeting = [s for s in made.loops.values() if s.group_blocks > 1]
            assert meeting and all(s.blocks <= 132 for s in meeting)


# --- what a GPU would not forgive is caught -------------------------------------------------------


def spoilt(system, old: str, number: int, new: str = "") -> SimulatedProgram:
    """The program with the `number`-th of these in its first recurrence exchanged."""
    program = SimulatedProgram(system, (0, 1, 2))
    made = program.module
    name = next(iter(made.loops))
    text = text_of(made, name)
    parts = text.split(old)
    assert number < len(parts) - 1
    fresh = old.join(parts[: number + 1]) + new + old.join(parts[number + 1 :])
    source = made.kernels.replace(text, fresh, 1)
    program._library = library(replace(made, kernels=source))
    return program


@needs_gpp
@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("LSTM", 0),
        *(pytest.param("LSTM", n, marks=pytest.mark.slow) for n in range(1, 3)),
        *(pytest.param("two sums at once", n, marks=pytest.mark.slow) for n in range(6)),
    ],
)
def test_a_missing_barrier_in_the_loop_is_caught(cell: str, number: int, monkeypatch):
    """Between steps, between the products of a step, and between the lanes that sum one up."""
    divide(monkeypatch, one_block)
    system, start = step(cell)
    with pytest.raises(SimulatorError, match="differ"):
        run_steps(spoilt(system, "BARRIER();", number), system, start, 1)


@needs_gpp
@pytest.mark.parametrize("name", mostly_slow(["lstm", "gru"], ["gru"]))
def test_a_missing_meeting_is_caught(name: str, monkeypatch):
    divide(monkeypatch, all_meeting)
    system, start = step(f"{name.upper()}(40)")
    with pytest.raises(SimulatorError, match="differ"):
        run_steps(
            spoilt(system, "GROUP_BARRIER(counter, 5, member == 0);", 0, "BARRIER();"),
            system,
            start,
            1,
        )


@needs_gpp
@pytest.mark.parametrize(
    ("new", "what"),
    [
        (
            "if (member > 0) GROUP_BARRIER(counter, 5, member == 0);",
            "not every block of a group",
        ),
        ("if (THREAD > 0) GROUP_BARRIER(counter, 5, member == 0);", "not every thread reaches"),
        ("GROUP_BARRIER(counter, 5, true);", "not exactly one block of a group"),
    ],
)
def test_a_meeting_that_some_miss_is_caught(new: str, what: str, monkeypatch):
    """On a GPU the others would wait for ever."""
    divide(monkeypatch, all_meeting)
    system, start = step("RNN")
    program = spoilt(system, "GROUP_BARRIER(counter, 5, member == 0);", 0, new)
    with pytest.raises(SimulatorError, match=what):
        run_steps(program, system, start, 1)


# --- NVRTC ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "batch"), [("RNN(256)", 32), ("LSTM(256)", 32), ("GRU(256)", 64), ("BiLSTM(64)", 64)]
)
def test_kernels_compile_without_spills(cell: str, batch: int):
    """At the sizes of which the choice is made for an H100, and where many rows are held."""
    nvrtc_or_skip()
    _, made = launches(cell, 16, batch)
    assert made.loops
    check_usage(made)
