"""A copy of all values to go back to: in memory, or of a large model in a file without a name.

In: the arrays of params and states. Out: the same bits, later. A second set of all values in memory
would be a quarter of what training a large model takes; a file that is written every few hundred
steps is not. Tests: tests/runtime/test_nonfinite.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...dsl.diagnostics.diagnostic import fail
from ...dsl.files import reason, unnamed_file

IN_MEMORY = 2**28  # bytes: of fewer values the copy is in memory


class ValuesCopy:
    """The values as of the last `take`. `folder` is where the file is made if there is one; where
    it cannot be written, the copy is in memory."""

    def __init__(self, values: Mapping[str, np.ndarray], folder: Path | None):
        self._names = list(values)
        self._arrays: dict[str, np.ndarray] = {}
        self._file: BinaryIO | None = None
        if sum(a.nbytes for a in values.values()) > IN_MEMORY:
            try:
                self._file = unnamed_file(folder)
                self._write(self._file, values)
                return
            except OSError:  # the disk is full, or nothing may be written there
                self._file = None
        # Allocated now and once, so that a later shortage cannot stop training.
        self._arrays = {name: array.copy() for name, array in values.items()}

    def take(self, values: Mapping[str, np.ndarray]) -> None:
        """Copy the values. UserError E0709 if the file cannot be written."""
        if self._file is None:
            for name, array in self._arrays.items():
                np.copyto(array, values[name])
            return
        try:
            self._write(self._file, values)
        except OSError as error:
            raise fail("E0709", f"the values cannot be copied: {reason(error)}") from error

    def _write(self, file: BinaryIO, values: Mapping[str, np.ndarray]) -> None:
        # From the second time on over what is there: that needs no more room on the disk.
        file.seek(0)
        for name in self._names:
            file.write(values[name].reshape(-1).view(np.uint8).data)
        file.flush()

    def restore(self, values: Mapping[str, np.ndarray]) -> None:
        """Write the copy into the arrays that it was taken of, or into others like them."""
        if self._file is not None:
            self._file.seek(0)
        for name in self._names:
            array = values[name]
            if self._file is None:
                np.copyto(array, self._arrays[name])
            else:
                found = np.fromfile(self._file, array.dtype, array.size)
                np.copyto(array, found.reshape(array.shape))
