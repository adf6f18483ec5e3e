"""A few sequences of the fuzzer of use; `python tests/fuzzers/use.py` does many."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("resource")  # the limits of a process, which Windows has not

USE = [sys.executable, str(Path(__file__).with_name("use.py"))]


@pytest.mark.slow
def test_sequences_of_commands_and_calls_with_faults_in_between():
    """In a process of its own, since it forks."""
    found = subprocess.run([*USE, "--sequences", "2"], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "2 sequences" in found.stdout and " 0 wrong" in found.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "seed"), [("arena", 7), ("bug", 0), ("untidy", 0), ("resume", 1)]
)
def test_faults_of_nnc_are_found(fault, seed):
    """With seeds of sequences that do what it takes."""
    given = ["--sequences", "3", "--seed", str(seed), "--plant", fault]
    found = subprocess.run([*USE, *given], capture_output=True, text=True)
    assert found.returncode == 1 and "DEFECT" in found.stdout, found.stdout
