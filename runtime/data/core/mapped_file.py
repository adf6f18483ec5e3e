"""Files that arrays are mapped from, which may be cut short while they are in use."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ....compiler.ir.lazy_numpy import np
from ....dsl.diagnostics.diagnostic import UserError, fail
from ....dsl.files import reason
from ....dsl.records import record

State = tuple[int, int]


def below(array: object) -> Iterator[object]:
    """An array, what it is a view of, and so on, down to what holds the memory."""
    base: object = array
    # Windows are views of an object that is no array, and which has the array in turn.
    while base is not None:
        yield base
        base = getattr(base, "base", None)


@record
class MappedFile:
    """The file that an array is mapped from, and the length that it must have."""

    mapping: mmap.mmap
    name: str
    needed: int

    @staticmethod
    def of(array: object) -> MappedFile | None:
        """None if the array lies in memory."""
        # A view of a mapped array can be one as well; the last is the whole, on its mapping.
        *_, mapping = below(array)
        if not isinstance(mapping, mmap.mmap):
            return None
        whole = MappedFile._whole(array)  # type: ignore[arg-type]
        return MappedFile(mapping, str(whole.filename), whole.offset + whole.nbytes)

    def check(self) -> None:
        """Raise E0603 if the file has been cut short since: to read on would end the process with a
        bus error. E0617 if it cannot be asked."""
        try:
            found = self.mapping.size()  # of the file now; its `len` is what was mapped
        except (OSError, ValueError) as error:
            raise fail("E0617", f"cannot look at {self.name}: {error}") from error
        if found < self.needed:
            raise self._cut(found)

    def _cut(self, found: int) -> UserError:
        return fail(
            "E0603",
            f"{self.name} has been cut short while it was in use: it has {found:,} bytes, and "
            f"had at least {self.needed:,}",
            help="put another file in its place under a temporary name and rename it",
        )

    # ── reading without the mapping ─────────────────────────────────────────────────────────────

    @staticmethod
    def _whole(array: np.ndarray) -> np.memmap:
        return [one for one in below(array) if isinstance(one, np.memmap)][-1]

    def begin(self, array: np.ndarray) -> int:
        """Where in the file an array begins that is mapped from it."""
        whole = self._whole(array)
        return whole.offset + array.ctypes.data - whole.ctypes.data

    def state(self) -> State | None:
        """What tells the file from others of its name; None if it has no name."""
        try:
            found = os.stat(self.name)
        except (OSError, ValueError):
            return None
        return (found.st_dev, found.st_ino) if found.st_size == self.mapping.size() else None

    @contextmanager
    def opened(self, state: State | None) -> Iterator[int]:
        """The open file. E0603 if there is another of its name, E0617 if it cannot be opened."""
        try:
            handle = os.open(self.name, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise fail("E0617", f"cannot read {self.name}: {reason(error)}") from error
        try:
            found = os.fstat(handle)
            if (found.st_dev, found.st_ino) != state:
                message = f"{self.name} has been replaced while it was in use"
                raise fail("E0603", message, help="go on with `nnc train --resume`")
            yield handle
        finally:
            os.close(handle)

    def read(self, handle: int, out: memoryview, place: int) -> None:
        """Fill `out` with the bytes of the open file from a place on; E0603 or E0617."""
        done = 0
        while done < len(out):
            try:
                count = os.preadv(handle, [out[done:]], place + done)
            except OSError as error:
                raise fail("E0617", f"cannot read {self.name}: {reason(error)}") from error
            if not count:
                raise self._cut(place + done)
            done += count

    def release(self) -> None:
        """Give the pages back that were read; they are read again, or found in the system's cache
        of files, when they are touched."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.mapping.madvise(mmap.MADV_DONTNEED)


def check_mapped(array: object) -> None:
    """As `MappedFile.check`, if the array is mapped from a file."""
    if file := MappedFile.of(array):
        file.check()
