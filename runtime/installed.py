"""The versions of packages that are installed, without importing them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def installed_version(package: str) -> str:
    """The version of a package; empty if it is not installed.

    It is part of the name of the folder that installers write beside the package; asking
    `importlib.metadata` takes longer than a small program is compiled."""
    found = find_spec(package)
    if found is None or found.origin is None:
        return ""
    names = [path.stem for path in Path(found.origin).parents[1].glob(f"{package}-*.dist-info")]
    if len(names) == 1:
        return names[0].removeprefix(f"{package}-")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""
