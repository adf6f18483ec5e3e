"""What follows from parameters alone: computed once, and anew when they have changed."""

from __future__ import annotations

import numpy as np
import pytest
from small_programs import prepared
from support import system, values

from nnc.compiler.ir.invariants import invariants
from nnc.compiler.options import Options
from nnc.compiler.passes.kernels.printer import plan_text
from nnc.compiler.pipeline import plan
from nnc.compiler.programs import training_step
from nnc.compiler.reference.evaluator import evaluate
from nnc.runtime.device.cpu import host
from nnc.runtime.device.cpu.program import CpuProgram
from nnc.runtime.training.interrupt import never
from nnc.runtime.training.job import Job
from nnc.runtime.training.loop import measure, train
from nnc.runtime.training.progress import Silent

# the table of products needs the weights alone, the total of its rows is a second step of it
TABLE = """model M(n: i32[24], x: f32[24, 8]) -> y: f32[24, 40], z: f32[24, 40] {
    param E: [9, 16] = 1
    param W: [16, 40] = 1
    param g: [40] = 1
    t[v, j] = sum(i) E[v, i]*W[i, j]
    c[j] = sum(v) t[v, j]*t[v, j]
    s[j, q < 8] = sum(v < 9) t[v, j]*(q + 1)
    y[b, j] = t[n[b], j] + x[b, 0]*c[j]
    z[b, j] = sum(q < 8) x[b, q]*s[j, q]*g[j]
}"""


def test_kernels_of_parameters_come_first() -> None:
    found = plan(system(TABLE, float_type="f32"), host.target())
    once = [eq.target for item in found.items[: found.prologue] for eq in item.equations]
    always = [eq.target for item in found.items[found.prologue :] for eq in item.equations]
    assert {"t", "c"} <= {*once} and {"y", "z"} <= {*always}
    assert not {*once} & {*always}
    same = invariants(found.system)
    assert {*once} <= same and not same & {*always}
    # what is read at every run has memory that nothing else uses
    kept = {s for name in always for s in found.system.definition[name].sources} & {*once}
    places = {n: (o, o + found.system.tensors[n].bytes) for n, o in found.offsets.items()}
    for name in kept:
        begin, end = places[name]
        others = [places[n] for n in places if n != name and n not in found.views]
        assert all(b >= end or e <= begin for b, e in others), name


def test_a_prologue_is_printed_as_one() -> None:
    text = plan_text(plan(system(TABLE, float_type="f32"), host.target()))
    head, body = text.split("\nprologue    # not again")
    assert "kernel" not in head.split("\n", 1)[1]
    assert "\n    kernel t" in body and "\nkernel y" in body


def test_without_the_pass_everything_is_computed_at_every_run() -> None:
    options = Options(without=frozenset({"prologue"}))
    assert plan(system(TABLE), host.target(), options).prologue == 0


def test_a_training_step_has_no_prologue() -> None:
    job = prepared()
    step = training_step(job.executor.setup)[0]
    assert not invariants(step) and plan(step, host.target()).prologue == 0


def test_nothing_follows_from_a_state_that_a_run_changes() -> None:
    text = """model M(x: f32[3]) -> y: f32[3] {
        param w: [3] = 1
        state s: [3] = 0
        a[i] = sum(j < 3) w[i]*w[j]
        b[i] = sum(j < 3) w[i]*s[j]
        y[i] = x[i]*a[i] + b[i]
        s' = y
    }"""
    assert invariants(system(text)) == {"a"}


@pytest.mark.parametrize("threads", [1, 2])
def test_runs_of_the_same_values_leave_the_prologue_out(threads: int) -> None:
    model = system(TABLE, float_type="f32")
    program = CpuProgram(model, threads)

    def given(seed: int, *names: str) -> dict[str, np.ndarray]:
        found = values(model, seed, integers=9)
        return {n: a for n, a in found.items() if n in names}

    def fill(arrays: dict[str, np.ndarray]) -> None:
        for name, array in arrays.items():
            program.arrays[name][...] = array

    def check(arrays: dict[str, np.ndarray]) -> None:
        expected = evaluate(model, arrays)
        for name in model.outputs:
            near = 1e-5 * np.abs(expected[name]).max()
            np.testing.assert_allclose(program.arrays[name], expected[name], atol=near)

    first = given(0, "E", "W", "g")
    fill(first)
    program.run()
    for seed in (1, 2, 3):
        data = given(seed, "n", "x")
        fill(data)
        program.run_again()
        check({**first, **data})
        again = {name: program.arrays[name].copy() for name in model.outputs}
        program.run()  # the whole of it has the same bits
        assert all(np.array_equal(again[n], program.arrays[n]) for n in again)
    second = given(9, "E", "W", "g")
    fill(second)
    program.run_again()  # the table is still that of the first values
    with pytest.raises(AssertionError):
        check({**second, **data})
    program.run()
    check({**second, **data})


# --- programs of a model --------------------------------------------------------------------------

NORMALISED = """
model Small(image: f32[B, 8, 8, 1]) -> logits: f32[B, 10] {
    h = image |> Conv(4, 3, pad = 1) |> BatchNorm |> relu |> Flatten |> Dense(12) |> BatchNorm
    logits = relu(h) |> Dense(10)
}

train Small {
    data      = digits()
    loss      = cross_entropy(logits, label)
    metric      accuracy = accuracy(logits, label)
    optimizer = adam(lr = 1e-2)
    batch     = 100
    epochs    = 1
}
"""


@pytest.fixture(scope="module")
def jobs() -> tuple[Job, Job]:
    """One to change, and one that is asked anew each time."""
    return prepared(NORMALISED), prepared(NORMALISED, device="reference")


def predicted(job: Job, images: np.ndarray) -> np.ndarray:
    with job.executor.prediction(len(images)) as program:
        for name, place in program.fields:
            assert name == "image"
            place[...] = images
        program.compute(np.arange(len(images)), 1)
        return program.results["logits"].copy()


def agree(jobs: tuple[Job, Job]) -> None:
    """What the first job predicts and measures is what the evaluator says of its values."""
    ours, evaluator = jobs
    images = np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype(np.float32)
    evaluator.executor.restore(ours.executor.weights())
    for _ in range(2):
        expected = predicted(evaluator, images)
        np.testing.assert_allclose(predicted(ours, images), expected, rtol=2e-4, atol=2e-5)
    part = ours.parts["test"]
    found, expected = (measure(job.executor, part, 1) for job in (ours, evaluator))
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name


@pytest.mark.slow
def test_new_values_are_seen(jobs) -> None:
    job, _ = jobs
    agree(jobs)
    rng = np.random.default_rng(1)

    def other(name: str, array: np.ndarray) -> np.ndarray:
        return array * rng.uniform(0.5, 1.5, array.shape).astype(array.dtype)

    # restored, as by `load`
    job.executor.restore({n: other(n, a) for n, a in job.executor.weights().items()})
    agree(jobs)
    # written by hand
    for name, array in job.executor.values.items():
        array[...] = other(name, array)
    agree(jobs)
    # by a step of training, and by a second one of the same program
    for number in (1, 2):
        program = job.executor.training(100)
        program.run(job.training, np.arange(100), number)
        agree(jobs)
        program.run(job.training, np.arange(100), number)
        agree(jobs)


def test_validation_measures_the_current_values() -> None:
    job = prepared(NORMALISED)
    train(job, Silent(), never)
    last = job.records[-1].values
    fresh = prepared(NORMALISED)
    fresh.executor.restore(job.executor.weights())
    for name, value in measure(fresh.executor, fresh.parts["test"], 1).items():
        assert last[f"test_{name}"] == value
