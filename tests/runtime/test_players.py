"""Runs with several losses: any step may be the last before an interruption, a value that is not
finite is blamed on its loss, and what is measured, kept and printed are all losses."""

from __future__ import annotations

import json

import numpy as np
import pytest

import nnc
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime.assignments import Assignment
from nnc.runtime.data import Dataset, Field, Schema, Split
from nnc.runtime.device import DEVICES
from nnc.runtime.inspect.verification import verify_project
from nnc.runtime.project import project_of_text, setup_of
from nnc.runtime.training.executor import Executor
from nnc.runtime.training.interrupt import never
from nnc.runtime.training.job import Job, prepare
from nnc.runtime.training.loop import INTERRUPTED, train
from nnc.runtime.training.progress import Bar, Silent
from nnc.runtime.training.progress_text import Plan, record_line
from nnc.runtime.training.run_folder import create_run
from nnc.runtime.training.snapshot import read_snapshot

GAN = """
model Gan(x: f32[B, 2]) -> fake: f32[B, 2], real_score: f32[B, 1], fake_score: f32[B, 1] {
    critic = Dense(1)
    generator = Dense(2)
    z[b < B, k < 3] = normal()
    fake = generator(z)
    real_score = critic(x)
    fake_score = critic(fake)
}

train Gan {
    loss critic for critic.*       = mean((real_score - 1)^2) + mean(fake_score^2)
    loss generator for generator.* = mean((fake_score - 1)^2)
    metric gap = mean(real_score) - mean(fake_score)
    turns      = [2 * critic, generator]
    optimizer  = adam(lr = cosine(t, 0.1, steps))
    batch      = 8
    epochs     = 3
    seed       = 3
}
"""
STEPS = 5  # of an epoch, the last of 4 examples: three epochs are five cycles
ROWS = np.random.default_rng(0).normal(size=(36, 2)).astype(np.float32)


def made(text: str = GAN, rows: np.ndarray = ROWS, device: str = "cpu", **sets: str) -> Job:
    dataset = Dataset("rows", Schema((Field("x", "f32", (2,)),), None), Split({"x": rows}))
    assignments = [Assignment(key, value) for key, value in sets.items()]
    return prepare(project_of_text(text, "gan.nn", None, assignments), dataset, DEVICES[device](1))


def trained(*args, **sets: str) -> Job:
    job = made(*args, **sets)
    train(job, Silent(), never)
    return job


@pytest.fixture(scope="module")
def whole() -> Job:
    return trained()


def same_bits(a, b) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a)


def test_all_losses_are_measured(whole: Job) -> None:
    assert [list(r.values) for r in whole.records] == [["critic", "generator", "gap"]] * 3
    assert whole.records[-1].step == 3 * STEPS
    line = record_line(whole.records[-1], whole.plan)
    assert "critic 0." in line and "generator 0." in line and "loss" not in line


def test_every_step_trains_the_parameters_whose_turn_it_is() -> None:
    job, before = made(), {}
    moved = []

    class Watch(Silent):
        def step(self, *_) -> None:
            now = {n: a.copy() for n, a in job.executor.values.items()}
            if before:
                moved.append(
                    {n.partition("_")[0] for n in now if not np.array_equal(now[n], before[n])}
                )
            before.update(now)

    train(job, Watch(), never)
    # from the second step on: the cycle goes on over the end of an epoch
    assert moved == [{"critic"}, {"generator"}, {"critic"}] * 4 + [{"critic"}, {"generator"}]


@pytest.mark.parametrize("stop", [1, 2, 4, 8])
def test_going_on_after_any_step_gives_the_same_bits(tmp_path, whole: Job, stop: int) -> None:
    job = made()
    job.folder = create_run(tmp_path / "run", "gan", "", {})
    assert train(job, Silent(), lambda: job.position.step == stop) == INTERRUPTED
    later = made()
    later.resume(job.folder)
    assert later.position.step == stop
    train(later, Silent(), never)
    assert same_bits(later.executor.values, whole.executor.values)
    assert [r.values for r in later.records] == [r.values for r in whole.records]


def test_the_reference_takes_the_same_steps(whole: Job) -> None:
    slow = trained(device="reference")
    for name, value in slow.executor.values.items():
        np.testing.assert_allclose(whole.executor.values[name], value, rtol=2e-4, atol=2e-6)


def test_last_or_best_weights(whole: Job) -> None:
    assert whole.settings.keep == "last" and same_bits(whole.best, whole.executor.weights())
    best = trained(monitor="gap")
    gaps = [r.values["gap"] for r in best.records]
    assert best.position.best_epoch == 1 + int(np.argmax(gaps))
    least = trained(monitor="generator")
    found = [r.values["generator"] for r in least.records]
    assert least.position.best_epoch == 1 + int(np.argmin(found))


def test_until_and_patience() -> None:
    text = GAN.replace("epochs     = 3", "epochs = 3; until generator < 1e9 and gap > -1e9")
    assert len(trained(text).records) == 1
    assert len(trained(monitor="-gap", patience="1", epochs="9").records) < 9


BAD = """
model M(x: f32[B, 2]) -> y: f32[B, 2], z: f32[B, 2] {
    param a: [2] = 1
    param c: [2] = 1
    y = x * a
    z = x * c
}

train M {
    loss first for a  = mean(y^2)
    loss second for c = mean(%s)
    turns     = [2 * first, second]
    optimizer = sgd(lr = 0.01)
    batch     = 4
    steps     = 6
    shuffle   = false
}
"""


@pytest.mark.parametrize(
    ("expression", "common", "other", "step", "message"),
    [
        ("log(z)", 1, 0, 2, "the loss `second` became -inf in step 2"),
        # the loss is finite, and its gradient infinite: seen when it is its turn
        ("sqrt(c - x)", 0, 1, 3, "the gradient of `c[0]` became inf in step 3"),
    ],
)
def test_what_is_not_finite_is_of_a_loss(
    tmp_path, expression, common, other, step, message
) -> None:
    rows = np.full((24, 2), common, np.float32)
    rows[[5, 9], 0] = other
    job = made(BAD % expression, rows)
    job.folder = create_run(tmp_path / "run", "m", "", {})
    with pytest.raises(UserError) as caught:
        train(job, Silent(), never)
    (found,) = caught.value.diagnostics
    assert found.code == "E0701"
    assert found.message.startswith(message)
    assert read_snapshot(job.folder.path).step == step
    good = made(BAD % expression, rows, steps=str(step - 1))
    train(good, Silent(), never)
    assert same_bits(job.executor.values, good.executor.values)


def test_verify_compares_the_gradients_of_each_loss() -> None:
    project = project_of_text(GAN)
    found = verify_project(project, setup_of(project, None, len(ROWS)), threads=(1,), samples=1)
    assert not found.mistakes
    compared = {slope.tensor for slope in found.slopes}
    assert {"critic_w", "critic_b", "generator_w", "generator_b"} <= compared


def test_from_python(tmp_path) -> None:
    path = tmp_path / "gan.nn"
    path.write_text(GAN)
    model = nnc.load(path)
    history = model.fit(ROWS)
    assert len(history) == 3 and {"critic", "generator", "gap"} <= history[0].keys()
    assert model.evaluate(ROWS).keys() == {"critic", "generator", "gap"}
    assert model.predict(ROWS)["fake"].shape == ROWS.shape


def test_the_bar_shows_all_losses() -> None:
    bar = Bar(Plan(3, None, 5, ("critic", "generator")))
    texts = []

    class Shown:
        def show(self, before, done, total, after) -> None:
            texts.append(([*before], done, total))

    bar._shown = Shown()
    bar.step(2, 6, (0.5, -0.25))
    assert texts == [(["epoch 2/3", "critic 0.5000", "generator -0.2500"], 6, 15)]


def test_values_are_in_one_place() -> None:
    """Whatever program ran last, the values are the current ones of all, optimizers included."""
    job = made()
    executor: Executor = job.executor
    names = {*executor.values}
    for step in (1, 2, 3):
        executor.training(8, job.settings.turn(step))
        assert {*executor.values} == names
    assert json.dumps(sorted(names)) and "generator_w_m" in names and "critic_w_m" in names
