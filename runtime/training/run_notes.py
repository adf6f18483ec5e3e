"""What `settings.json` of a run says: everything that the run depends on."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ... import __version__
from ...compiler.elaboration.train_block import Setup
from ...dsl.diagnostics.diagnostic import fail
from ..data import Dataset
from ..data.recorded import recorded
from ..device.cpu import host
from ..installed import installed_version
from ..project import Project
from ..settings import settings_json
from .surroundings import surroundings

SAVED = "nnc.Model.save"  # the command of a model that was saved from Python


def run_notes(
    project: Project,
    setup: Setup,
    examples: int,
    device: str,
    threads: int,
    data: Path | None,
    base: Path,
    command: str = "",
) -> dict[str, Any]:
    """The notes of a run on so many `examples`; the `command` is that of this process unless it is
    given."""
    return {
        "model": project.name,
        "settings": settings_json(project.settings),
        "examples": examples,
        # The types of the data's fields, so that `predict` and `generate` need no data.
        "fields": {n: [f.dtype, list(f.shape)] for n, f in (setup.fields or {}).items()},
        "device": device,
        "threads": threads,
        # Absolute, since a run may be resumed from another folder.
        "data_folder": str(data.resolve()) if data else None,
        "data_base": str(base.resolve()),
        "versions": {
            "nnc": __version__,
            "python": platform.python_version(),
            **{name: installed_version(name) or "unknown" for name in ("numpy", "llvmlite")},
        },
        "target": host.target().name if device == "cpu" else device,
        "command": command or shlex.join(["nnc", *sys.argv[1:]]),
        "directory": str(Path.cwd()),
        **surroundings(base),
    }


def inputs_note(project: Project, dataset: Dataset) -> dict[str, Any]:
    """How files became the data, for `predict`; as JSON gives it back."""
    source = project.settings.data.source if project.settings.data else ""
    plain: dict[str, Any] = json.loads(json.dumps(recorded(dataset, source).plain()))
    return plain


def check_goes_on(path: Path, notes: Mapping[str, Any]) -> None:
    """UserError E0706 for a model that was saved from Python: it has weights, and no place in a
    training to go on from."""
    if notes["command"] == SAVED:
        raise fail(
            "E0706",
            f"{path} is a model that was saved from Python, and no interrupted run",
            help=f"train a new run from its weights: `nnc train {path / 'model.nn'} --init {path}`",
        )
