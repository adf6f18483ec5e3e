"""What pages tell to type exists, and every answer of docs/how_to.md works as it stands there."""

from __future__ import annotations

import filecmp
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from nnc.runtime.cli import COMMANDS, nnc, run

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
HOW_TO = ROOT / "docs" / "how_to.md"
MODEL = """model Rows(x: f32[B, 8]) -> logits: f32[B, 3] {
    logits = x |> Dense(16) |> relu |> Dense(3)
}

train Rows {
    data      = csv("rows.csv", target = "kind")
    loss      = cross_entropy(logits, y)
    metric accuracy = mean(argmax(logits) == y)
    optimizer = adam(lr = 1e-3)
    epochs    = 2
}
"""


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The words of each command of nnc in the shell's blocks of a page."""
    found = []
    for line in "".join(blocks(page, "sh")).splitlines():
        for part in re.split(r"&&|\||;|>", line):
            words = shlex.split(part, comments=True)
            if words and Path(words[0]).name == "nnc":
                found.append(words[1:])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_pages_exist(page: Path) -> None:
    for name, *words in commands(page):
        assert name in COMMANDS, name
        command = nnc.get_command(nnc.make_context("nnc", [], resilient_parsing=True), name)
        assert command is not None
        known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        options = {word.split("=")[0] for word in words if word.startswith("--")}
        assert options <= known | {"--help"}, (name, options - known)


def test_programs_in_python_are_programs() -> None:
    for block in blocks(HOW_TO, "python"):
        compile(block, str(HOW_TO), "exec")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program, its table and a run of it, as the page's examples assume."""
    random = np.random.default_rng(0)
    kinds = random.integers(0, 3, 60)
    rows = [[*(k + random.normal(size=8).round(3)), "abc"[k]] for k in kinds]
    names = [*(f"x{n}" for n in range(8)), "kind"]
    table = "\n".join(",".join(map(str, row)) for row in [names, *rows]) + "\n"
    (tmp_path / "model.nn").write_text(MODEL)
    for name in ("rows.csv", "new.csv"):
        (tmp_path / name).write_text(table)
    monkeypatch.chdir(tmp_path)
    for name in ("runs/first", "runs/table"):
        assert run(["train", "model.nn", "--out", name]) == 0
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(find_spec("matplotlib") is None, reason="curves need matplotlib")
def test_the_commands_of_the_answers_work(folder: Path) -> None:
    for words in commands(HOW_TO):
        assert run(words) == 0, words
    assert filecmp.cmp(
        folder / "runs" / "first" / "weights.safetensors",
        folder / "runs" / "again" / "weights.safetensors",
        shallow=False,
    )
    assert (folder / "curves.svg").exists() and (folder / "found.csv").exists()


@pytest.mark.slow
def test_the_programs_of_the_answers_work(folder: Path) -> None:
    """One after the other, with the names of those before."""
    names: dict[str, object] = {}
    for block in blocks(HOW_TO, "python"):
        if "import torch" not in block or find_spec("torch"):
            exec(compile(block, str(HOW_TO), "exec"), names)
    assert (folder / "x.npy").exists() and "weights" in names
