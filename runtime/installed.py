"""What is installed: the versions of packages, without importing them, and nnc's own texts."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_TEXTS = (".py", ".nn", ".toml", ".trees")


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
def texts_digest(*folders: str) -> str:
    """A hash of the texts in these folders of nnc's own package: what is cached of one compiler is
    not found by a changed one."""
    package, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for folder in folders:
        for path in sorted(package.joinpath(folder).rglob("*")):
            if path.suffix in _TEXTS and path.is_file():
                content = path.read_bytes()
                digest.update(f"{path.relative_to(package)} {len(content)}\n".encode() + content)
    return digest.hexdigest()
