"""Every entry of the library that has a case passes `nnc verify`: code, passes, gradients."""

from __future__ import annotations

import pytest

from nnc.runtime.project import project_of_text
from nnc.runtime.verification import verify_project

from . import test_functions, test_layers, test_sequences
from .programs import Case

CASES = {
    str(case): case
    for module in (test_functions, test_layers, test_sequences)
    for group in vars(module).values() if isinstance(group, list | tuple)
    for case in group if isinstance(case, Case)
}  # fmt: skip
SOME = ["relu", "softmax", "mse", "Attention"]


def check(case: Case) -> None:
    found = verify_project(project_of_text(case.text, model="M"), None, (1,), samples=1)
    assert not found.mistakes, [(d.message, d.label) for d in found.mistakes]
    assert found.values and found.slopes


@pytest.mark.parametrize("name", SOME)
def test_some_entries(name: str) -> None:
    check(CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in CASES if n not in SOME])
def test_every_entry(name: str) -> None:
    check(CASES[name])
