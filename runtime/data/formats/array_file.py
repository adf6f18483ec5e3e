"""Arrays that a user gives by hand, as `nnc predict` takes them.

In: a path of an `.npy` array or an `.npz` archive, told apart by their first bytes. Out: the array,
or the arrays by name, as the sources `npy` and `npz` read them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ....dsl.regular_files import open_regular
from ..core.decompress import readable
from ..core.file_kinds import TEXT, UNKNOWN, kind_of
from .npz import ARCHIVE_STARTS, read_archive
from .numpy_format import MAGIC_PREFIX, map_npy, npy_header


def read_arrays(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """The array or arrays of a file; E0602, E0603, E0607, E0611, E0613, E0617 or E0713."""
    with readable(path), open_regular(path) as file:
        start = file.read(len(MAGIC_PREFIX))
    if start == MAGIC_PREFIX:
        return map_npy(path, npy_header(path))
    if start[:4] in ARCHIVE_STARTS:
        return read_archive(path)
    kind, format = kind_of(path)
    what = f"begins with {start!r}: it is" if kind in (TEXT, UNKNOWN) else f"is {format},"
    raise fail(
        "E0602",
        f"{path} {what} neither an .npy array nor an .npz archive",
        help="write it with `numpy.save` or `numpy.savez`",
    )
