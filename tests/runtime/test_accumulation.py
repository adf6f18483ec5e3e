"""Runs with `accumulate` and `average`: the numbers of one large batch, the last group of an epoch,
interruptions, values that are not finite, and the weights that are evaluated and saved."""

from __future__ import annotations

import numpy as np
import pytest

import nnc
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime.assignments import Assignment
from nnc.runtime.data import Dataset, Field, Schema, Split
from nnc.runtime.device import DEVICES
from nnc.runtime.project import project_of_text
from nnc.runtime.training.atomic_files import load_arrays
from nnc.runtime.training.interrupt import never
from nnc.runtime.training.job import Job, prepare
from nnc.runtime.training.loop import INTERRUPTED, train
from nnc.runtime.training.progress import Silent
from nnc.runtime.training.run_folder import create_run
from nnc.runtime.training.snapshot import read_snapshot

NET = """
model M(x: f32[B, 3], k: i32[B]) -> y: f32[B, 2] {
    param table: [7] = 1
    h = x |> Dense(4) |> tanh |> Dense(2)
    y[b, j] = h[b, j] * table[k[b]]
}

train M {
    loss       = mean(y^2)
    metric size = mean(abs(y))
    optimizer  = adam(lr = cosine(t, 0.1, steps))
    clip       = clip_norm(0.5)
    batch      = 8
    accumulate = 3
    epochs     = 2
    seed       = 3
}
"""
RANDOM = np.random.default_rng(0)
ROWS = {
    "x": RANDOM.normal(size=(60, 3)).astype(np.float32),
    "k": RANDOM.integers(0, 7, 60).astype(np.int32),
}
STEPS = 3  # of an epoch: 24, 24 and 12 examples, the last in batches of 8 and 4


def made(text: str = NET, rows: dict = ROWS, device: str = "cpu", **sets: str) -> Job:
    fields = (Field("x", "f32", (3,)), Field("k", "i32", ()))
    dataset = Dataset("rows", Schema(fields, None), Split(rows))
    assignments = [Assignment(key, value) for key, value in sets.items()]
    return prepare(project_of_text(text, "m.nn", None, assignments), dataset, DEVICES[device](1))


def trained(*args, **sets: str) -> Job:
    job = made(*args, **sets)
    train(job, Silent(), never)
    return job


@pytest.fixture(scope="module")
def whole() -> Job:
    return trained()


def same_bits(a, b) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a)


# --- accumulate -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_epoch_is_that_of_large_batches() -> None:
    """In double precision: parameters, optimizer, schedule, measures; the incomplete last group."""
    small = trained(float="f64")
    large = trained(float="f64", batch="24", accumulate="1")
    assert small.position.step == large.position.step == 2 * STEPS
    for name, value in large.executor.values.items():
        np.testing.assert_allclose(small.executor.values[name], value, rtol=1e-12, atol=1e-13)
    for one, other in zip(small.records, large.records, strict=True):
        assert dict(one.values) == pytest.approx(dict(other.values), rel=1e-12)


def test_steps_are_those_of_the_optimizer(whole: Job) -> None:
    assert [r.step for r in whole.records] == [3, 6]
    assert whole.executor.setup.steps == 6
    few = trained(steps="4")
    assert [r.step for r in few.records] == [3, 4]
    losses = []

    class Watch(Silent):
        def step(self, epoch, step, losses_) -> None:
            losses.append((epoch, step, len(losses_)))

    train(made(), Watch(), never)
    assert losses == [((n + 2) // 3, n, 1) for n in range(1, 7)]


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_going_on_after_any_step_gives_the_same_bits(tmp_path, whole: Job, stop: int) -> None:
    job = made()
    job.folder = create_run(tmp_path / "run", "m", "", {})
    assert train(job, Silent(), lambda: job.position.step == stop) == INTERRUPTED
    later = made()
    later.resume(job.folder)
    train(later, Silent(), never)
    assert same_bits(later.executor.values, whole.executor.values)
    assert [r.values for r in later.records] == [r.values for r in whole.records]


def test_a_value_that_is_not_finite_in_any_batch_of_a_step(tmp_path) -> None:
    """Step 2 has the rows 24 to 47; the bad one is in its second batch."""
    rows = {**ROWS, "x": ROWS["x"].copy()}
    rows["x"][35, 1] = np.inf
    job = made(rows=rows, shuffle="false")
    job.folder = create_run(tmp_path / "run", "m", "", {})
    with pytest.raises(UserError) as caught:
        train(job, Silent(), never)
    (found,) = caught.value.diagnostics
    assert found.code == "E0701" and "in step 2 (epoch 1)" in found.message
    snapshot = read_snapshot(job.folder.path)
    assert (snapshot.step, snapshot.left, snapshot.rows) == (2, 1, tuple(range(32, 40)))
    good = trained(rows=rows, shuffle="false", steps="1")
    assert same_bits(job.executor.values, good.executor.values)
    assert (job.position.step, job.position.done) == (1, 24)
    # the evaluator has taken that batch again, from the gradients gathered before it
    assert found.label.startswith("`x[3, 1]` was inf")
    assert snapshot.values["examples_gathered"] == 8


def test_an_index_outside_in_any_batch_of_a_step() -> None:
    text = NET.replace("table[k[b]]", "table[k[b] + i32(x[b, 0] > 90) * 9]")
    rows = {**ROWS, "x": ROWS["x"].copy()}
    rows["x"][41, 0] = 99
    job = made(text, rows, shuffle="false")
    with pytest.raises(UserError) as caught:
        train(job, Silent(), never)
    (found,) = caught.value.diagnostics
    assert found.code == "E0730" and "in step 2" in found.message
    assert "example 41" in found.label
    good = trained(text, rows, shuffle="false", steps="1")
    assert same_bits(job.executor.values, good.executor.values)


def test_wrong_numbers_of_batches() -> None:
    for value in ("0", "2.5", "-1", "true", "40000"):
        with pytest.raises(UserError) as caught:
            made(accumulate=value)
        assert caught.value.diagnostics[0].code == "E0703"


# --- average --------------------------------------------------------------------------------------

AVERAGED = {"average": "ema(0.5)", "accumulate": "1"}


def test_evaluation_prediction_and_the_run_use_the_average(tmp_path) -> None:
    job = made(**AVERAGED, validation="0.2")
    job.folder = create_run(tmp_path / "run", "m", "", {})
    train(job, Silent(), never)
    values, weights = job.executor.values, job.executor.weights()
    assert np.array_equal(weights["table"], values["table_average"])
    assert not np.array_equal(weights["table"], values["table"])
    saved, _ = load_arrays(job.folder.weights_file)
    assert same_bits(saved, job.best) and saved.keys() == weights.keys()
    # the same weights as those of a program without an average measure the same
    plain = made(accumulate="1", validation="0.2")
    plain.executor.restore(weights)
    for split in ("validation", "train"):
        with job.executor.evaluation(8) as one, plain.executor.evaluation(8) as other:
            rows = job.parts[split].rows[:8]
            found = one.run(job.parts[split], rows, 1)
            assert found == other.run(plain.parts[split], rows, 1)


def test_averages_go_on_and_begin_anew(tmp_path) -> None:
    whole = trained(**AVERAGED)
    job = made(**AVERAGED)
    job.folder = create_run(tmp_path / "run", "m", "", {})
    assert train(job, Silent(), lambda: job.position.step == 9) == INTERRUPTED
    later = made(**AVERAGED)
    later.resume(job.folder)
    # the weights of the first epoch are made again from its checkpoint
    assert same_bits(later.best, load_arrays(job.folder.weights_file)[0])
    job.folder.weights_file.unlink()
    again = made(**AVERAGED)
    again.resume(job.folder)
    assert same_bits(later.best, again.best)
    train(again, Silent(), never)
    assert same_bits(again.executor.values, whole.executor.values)
    # weights alone: the averages are those
    weights = whole.executor.weights()
    fresh = made(**AVERAGED).executor
    fresh.restore(weights)
    assert same_bits(fresh.weights(), weights)
    assert np.array_equal(fresh.values["table_average"], weights["table"])


def test_before_the_first_step_the_average_is_the_parameter() -> None:
    job = made(**AVERAGED)
    values = job.executor.values
    assert same_bits(job.executor.weights(), {n: values[n] for n in job.executor.weight_names})


def test_from_python(tmp_path) -> None:
    path = tmp_path / "m.nn"
    path.write_text(NET.replace("epochs", "average    = ema(0.9)\n    epochs"))
    model = nnc.load(path)
    for _ in range(2):  # the second time from the weights of the first
        history = model.fit(ROWS["x"], ROWS["k"])
    assert len(history) == 2
    assert model.predict(ROWS["x"], ROWS["k"]).shape == (60, 2)
