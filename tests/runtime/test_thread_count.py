"""How many threads help: no more than processors that may be used; who asks for more is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from small_programs import write

import nnc
from nnc.runtime import cli, thread_count
from nnc.runtime.thread_count import available_processors, default_threads, too_many


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Eight processors, and control groups in a folder."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(thread_count, "CONTROL_GROUPS", tmp_path / "groups")
    monkeypatch.setattr(thread_count, "OWN_GROUP", tmp_path / "own")

    def limit(own: str, **files: str) -> None:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path: Path = tmp_path / "groups" / name.replace("__", "/").replace("_max", ".max")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return limit


def test_all_that_the_process_may_use(machine):
    assert available_processors() == default_threads() == 8
    assert default_threads(3) == 3 and not too_many(3) and not too_many(None)


@pytest.mark.parametrize(
    ("quota", "processors"),
    [
        ("max 100000", 8),
        ("150000 100000", 2),
        ("400000 100000\n", 4),
        ("1000 100000", 1),
        ("9900000 100000", 8),
        ("", 8),
        ("nonsense 1", 8),
        ("100 0", 8),
    ],
)
def test_a_share_of_time_is_rounded_up(machine, quota, processors):
    machine("0::/\n", cpu_max=quota)
    assert available_processors() == processors


def test_the_least_share_of_all_groups_above(machine):
    machine("0::/a/b\n", a__cpu_max="200000 100000", a__b__cpu_max="700000 100000")
    assert available_processors() == 2


def test_a_share_in_the_first_version_of_control_groups(machine, tmp_path):
    folder = tmp_path / "groups" / "cpu" / "docker"
    folder.mkdir(parents=True)
    (tmp_path / "own").write_text("5:memory:/\n4:cpu,cpuacct:/docker\n")
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert available_processors() == 8
    (folder / "cpu.cfs_quota_us").write_text("250000\n")
    assert available_processors() == 3


def test_who_asks_for_more_is_told(machine):
    machine("0::/\n", cpu_max="200000 100000")
    assert default_threads(5000) == 2
    assert too_many(5000) == "5,000 threads: this process may use 2 processors, and they are used"
    machine("0::/\n", cpu_max="100000 100000")
    assert too_many(2) == "2 threads: this process may use 1 processor, and it is used"


@pytest.mark.parametrize("command", ["train", "bench", "verify"])
def test_five_thousand_threads_are_as_many_as_processors(tmp_path, capfd, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    more = {"train": ["--out", "run", "--set", "steps=2"], "bench": ["--steps", "2"]}
    more |= {"verify": ["--samples", "1"]}
    code = cli.run([command, str(write(tmp_path)), "--threads", "5000", *more[command]])
    said = capfd.readouterr()
    assert code == 0, said.err
    assert said.err.count("5,000 threads: this process may use") == 1


def test_python_is_told_by_a_warning(tmp_path):
    path = write(tmp_path)
    with pytest.warns(UserWarning, match="5,000 threads: this process may use"):
        model = nnc.load(path, threads=5000)
    assert model.fit(epochs=1)
    with pytest.raises(ValueError, match="threads = 0"):
        nnc.load(path, threads=0)
