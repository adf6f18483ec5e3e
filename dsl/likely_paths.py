"""What a path may stand for that leads nowhere: `modle.nn`, `exmaples/model.nn`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .diagnostics.diagnostic import closest


def likely_path(path: Path, fits: Callable[[Path], bool] = Path.exists) -> Path | None:
    """The path of a similar name in its folder, or the same in a folder of a similar name, that
    `fits`; None if there is none."""
    with suppress(OSError, ValueError):  # a folder that cannot be read; a name with a NUL
        if path.parent.is_dir():
            meant = closest(path.name, [each.name for each in path.parent.iterdir() if fits(each)])
            return path.with_name(meant) if meant else None
        # Where the parent is missing, too: the root and the current folder never are.
        parent = likely_path(path.parent, Path.is_dir)
        if parent is not None:
            found = parent / path.name
            return found if fits(found) else likely_path(found, fits)
    return None


def did_you_mean_path(path: Path, fits: Callable[[Path], bool] = Path.exists) -> str:
    """Help that names that path; "" if there is none."""
    found = likely_path(path, fits)
    return f"did you mean `{found}`?" if found is not None else ""
