"""What a run shows: lines that fit the terminal, a bar that knows the end, a log that goes on."""

from __future__ import annotations

import fcntl
import os
import pty
import random
import re
import struct
import subprocess
import sys
import termios
import time
from itertools import pairwise
from math import inf, nan

import pytest
from small_programs import DIGITS, prepared, write

from nnc.runtime.messages import use_form
from nnc.runtime.training.interrupt import never
from nnc.runtime.training.loop import train
from nnc.runtime.training.metrics import LOG, VALIDATION, Record
from nnc.runtime.training.progress import Bar, Lines, Silent, Stages, has_bar
from nnc.runtime.training.progress_text import (
    Plan,
    bar_texts,
    duration,
    record_line,
    sparkline,
)

VALUES = {"loss": 0.4321, "accuracy": 0.8712, "validation_loss": 0.3921, "validation_accuracy": 0.9}
BOTH = VALUES | {"test_loss": 0.4, "test_accuracy": 0.89}
PLAN = Plan(20, None, 469, ("loss",), "validation_loss")
RECORD = Record(3, 1407, VALUES, 1.25)
BLOCKS = "▁▂▃▄▅▆▇█"


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# --- lines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (None, "epoch  3/20  loss 0.4321  accuracy 0.8712  validation_loss 0.3921  "
               "validation_accuracy 0.9000  1.2 s"),
        (120, "epoch  3/20  loss 0.4321 █▄▁█  accuracy 0.8712  validation_loss 0.3921  "
              "validation_accuracy 0.9000  1.2 s"),
        (98, "epoch  3/20  loss 0.4321 █▄▁█  accuracy 0.8712  validation 0.3921 0.9000  1.2 s"),
        (80, "epoch  3/20  loss 0.4321 █▄▁█  accuracy 0.8712  validation 0.3921 0.9000  1.2 s"),
        (78, "epoch  3/20  loss 0.4321 █▄▁█  accuracy 0.8712  val 0.3921 0.9000  1.2 s"),
        (60, "epoch  3/20  loss 0.4321 █▄▁█  val 0.3921 0.9000  1.2 s"),
        (40, "epoch  3/20  loss 0.4321  val 0.3921"),
        (24, "epoch  3/20  val 0.3921"),
        (12, "epoch  3/20"),
        (5, "epoch"),
    ],
)  # fmt: skip
def test_lines_of_an_epoch(columns, line):
    assert record_line(RECORD, PLAN, columns, [2.0, 1.0, 0.1, 2.0]) == line


def test_lines_within_an_epoch_and_of_runs_by_steps():
    log = Record(1, 300, {"loss": 2.5}, 12.34, LOG)
    assert record_line(log, PLAN) == "epoch  1/20  step 300  loss 2.5000  12.3 s"
    by_steps = Plan(None, 5000, 83650)
    assert record_line(log, by_steps) == "step  300/5000  loss 2.5000  12.3 s"
    last = Record(1, 5000, {"loss": 2.0}, 99.9)
    assert record_line(last, by_steps) == "step 5000/5000  loss 2.0000  99.9 s"


def test_what_is_no_number_in_training_is_told_of_evaluation_alone():
    values = {"loss": nan, "map": nan, "test_loss": 0.5, "test_map": nan}
    told = "epoch  1/20  loss nan  test_loss 0.5000  test_map nan  9.0 s"
    assert record_line(Record(1, 300, values, 9), PLAN) == told


def test_every_line_is_one_row():
    """Whatever was measured, and however narrow the terminal is."""
    draw = random.Random(1)
    names = ["loss", "critic", "f1", "accuracy", "a_metric_with_a_very_long_name"]
    for _ in range(300):
        train_names = draw.sample(names, draw.randint(1, 5))
        splits = draw.sample(["", "validation_", "test_"], draw.randint(1, 3))
        numbers = [nan, inf, 1e-9, 0.5, -3e7]
        values = {s + n: draw.choice(numbers) for s in splits for n in train_names}
        plan = Plan(*draw.choice([(3, None), (None, 10**6), (None, None), (20, 5000)]), 469)
        kind = draw.choice(["", LOG, VALIDATION])
        record = Record(draw.randint(1, 999), 4321, values, 1e4, kind)
        for columns in (1, 20, 40, 60, 80, 100, 200):
            line = record_line(record, plan, columns, draw.choice([[], [1.0] * 9, [nan, 1.0]]))
            assert 0 < len(line) <= columns, (columns, line)


def test_sparklines():
    assert sparkline([3, 2, 1, 0]) == "█▆▃▁"
    assert sparkline([1, 1]) == "▁▁" and sparkline([nan, 0, inf, 7]) == " ▁ █"
    assert sparkline([]) == ""


def test_durations():
    found = [duration(s) for s in (0, 7.9, 754, 3723, 2 * 86400 + 3 * 3600 + 240)]
    assert found == ["0:00", "0:07", "12:34", "1:02:03", "2 d 03:04"]


# --- bars -----------------------------------------------------------------------------------------


def test_bars_are_one_row():
    before = ["epoch  3/20", "critic 0.5000", "generator 0.2500"]
    after = ["120/9380", "eta 1:12:10"]
    for columns in range(1, 200):
        texts = bar_texts(columns, before, after)
        used = len(texts.before) + len(texts.after) + texts.width + 2 * bool(texts.width)
        assert used <= columns and texts.width in {0, *range(8, 41)}
    assert bar_texts(79, before, after).width == 12
    assert bar_texts(70, before, after).before == "epoch  3/20  critic 0.5000"
    narrow = bar_texts(39, before, after)
    assert (narrow.before, narrow.after) == ("epoch  3/20", "120/9380")
    assert bar_texts(39, ["epoch 3/5"], ["12/938", "eta 2:10"]).width == 12


class Shown:
    def __init__(self):
        self.seen = []

    def show(self, before, done, total, after):
        self.seen.append((*before, done, total, *after))

    def close(self):
        self.seen.append("closed")


def bar(plan: Plan) -> tuple[Bar, list, Clock]:
    clock = Clock()
    found = Bar(plan, clock=clock)
    found._shown = shown = Shown()
    return found, shown.seen, clock


def test_the_bar_of_a_run_by_steps_ends_with_them():
    shown, seen, clock = bar(Plan(None, 300, 83650))
    for step in (1, 11):
        clock.now = step / 10
        shown.step(1, step, (2.5,))
    assert seen == [
        ("epoch 1", "loss 2.5000", 1, 300, "1/300"),
        ("epoch 1", "loss 2.5000", 11, 300, "11/300", "eta 0:28"),
    ]


def test_the_bar_of_a_run_by_epochs_knows_them_all():
    shown, seen, clock = bar(Plan(20, None, 100))
    shown.step(1, 1, (2.5,))
    clock.now = 99
    shown.step(2, 100, (2.0,))
    assert seen[-1] == ("epoch  2/20", "loss 2.0000", 100, 2000, "100/2000", "eta 31:40")
    both, seen, _ = bar(Plan(20, 500, 100))
    both.step(3, 250, (2.0,))
    assert seen[-1][2:4] == (250, 500)
    endless, seen, _ = bar(Plan(None, None, 100))
    endless.step(3, 250, (2.0,))
    assert seen[-1][2:4] == (50, 100)


def test_a_validation_has_a_bar_and_lines_have_none_beside_them(capsys):
    shown, seen, clock = bar(PLAN)
    shown.measuring("validation", 256, 10000)
    clock.now = 0.05
    shown.measuring("validation", 512, 10000)  # too soon to be drawn
    clock.now = 0.11
    shown.measuring("validation", 768, 10000)
    assert seen == [("validation", n, 10000, f"{n}/10000") for n in (256, 768)]
    shown.record(RECORD)
    assert seen[-1] == "closed" and capsys.readouterr().out.startswith("epoch  3/20  loss")


def test_evaluations_are_told(monkeypatch):
    job, told = prepared(validation="0.5", epochs="1"), []
    listener = Silent()
    monkeypatch.setattr(listener, "measuring", lambda *all: told.append(all))
    train(job, listener, never)
    sizes = {name: len(job.parts[name]) for name in ("validation", "test")}
    assert {split: done for split, done, _ in told} == sizes
    assert all(of == sizes[split] for split, _, of in told) and len(told) > 2


# --- logs -----------------------------------------------------------------------------------------


def test_a_log_has_a_line_every_half_minute(capsys):
    clock = Clock()
    lines = Lines(Plan(10, None, 83650), clock=clock)
    times = []
    for step in range(1, 3001):
        clock.now += 0.1
        lines.step(1, step, (2.5,))
        if capsys.readouterr().out:
            times.append(clock.now)
    # soon after the first step, since this run will take long
    assert times[0] <= 0.4
    assert all(29.9 < b - a < 30.2 for a, b in pairwise(times))
    assert len(times) == 10
    clock.now += 30
    lines.measuring("validation", 512, 10000)
    assert capsys.readouterr().out == "validation 512/10000\n"
    clock.now += 30
    lines.step(1, 6001, (2.5,))
    # 359.9 s for 6000 steps
    assert "step   6001/836500  loss 2.5000  eta 13:50" in capsys.readouterr().out


def test_a_short_run_has_lines_of_its_records_alone(capsys):
    clock = Clock()
    lines = Lines(Plan(2, None, 10), clock=clock)
    for step in range(1, 20):
        clock.now += 0.3
        lines.step(1, step, (2.5,))
    assert capsys.readouterr().out == ""


def test_lines_of_records_count(capsys):
    clock = Clock()
    lines = Lines(PLAN, clock=clock)
    for _ in range(100):
        clock.now += 20
        lines.record(RECORD)
        lines.step(4, 1500, (0.5,))
    assert capsys.readouterr().out.count("\n") == 100


def test_stages(capsys):
    clock = Clock()
    stage = Stages(clock)
    with stage("compiling"):
        clock.now += 1.5
    with stage("compiling"):
        clock.now += 0.5
    assert stage.took("compiling") == "2.0 s"
    lines = Lines(PLAN, remark="compiled in 2.0 s")
    assert capsys.readouterr() == ("", "")
    for _ in range(2):
        lines.record(RECORD)
    found = capsys.readouterr()
    first, second = found.out.splitlines()
    assert first == f"{second}  (compiled in 2.0 s)" and found.err == ""


def test_a_stage_that_takes_long_is_told(capsys):
    with Stages(first=0.01)("compiling"):
        # the remark comes from another thread
        while not (told := capsys.readouterr().err):
            time.sleep(0.005)
    assert told == "compiling, for 0 s so far\n"


def test_nothing_is_compiled_within_an_epoch(monkeypatch):
    """Neither the last, shorter batch nor the evaluations."""
    job = prepared(validation="0.1", batch="70")
    job.compile_programs()

    def compiled(system):
        raise AssertionError("compiled within an epoch")

    monkeypatch.setattr(job.executor, "device", compiled)
    assert train(job, Silent(), never) == "2 epochs done"
    # a run that ends before the last batch of the epoch does not need its program
    short = prepared(batch="70", steps="3")
    short.compile_programs()
    assert [batch for _, batch in short.executor._training] == [70]


@pytest.mark.parametrize(
    ("terminal", "term", "form", "bar"),
    [
        (True, "xterm", "human", True),
        (True, "dumb", "human", False),
        (True, "xterm", "json", False),
        (False, "xterm", "human", False),
    ],
)
def test_who_sees_a_bar(monkeypatch, terminal, term, form, bar):
    """FORCE_COLOR asks for colours, and not for a bar in a file."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("FORCE_COLOR", "1")
    use_form(form)
    try:
        assert has_bar() == bar
    finally:
        use_form("human")


# --- as a user sees it ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    text = DIGITS.replace("epochs    = 2", "epochs = 6\n    validation = 0.1")
    return write(tmp_path_factory.mktemp("progress"), text)


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    path = os.pathsep.join(filter(None, sys.path))
    return {**kept, "TERM": "xterm-256color", "PYTHONPATH": path, "PYTHONUTF8": "1", **more}


def command(file, run) -> list[str]:
    return [sys.executable, "-m", "nnc", "train", str(file), "--out", str(run)]


def on_a_terminal(columns: int, arguments: list[str], **more: str) -> str:
    """What a command writes to a terminal of so many columns; it must succeed."""
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(arguments, stdout=there, stderr=there, env=environment(**more))
    os.close(there)
    said = b""
    try:
        while part := os.read(here, 65536):
            said += part
    except OSError:  # Linux says so at the end
        pass
    os.close(here)
    assert process.wait() == 0, said
    return said.decode()


def rows(said: str) -> list[str]:
    """What was drawn as one row after the other, without colours and movements."""
    return [row for row in re.split(r"[\r\n]+", re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", said)) if row]


@pytest.mark.parametrize("columns", [80, 40])
def test_a_terminal(small, tmp_path, columns):
    said = on_a_terminal(columns, command(small, tmp_path / "run"))
    drawn = [row for row in rows(said) if "kept in" not in row]
    assert all(len(row) <= columns for row in drawn)
    stages = [row.split("━")[0].strip() for row in drawn]
    assert "reading the data" in stages and "compiling" in stages
    lines = [row for row in drawn if row.startswith("epoch") and "val" in row]
    assert [line[:9] for line in lines] == [f"epoch {n}/6" for n in range(1, 7)]
    assert any(re.search(r"━ +\d+/78", row) for row in drawn)
    assert sum(bool(re.fullmatch(r"compiled in \d+\.\d s", row)) for row in drawn) == 1
    if columns == 80:
        assert all(re.search(r"loss \d.*val.*test.* s$", line) for line in lines)
        assert any(block in lines[-1] for block in BLOCKS)


@pytest.mark.slow
def test_a_dumb_terminal(small, tmp_path):
    said = on_a_terminal(120, command(small, tmp_path / "run"), TERM="dumb", FORCE_COLOR="1")
    assert "\x1b" not in said and not any(b in said for b in BLOCKS)
    drawn = [row for row in rows(said) if "kept in" not in row]
    assert all(len(row) <= 120 for row in drawn)
    assert re.search(r" s  \(compiled in \d+\.\d s\)$", drawn[0])


@pytest.mark.slow
def test_a_terminal_without_colours(small, tmp_path):
    said = on_a_terminal(80, command(small, tmp_path / "run"), NO_COLOR="1")
    assert "━" in said and not re.search(r"\x1b\[[\d;]*m", said)


def test_a_log_is_written_at_once(small, tmp_path):
    """While the process runs, and without control characters, whatever colours are asked for."""
    arguments = [*command(small, tmp_path / "run"), "--epochs", "100000"]
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(FORCE_COLOR="1"),
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    process.terminate()
    rest, errors = process.communicate()
    assert process.returncode == 128 + 15, errors
    assert line.startswith("epoch      1/100000  ") and "\x1b" not in line + rest
    assert "━" not in errors
