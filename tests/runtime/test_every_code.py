"""Every code of a run, a file or a flag: a command that yields exactly it, where it says, and one
that does not. The codes of programs alone are held to the same in `language/test_catalogue.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scenes import SCENES, Scene
from support import one_in

from nnc.dsl.diagnostics.catalogue import catalogue
from nnc.runtime import cli


@pytest.fixture
def nnc(tmp_path, monkeypatch, capfd):
    """Runs a command line in an empty folder: what it says is wrong."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NNC_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(line: str) -> list[dict]:
        code = cli.run(["--error-format", "json", *line.split()])
        said = [t for t in capfd.readouterr().err.splitlines() if t.startswith('{"code"')]
        found = [one for one in map(json.loads, said) if one["severity"] != "note"]
        assert bool(code) == any(f["severity"] == "error" for f in found), (line, code, said)
        return found

    return call


def marked(found: dict, line: str) -> str:
    """The text at the place of a message."""
    if "file" not in found:
        return ""
    flags = line[line.find("--") :]
    text = flags if found["file"] == "command line" else Path(found["file"]).read_text("latin-1")
    lines = text.splitlines()
    if found["line"] != found["end_line"]:
        return lines[found["line"] - 1][found["column"] - 1 :]
    return lines[found["line"] - 1][found["column"] - 1 : found["end_column"] - 1]


@pytest.mark.parametrize("code", one_in(3, SCENES))
def test_a_command_yields_the_code_and_another_does_not(code, nnc, tmp_path, monkeypatch):
    scene: Scene = SCENES[code]
    if scene.package:
        pytest.importorskip(scene.package)
    for name, content in scene.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
    for line in scene.first:
        assert nnc(line) == []
    scene.spoil(tmp_path)
    with monkeypatch.context() as patch:
        scene.broken(patch)
        found = nnc(scene.wrong)
    assert {f["code"] for f in found} == {code}, found
    assert marked(found[0], scene.wrong) == scene.marked
    assert nnc(scene.right) == []


def test_every_code_has_a_scene_or_a_program():
    assert set(SCENES) == {code for code, entry in catalogue().items() if entry.example}
