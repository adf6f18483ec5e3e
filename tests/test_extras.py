"""The extras of pyproject.toml: each is installed alone and used."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Iterator:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    yield importlib.import_module("extras")
    sys.modules.pop("extras", None)


def test_every_extra_is_tried(tool) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert tool.extras() | tool.FOR_DEVELOPERS == set(project["optional-dependencies"])
    for name, program in tool.USES.items():
        compile(program, name, "exec")


@pytest.mark.night
def test_every_extra_is_enough_alone(tool, capsys: pytest.CaptureFixture[str]) -> None:
    """Nine fresh environments, from a package registry: some minutes."""
    tool.main([])
    told = capsys.readouterr().out
    assert all(f"{extra}: " in told for extra in {"core", *tool.extras()})
