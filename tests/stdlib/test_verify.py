"""Every entry of the library that has a case passes `nnc verify`: code, passes, gradients."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from nnc.runtime.device.cpu import host
from nnc.runtime.inspect.verification import verify_project
from nnc.runtime.project import project_of_text

from .programs import Case

MODULES = [
    f".{p.stem}" for p in sorted(Path(__file__).parent.glob("test_*.py")) if p.stem != "test_verify"
]
CASES = {
    str(case): case
    for module in MODULES
    for group in vars(import_module(module, __package__)).values()
    if isinstance(group, list | tuple)
    for case in group
    if isinstance(case, Case)
}
SOME = ["relu", "softmax", "mse", "Attention"]
ROUNDED = ["Attention"]  # of those, what has contractions


@pytest.fixture
def free(monkeypatch):
    """Pairs of bf16 numbers wherever they are possible, however little they save."""
    made = host.target()
    costs = replace(made.layout, pack_element=0, start_kernel=0)
    monkeypatch.setattr(host, "target", lambda: replace(made, layout=costs))


def check(case: Case, precision: str = "f32") -> None:
    project = project_of_text(case.text, model="M")
    project = replace(project, settings=replace(project.settings, precision=precision))
    found = verify_project(project, None, (1,), samples=1)
    assert not found.mistakes, [(d.message, d.label) for d in found.mistakes]
    assert found.values and found.slopes


@pytest.mark.parametrize("name", SOME)
def test_some_entries(name: str) -> None:
    check(CASES[name])


@pytest.mark.night
@pytest.mark.parametrize("name", [n for n in CASES if n not in SOME])
def test_every_entry(name: str) -> None:
    check(CASES[name])


@pytest.mark.parametrize("name", ROUNDED)
def test_some_entries_in_bf16(free, name: str) -> None:
    check(CASES[name], "bf16")


@pytest.mark.night
@pytest.mark.parametrize("name", [n for n in CASES if n not in ROUNDED])
def test_every_entry_in_bf16(free, name: str) -> None:
    check(CASES[name], "bf16")
