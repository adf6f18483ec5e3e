"""Arrays and texts on disk, whole or not at all: written beside, then renamed.

In: arrays, texts, paths. Out: safetensors and JSON files, and arrays read back and checked. What
the arrays mean is `run_folder.py`'s business.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..dsl.diagnostics import fail


def write_bytes(path: Path, data: bytes) -> None:
    """The file has the new content or, whatever happens, the old. UserError E0709 if it cannot."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(data)  # not synced to the disk: that guards against power cuts, slowly
        os.replace(beside, path)
    except OSError as error:
        raise fail("E0709", f"cannot write {path}: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` wrote. UserError E0706 if it is not there or damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise fail("E0706", f"cannot read {path}: {_reason(error)}") from error


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], notes: Mapping[str, str]) -> None:
    """Arrays by name, with some text, as one safetensors file."""
    whole = {name: np.ascontiguousarray(array).reshape(array.shape)
             for name, array in arrays.items()}  # fmt: skip
    write_bytes(path, save(whole, dict(notes)))


def load_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the text of a safetensors file. UserError E0706 if it is not one."""
    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise fail("E0706", f"cannot read {path}: {_reason(error)}") from error


def check_arrays(
    path: Path, found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]
) -> None:
    """UserError E0706 unless the file holds every wanted array in its shape and type."""
    for name, array in wanted.items():
        if name not in found:
            raise fail("E0706", f"{path} has no `{name}`", help="is it of another program?")
        there = found[name]
        if there.shape != array.shape or there.dtype != array.dtype:
            raise fail("E0706", f"`{name}` in {path} is {there.dtype}{list(there.shape)}, and the "
                       f"program's is {array.dtype}{list(array.shape)}")  # fmt: skip


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
