"""A step that makes a value not finite is undone: the weights are those before it, the message
names the line and the first place, and what is needed to look is in the run folder."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
from small_programs import DIGITS, prepared

from nnc.compiler.pipeline import derive
from nnc.compiler.programs import training_step
from nnc.compiler.reference.evaluator import advance
from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime.assignments import Assignment
from nnc.runtime.data import Dataset, Field, Schema, Split
from nnc.runtime.device import DEVICES
from nnc.runtime.project import project_of_text, with_batch
from nnc.runtime.training import atomic_files, values_copy
from nnc.runtime.training import nonfinite_guard as guard
from nnc.runtime.training.interrupt import never
from nnc.runtime.training.job import prepare
from nnc.runtime.training.loop import train
from nnc.runtime.training.progress import Silent
from nnc.runtime.training.run_folder import create_run
from nnc.runtime.training.snapshot import read_snapshot

EDGE = """
model M(x: f32[B, 3]) -> y: f32[B, 3] {
    param w: [3] = 1
    a[b, i] = x[b, i] * w[i]
    y = @EDGE@
}

train M {
    loss      = mean(y) + mean(a^2)
    optimizer = @OPTIMIZER@
    batch     = 4
    steps     = 6
    shuffle   = false
}
"""
LINE = 5  # of the edge


def job_of(text: str, rows: np.ndarray, device: str = "cpu", **sets: str):
    schema = Schema((Field("x", "f32", rows.shape[1:]),), None)
    dataset = Dataset("rows", schema, Split({"x": rows.astype(np.float32)}))
    assignments = [Assignment(key, value) for key, value in sets.items()]
    return prepare(project_of_text(text, "edge.nn", None, assignments), dataset, DEVICES[device](1))


def edge(function: str, optimizer: str = "sgd(lr = 0.01)") -> str:
    return EDGE.replace("@EDGE@", function).replace("@OPTIMIZER@", optimizer)


def stopped(job):
    """The one mistake that training ends with."""
    with pytest.raises(UserError) as caught:
        train(job, Silent(), never)
    (found,) = caught.value.diagnostics
    assert found.code == "E0701"
    return found


def copy_of(job):
    return {name: array.copy() for name, array in job.executor.values.items()}


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("function", "at", "how"),
    [
        ("log(a)", 0.0, "log(0)"),
        ("log(a)", -1.0, "log(-1)"),
        ("log1p(a)", -1.0, "log1p(-1)"),
        ("log1p(a)", -2.0, "log1p(-2)"),
        ("sqrt(a)", -1.0, "sqrt(-1)"),
        ("sqrt(a - 1)", 1.0, ""),  # its slope is infinite
        ("a / a", 0.0, "div(0, 0)"),
        ("1 / a", 0.0, "div(1, 0)"),
        ("a / (a - 3)", 3.0, "div(3, 0)"),
        ("exp(a)", 1000.0, "exp(1000)"),
        ("expm1(a)", 1000.0, "expm1(1000)"),
        ("a ^ 0.3", -1.0, "pow(-1, 0.3)"),
        ("a ^ (-3)", 0.0, ""),
        ("a ^ 30", 100.0, "pow("),
        ("a * a * 1e30", 1e10, "mul("),
        ("exp(log(a - 1))", 1.0, ""),  # the value is finite, its slope is not
        ("sin(1 / a)", 0.0, "div(1, 0)"),
        ("a % (a - 1)", 1.0, "mod(1, 0)"),
    ],
)
def test_the_edge_of_every_function(function, at, how, device, tmp_path):
    rows = np.full((24, 3), 1.5)
    rows[9, 1] = at  # in the third step of four examples
    job = job_of(edge(function, "sgd(lr = 0)"), rows, device)
    job.folder = create_run(tmp_path / "run", "edge", "", {})
    before = copy_of(job)
    found = stopped(job)
    assert "step 3 (epoch 1)" in found.message
    assert found.span.line == LINE and found.span.source.name == "edge.nn"
    assert how in found.label and ("[1, 1]" in found.label or not how)
    assert job.position.step == 2 and job.position.done == 8
    for name, array in job.executor.values.items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("function", ["sqrt(a)", "sqrt(abs(a))", "sqrt(a^2)"])
def test_what_no_weight_changes_has_the_gradient_0(function):
    """Of sqrt(x*w) at x = 0, whatever w is, although the root's slope is infinite there."""
    rows = np.full((24, 3), 1.5)
    rows[9, 1] = 0
    job = job_of(edge(function, "sgd(lr = 0.01)"), rows)
    train(job, Silent(), never)
    assert all(np.isfinite(array).all() for array in job.executor.values.values())
    assert job.position.step == 6


@pytest.mark.parametrize("in_memory", [2**28, 0])
@pytest.mark.parametrize("interval", [1, 2, 3, 500])
def test_the_weights_are_those_before_the_step(interval, in_memory, tmp_path, monkeypatch):
    """Bit by bit those of a run that was never to take the bad step, at whatever distance from the
    last copy, and wherever that is kept; the snapshot has them, and its step is the bad one."""
    monkeypatch.setattr(guard, "INTERVAL", interval)
    monkeypatch.setattr(values_copy, "IN_MEMORY", in_memory)
    rows = np.random.default_rng(0).uniform(1, 2, (24, 3))
    good = job_of(edge("log(a)", "adam()"), rows, steps="5")
    train(good, Silent(), never)
    rows[21] = 0
    job = job_of(edge("log(a)", "adam()"), rows)
    job.folder = create_run(tmp_path / "run", "edge", "", {})
    stopped(job)
    for name, array in good.executor.values.items():
        np.testing.assert_array_equal(array, job.executor.values[name])
    snapshot = read_snapshot(tmp_path / "run")
    assert (snapshot.step, snapshot.epoch, snapshot.rows) == (6, 1, (20, 21, 22, 23))
    system = derive(training_step(with_batch(job.executor.setup, snapshot.batch))[0])
    computed, _ = advance(system, snapshot.arguments(system))
    assert not np.isfinite(computed["loss"])
    assert snapshot.tensor == "loss" and snapshot.index == ()


def test_a_copy_in_a_file_takes_no_memory_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(values_copy, "IN_MEMORY", 0)
    values = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7, np.int32)}
    before = {name: array.copy() for name, array in values.items()}
    copy = values_copy.ValuesCopy(values, tmp_path)
    assert not copy._arrays and not list(tmp_path.iterdir())
    for array in values.values():
        array += 1
    # in another order, as another program may have them
    copy.restore(dict(reversed(values.items())))
    assert all(np.array_equal(before[name], array) for name, array in values.items())


def test_a_disk_without_room_for_the_copy(tmp_path, monkeypatch):
    """It is in memory from the beginning, or a mistake of the disk is told."""
    monkeypatch.setattr(values_copy, "IN_MEMORY", 0)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    values = {"w": np.zeros(3, np.float32)}
    kept = values_copy.ValuesCopy(values, tmp_path)
    monkeypatch.setattr(values_copy.ValuesCopy, "_write", full)
    assert values_copy.ValuesCopy(values, tmp_path)._arrays["w"].shape == (3,)
    with pytest.raises(UserError) as caught:
        kept.take(values)
    assert caught.value.diagnostics[0].code == "E0709"


@pytest.mark.parametrize("interval", [1, 2, 3, 500])
def test_a_bad_gradient_that_the_loss_never_shows(interval, monkeypatch):
    """The loss stays finite: what the guard sees are the values, some steps later."""
    monkeypatch.setattr(guard, "INTERVAL", interval)
    rows = np.full((24, 3), 2)
    rows[9, 2] = 1
    text = edge("stop(a) * 0 + sqrt(a - 1)", "sgd(lr = 0)").replace("mean(a^2)", "0")
    job = job_of(text, rows, steps="6")
    found = stopped(job)
    assert "the gradient of `w[2]` became" in found.message and "step 3" in found.message
    assert found.span.line == LINE and job.position.step == 2


# Optimizers in which a gradient that is not finite leaves no trace by itself.
HIDING = {
    "signs": "p' = p - lr*sign(g)",
    "compared": "p' = p - lr*(if g > 0 then 1 else -1)",
    "chosen": "p' = if abs(g) < 10 then p - lr*g else p",
    "divided": "p' = p - lr/(1 + g^2)",
    "bounded": "p' = p - lr*min(max(g, -1), 1)",
    "nothing": "p' = p + 0*g*lr",
    "replaced": "p' = p - lr*(if is_finite(g) then g else 0)",
    "forgotten": "state last = 0; last' = g; p' = p - lr*sign(last)",
    "remembered": "state m = 0; m' = m + g; p' = p - lr*sign(m)",
    "least": "state least = inf; least' = least + g; p' = p - lr*sign(g)",
    "counted": "state n = 0; n' = if g > 0 then n + 1 else n; p' = p - lr*n'",
    "normed": "p' = if norm < 1000 then p - lr*g else p",
}


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "lion", *HIDING])
@pytest.mark.parametrize("clip", ["", "clip = clip_value(0.1)", "clip = clip_norm(0.1)"])
def test_neither_clipping_nor_a_sign_hides_a_gradient(optimizer, clip):
    rows = np.ones((24, 3))
    rows[9, 2] = 2e-38  # the value is finite there, the slope is not
    text = edge("1e15 * a ^ 0.1", f"{optimizer}(lr = 0)")
    text = text.replace("    batch ", f"    {clip}\n    batch ")
    text += (
        f"\noptimizer {optimizer}(lr) {{ {HIDING[optimizer]} }}\n" if optimizer in HIDING else ""
    )
    found = stopped(job_of(text, rows))
    # a state that is the gradient itself is traced under its own name
    subject = "`w[2]` became" if optimizer == "forgotten" and not clip else "gradient of `w[2]`"
    assert subject in found.message and "step 3" in found.message


def test_finite_values_are_left_alone():
    """Large but finite values, whose sum is not, are no mistake."""
    values = np.full(8, 3e38, np.float32)
    assert guard.first_bad(values) is None
    values[3] = np.inf
    assert guard.first_bad(values) == (3,)
    assert guard.first_bad(np.array(np.nan)) == ()


def test_a_first_value_that_is_not_finite():
    text = edge("a").replace("= 1\n", "~ bad()\n") + "\nfn bad() = exp(1000.0)\n"
    job = job_of(text, np.ones((8, 3)))
    found = stopped(job)
    assert "`w` begins with inf at [0]" in found.message and found.span.line == 3


def test_a_mask_of_infinities_is_not_what_is_blamed():
    text = (
        edge("@A@")
        .replace("y = @A@", "s[b, i] = if x[b, i] > 0 then a[b, i] else -inf\n    y = exp(s)\n")
        .replace("mean(y)", "mean(y) + mean(softmax(s))")
    )
    rows = np.ones((24, 3))
    rows[:, 1] = -1  # masked here, as intended
    train(job_of(text, rows, steps="2"), Silent(), never)
    rows[9] = -1  # a row that is masked everywhere
    found = stopped(job_of(text, rows))
    assert "made of" in found.label and "-inf" in found.label


def test_an_infinite_state_is_its_own_business():
    text = (
        edge("a")
        .replace("    a[b, i]", "    state least: [3] = inf\n    a[b, i]")
        .replace("    y = a", "    y = a\n    least' = least")
    )
    job = job_of(text, np.ones((24, 3)))
    train(job, Silent(), never)
    assert job.position.step == 6


def test_the_snapshot_of_a_run(tmp_path):
    job = prepared(DIGITS, optimizer="sgd(lr = 1e30)")
    job.folder = create_run(tmp_path / "run", "small", "", {})
    found = stopped(job)
    assert f"nnc debug {tmp_path / 'run'}" in found.help
    snapshot = read_snapshot(tmp_path / "run")
    assert snapshot.inputs.keys() == {"image", "label"} and snapshot.batch == 100
    for name, array in snapshot.values.items():
        np.testing.assert_array_equal(array, job.executor.values[name])


def test_a_snapshot_that_cannot_be_written_hides_nothing(tmp_path, monkeypatch):
    job = prepared(DIGITS, optimizer="sgd(lr = 1e30)")
    job.folder = create_run(tmp_path / "run", "small", "", {})

    def full(path, *_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(atomic_files, "replacing", full)
    with pytest.raises(UserError) as caught:
        train(job, Silent(), never)
    assert [d.code for d in caught.value.diagnostics] == ["E0701", "E0709"]


def test_a_damaged_snapshot_is_refused(tmp_path):
    job = prepared(DIGITS, optimizer="sgd(lr = 1e30)")
    job.folder = create_run(tmp_path / "run", "small", "", {})
    stopped(job)
    file = tmp_path / "run" / "snapshot.safetensors"
    whole = file.read_bytes()
    for content in (b"", whole[:100], whole[:-1], whole.replace(b'\\"rows\\"', b'\\"rowz\\"')):
        file.write_bytes(content)
        with pytest.raises(UserError) as caught:
            read_snapshot(tmp_path / "run")
        assert caught.value.diagnostics[0].code == "E0706"


WRONG = """
model M(x: f32[B, 3], k: i32[B]) -> y: f32[B] {
    param w: [3] = 1
    a[b, i] = if x[b, i] == 0 then inf else x[b, i] * w[i]
    y[b] = sum(i) log(a[b, i]) * w[k[b] + 1]
}

train M {
    loss      = mean(y)
    optimizer = sgd(lr = 0.01)
    batch     = 4
    steps     = 1
}
"""


@pytest.mark.parametrize(
    "x, k, how, remedy, written",
    [
        (-1, 0, "log(-1)", "a smaller learning rate", None),
        (0, 0, "made of a[0, 0] = inf", "the program writes this `inf`", 4),
    ],
)
def test_the_remedy_is_for_what_happened(x, k, how, remedy, written):
    schema = Schema((Field("x", "f32", (3,)), Field("k", "i32", ())), None)
    arrays = {"x": np.full((4, 3), x, np.float32), "k": np.full(4, k, np.int32)}
    dataset = Dataset("rows", schema, Split(arrays))
    found = stopped(
        prepare(project_of_text(WRONG, "edge.nn", None, []), dataset, DEVICES["cpu"](1))
    )
    assert how in found.label and found.help.startswith(remedy)
    assert [note.span.line for note in found.notes] == ([written] if written else [])
