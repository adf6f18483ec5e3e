"""What a run does within an epoch: records, validations, checkpoints by steps and by time.

None of it changes a number of the run, and a run that is interrupted anywhere ends the same.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter

import numpy as np
import pytest
from small_programs import DIGITS, prepared, write

from nnc.dsl.diagnostics.diagnostic import UserError
from nnc.runtime import cli
from nnc.runtime.assignments import Assignment
from nnc.runtime.durations import TimeLimit, right_spelling, seconds_of
from nnc.runtime.project import project_of_text
from nnc.runtime.training.atomic_files import load_arrays
from nnc.runtime.training.interrupt import never
from nnc.runtime.training.intervals import Intervals
from nnc.runtime.training.loop import INTERRUPTED, measure, train
from nnc.runtime.training.progress import Silent
from nnc.runtime.training.run_folder import RunFolder, create_run

SETS = {"validate_every": "4", "log_every": "3", "validation": "0.1"}  # of epochs with 13 steps
KIND = {"": "epoch", "validation": "validation", "log": "log"}


def job_in(folder, **sets):
    job = prepared(**{**SETS, **sets})
    job.folder = create_run(folder, "small", DIGITS, {})
    return job


def measured(records) -> list[tuple]:
    """All of some records but the seconds."""
    return [(r.epoch, r.step, r.kind, dict(r.values)) for r in records]


def bits(values) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in values.items()}


def outcome(folder: RunFolder) -> dict:
    """What a run leaves: the lines without their seconds, weights, and the last checkpoint."""
    lines = [json.loads(line) for line in folder.metrics.path.read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    last = folder.checkpoints.path(folder.checkpoints.steps()[-1])
    arrays = {"weights": folder.weights_file, "state": last}
    return {"lines": lines, **{name: bits(load_arrays(path)[0]) for name, path in arrays.items()}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that is never interrupted, and how often it asks whether it is."""
    job = job_in(tmp_path_factory.mktemp("whole") / "run")
    asked = Counter()
    assert train(job, Silent(), lambda: asked.update("?") or False) == "2 epochs done"
    return job, asked["?"]


# --- records --------------------------------------------------------------------------------------


def test_records_come_at_their_steps(whole):
    job, _ = whole
    found = [(r.step, KIND[r.kind]) for r in job.records]
    within = {3: "log", 4: "validation", 6: "log", 8: "validation", 9: "log", 12: "validation"}
    later = {15: "log", 16: "validation", 18: "log", 20: "validation", 21: "log", 24: "validation"}
    assert found == [*within.items(), (13, "epoch"), *later.items(), (26, "epoch")]
    lines = outcome(job.folder)["lines"]
    assert [line.get("kind", "epoch") for line in lines] == [kind for _, kind in found]
    assert "validation_loss" not in lines[0] and "validation_accuracy" in lines[1]


def test_nothing_within_an_epoch_changes_it(whole):
    job, _ = whole
    plain = prepared(validation="0.1")
    train(plain, Silent(), never)
    assert measured(r for r in job.records if not r.kind) == measured(plain.records)
    assert bits(job.executor.values) == bits(plain.executor.values)


def test_a_line_is_of_the_examples_since_the_one_before(whole):
    job, _ = whole
    logged = prepared(log_every="1", validation="0.1")
    train(logged, Silent(), never)
    single = {r.step: r.values for r in logged.records if r.kind}
    for before, record in zip([0, 3, 4, 6], job.records, strict=False):
        for name in ("loss", "accuracy"):
            values = [single[step][name] for step in range(before + 1, record.step + 1)]
            assert record.values[name] == pytest.approx(np.mean(values), rel=1e-6)


def test_a_validation_measures_the_weights_of_its_step(whole):
    job, _ = whole
    short = prepared(validation="0.1", steps="8", keep="last")
    train(short, Silent(), never)
    wanted = measure(short.executor, short.parts["validation"], 8)
    record = next(r for r in job.records if r.step == 8)
    assert {n: record.values[f"validation_{n}"] for n in wanted} == wanted


@pytest.mark.parametrize(
    ("sets", "epoch", "log"),
    [
        ({}, 45, None),
        ({"steps": 300}, 45, None),
        ({"steps": 300}, 83650, 100),
        ({}, 83650, 1000),
        ({"steps": 300, "log_every": 7}, 83650, 7),
    ],
)
def test_a_run_by_steps_has_lines(sets, epoch, log):
    assert intervals(epoch, **sets).log == log


def intervals(epoch: int = 15, **sets) -> Intervals:
    assignments = [Assignment(key, str(value)) for key, value in sets.items()]
    return Intervals(project_of_text(DIGITS, assignments=assignments).settings, epoch)


# --- stopping, keeping ----------------------------------------------------------------------------


def test_patience_counts_validations():
    """Accuracy rises, so the first validation stays the best."""
    job = prepared(**SETS, patience="3", monitor="-validation_accuracy", epochs="9")
    reason = train(job, Silent(), never)
    compared = [r for r in job.records if r.kind != "log"]
    best = min(compared[:-3], key=lambda r: r.values["validation_accuracy"])
    assert compared[-4].step == best.step == job.position.kept
    assert reason == (f"validation_accuracy has not improved on step {best.step} for 3 validations")


def test_a_condition_on_a_validation_ends_the_run_within_an_epoch(tmp_path):
    until = DIGITS.replace("epochs    = 2", "epochs = 9\n    until step >= 8")
    job = prepared(until, **SETS)
    job.folder = create_run(tmp_path / "run", "small", until, {})
    assert train(job, Silent(), never) == "`until step >= 8` holds"
    assert job.position.step == 8 and job.records[-1].kind == "validation"
    # going on stops again at once, and with another condition takes the rest of the epoch
    again = prepared(until, **SETS)
    assert not again.resume(job.folder)
    assert train(again, Silent(), never) == "`until step >= 8` holds"
    assert again.position.step == 8
    longer = prepared(until.replace("step >= 8", "step >= 16"), **SETS)
    assert not longer.resume(job.folder)
    train(longer, Silent(), never)
    assert [r.step for r in longer.records if r.kind != "log"] == [4, 8, 12, 13, 16]


def test_the_best_weights_may_be_those_of_a_validation(whole, tmp_path):
    job = job_in(tmp_path / "run", monitor="-validation_accuracy")
    train(job, Silent(), never)
    kept = job.position.kept
    assert kept == 4 and job.folder.checkpoints.steps()[0] == 4
    weights, notes = load_arrays(job.folder.weights_file)
    values, position = job.folder.checkpoints.read_step(4, job.executor.values)
    assert notes["step"] == "4" and position.records[-1].kind == "validation"
    assert bits(weights) == bits({name: values[name] for name in weights})


# --- interruptions, checkpoints -------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_interrupted_anywhere_it_ends_with_the_same_bits(whole, tmp_path, seed):
    """At random polls, which are after steps and in evaluations."""
    wanted, asked = whole
    draws = np.random.default_rng(seed)
    job, times = job_in(tmp_path / "run"), 0
    while True:
        left = int(draws.integers(1, asked // 3))

        def interrupted() -> bool:
            nonlocal left
            left -= 1
            return left <= 0

        if train(job, Silent(), interrupted) != INTERRUPTED:
            break
        job, times = prepared(**SETS), times + 1
        assert not job.resume(RunFolder(tmp_path / "run"))
    assert times >= 2
    assert outcome(job.folder) == outcome(wanted.folder)
    assert measured(job.records) == measured(wanted.records)


class Ticking:
    """A clock that goes on by so many seconds whenever somebody looks at it."""

    def __init__(self, seconds: float):
        self.now, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


def test_checkpoints_by_time_change_no_number(whole, tmp_path, monkeypatch):
    wanted, _ = whole
    saved = []
    for minutes, seconds in ((10, 0.0), (10, 250.0), (60, 250.0), (1, 61.0)):
        folder, steps = tmp_path / f"{minutes}-{seconds}", []
        job = job_in(folder, checkpoint_every=f"{minutes} min")
        write_checkpoint = job.folder.checkpoints.write

        def count(values, position, *rest, steps=steps, write_checkpoint=write_checkpoint):
            steps.append(position.step)
            write_checkpoint(values, position, *rest)

        monkeypatch.setattr(job.folder.checkpoints, "write", count)
        train(job, Silent(), never, Ticking(seconds))
        saved.append(sorted({*steps}))
        assert outcome(job.folder) == outcome(wanted.folder)
    compared = [4, 8, 12, 13, 16, 20, 24, 26]
    assert saved[0] == saved[2] == compared
    assert {*compared} < {*saved[1]} and saved[3] == [*range(1, 27)]


def test_a_checkpoint_within_ten_minutes_is_the_default():
    assert intervals().checkpoint_seconds == 600
    assert intervals(checkpoint_every='"2 h"').checkpoint_seconds == 7200
    by_steps = intervals(checkpoint_every=5)
    assert by_steps.checkpoint_seconds is None and by_steps.saves(10) and not by_steps.saves(11)


def test_a_line_that_was_cut_off_by_a_kill_is_written_again(whole, tmp_path):
    wanted, _ = whole
    job = job_in(tmp_path / "run")
    left = [5]

    def interrupted() -> bool:
        left[0] -= 1
        return left[0] == 0

    assert train(job, Silent(), interrupted) == INTERRUPTED
    path = job.folder.metrics.path
    path.write_text(path.read_text() + '{"epoch": 1, "step": 6, "ki')
    again = prepared(**SETS)
    assert not again.resume(job.folder)
    train(again, Silent(), never)
    assert outcome(again.folder) == outcome(wanted.folder)


# --- what users write -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30 s", 30), ("10 min", 600), ("10min", 600), ("2 h", 7200), ("1.5 h", 5400), ("1 d", 86400)],
)
def test_times(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("10 minutes", "10 min"), ("10m", "10 min"), ("2 Hours", "2 h"), ("1h30m", "90 min"),
        ("1 h and 30 min", "90 min"), ("2,5 h", "150 min"), ("500 ms", "0.5 s"), ("1 week", "7 d"),
        ("01:30:00", "90 min"), ("ten minutes", ""), ("10", ""), ("0 min", ""), ("-5 min", ""),
        ("", ""), ("10 parsecs", ""), ("9" * 400 + " h", ""),
    ],
)  # fmt: skip
def test_wrong_times(text, right):
    assert seconds_of(text) is None
    assert right_spelling(text) == right


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--set checkpoint_every=0", "a whole number of steps, or a time"),
        ('--set "checkpoint_every=10 minutes"', 'write `"10 min"`'),
        ("--set checkpoint_every=10m", 'write `"10 min"`'),
        ("--checkpoint-every 1h30m", 'write `"90 min"`'),
        ("--checkpoint-every soon", "a whole number of steps, or a time"),
        ("--set checkpoint_every=2.5", "a whole number of steps, or a time"),
        ("""--set 'validate_every="10 min"'""", "no result of a run depends on the time"),
        ("--set log_every=0", "a whole number of steps"),
        ("--validate-every 0", "0 is not in the range"),
        ("--log-every ten", "not a valid integer"),
        ("--max-time 90", "`--max-time` takes a time"),
        ("--max-time 2hours", "write `2h`"),
        ("--set checkpoint_steps=5", "it is `checkpoint_every` now"),
        ("--set validate_evry=5", "did you mean `validate_every`"),
    ],
)
def test_wrong_intervals(tmp_path, monkeypatch, capsys, line, told):
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path)
    commands = ["train"] + ["check"] * ("--set" in line)
    for command in commands:
        assert cli.run([command, str(file), *shlex.split(line)]) == 2
        assert told in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "runs").exists()


def test_intervals_in_the_program(tmp_path, capsys):
    fields = 'validate_every = 5\n    log_every = 2\n    checkpoint_every = "30 s"\n    epochs'
    file = write(tmp_path, DIGITS.replace("epochs", fields))
    assert cli.run(["check", str(file)]) == 0
    flags = ["--log-every", "7", "--checkpoint-every", "2 h", "--epochs", "1"]
    assert cli.run(["train", str(file), "--out", str(tmp_path / "run"), *flags]) == 0
    settings = RunFolder(tmp_path / "run").settings["settings"]
    found = {name: settings[name] for name in settings if name.endswith("_every")}
    assert found == {"validate_every": 5, "log_every": 7, "checkpoint_every": "2 h"}
    assert 'checkpoint_every = "2 h"' in (tmp_path / "run" / "model.nn").read_text()


@pytest.mark.parametrize("text", ["10 min", "10min"])
def test_a_time_without_quotes(text):
    with pytest.raises(UserError) as caught:
        project_of_text(DIGITS.replace("epochs    = 2", f"checkpoint_every = {text}"))
    assert caught.value.diagnostics[0].help == 'a time is a text: `"10 min"`'


def test_nothing_is_held_out():
    text = DIGITS.replace("digits()", "digits(test = 0)")
    with pytest.raises(UserError) as caught:
        prepared(text, validate_every="5")
    assert caught.value.diagnostics[0].code == "E0703"
    assert "validation = 0.1" in caught.value.diagnostics[0].help


def test_a_former_name(tmp_path, capsys):
    text = DIGITS.replace("epochs", "checkpoint_steps = 4  # often\n    epochs")
    file = write(tmp_path, text)
    assert cli.run(["check", str(file)]) == 0
    assert "W0407" in capsys.readouterr().err
    assert project_of_text(text).settings.checkpoint_every == 4
    assert cli.run(["fix", str(file)]) == 0
    assert "checkpoint_every = 4  # often" in file.read_text()
    capsys.readouterr()
    assert cli.run(["check", str(file)]) == 0 and "W0407" not in capsys.readouterr().err
    both = write(tmp_path, text.replace("epochs", "checkpoint_every = 5\n    epochs"))
    assert cli.run(["check", str(both)]) == 1
    assert "E0405" in capsys.readouterr().err


def test_the_time_limit():
    clock = Ticking(60.0)
    limit = TimeLimit("10 min", None, clock)
    assert [limit() for _ in range(10)] == [False] * 9 + [True]
    assert not TimeLimit(None, None, clock)()
    assert TimeLimit("1 h", clock() - 3600, clock)()


def test_a_run_that_is_out_of_time_goes_on(tmp_path, capsys):
    file, run = write(tmp_path), tmp_path / "run"
    flags = [f"--set={name}={value}" for name, value in SETS.items()]
    assert cli.run(["train", str(file), "--out", str(run), *flags, "--max-time", "0.001s"]) == 0
    assert f"after step 1; go on with `nnc train --resume {run}`" in capsys.readouterr().err
    assert cli.run(["train", "--resume", str(run)]) == 0
    assert cli.run(["train", str(file), "--out", str(tmp_path / "whole"), *flags]) == 0
    assert outcome(RunFolder(run)) == outcome(RunFolder(tmp_path / "whole"))
