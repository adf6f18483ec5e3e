"""What is installed: the versions of packages, without importing them, and nnc's own texts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_PACKAGE = str(Path(__file__).resolve().parents[1])
_TEXTS = (".py", ".nn", ".toml")


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


@cache
def texts_digest(folder: str) -> str:
    """A hash of the texts in a folder of nnc's own package: what is kept of one compiler is not
    found by a changed one."""
    digest = hashlib.sha256()
    for path in sorted(_texts(os.path.join(_PACKAGE, folder))):
        with open(path, "rb", buffering=0) as file:
            content = file.read()
        digest.update(f"{path[len(_PACKAGE) :]} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _texts(folder: str) -> Iterator[str]:
    # `pathlib` takes three times as long, and this is part of every start.
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _texts(entry.path)
            elif entry.name.endswith(_TEXTS):
                yield entry.path
