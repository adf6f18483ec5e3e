"""Sounds as samples, for models that compute their own spectra or write sounds.

In: files of sounds. Out: `sound` f32[size], samples from -1 to 1 with zeros behind the sound, and
`length` i32, how many of them count; longer sounds are cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ....dsl.diagnostics.diagnostic import Report
from ..core.file_kinds import SOUND
from ..core.padding import pad
from ..core.reader import NewExamples, NewFile, listed, noted
from ..core.resample import RATES
from ..core.source import MAX_COUNT
from .sound_file import SUFFIXES, read_sound


@dataclass(frozen=True)
class SampleReader:
    """Sounds as their first `size` samples, `rate` in a second."""

    rate: int
    size: int

    kind: ClassVar[str] = "samples"
    file_kinds: ClassVar[tuple[str, ...]] = (SOUND,)
    suffixes: ClassVar[frozenset[str]] = SUFFIXES
    example: ClassVar[str] = "one.wav"
    fields: ClassVar[tuple[str, ...]] = ("sound", "length")

    def __post_init__(self) -> None:
        """ValueError for what no source of sounds allows."""
        if self.rate not in RATES or not 0 < self.size <= MAX_COUNT:
            raise ValueError(f"{self.size} samples, {self.rate} in a second")

    @property
    def takes(self) -> str:
        return f"sounds, which become {self.rate} samples per second"

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def samples(self, path: Path) -> np.ndarray:
        """All samples of a file, f32 [n]; errors as `read_sound`."""
        return read_sound(path, self.rate)[:, 0].astype(np.float32)

    def read(self, files: Sequence[NewFile], cache: Path) -> NewExamples:
        """The samples of sounds; UserError with what is wrong in any of them."""
        report, found = Report(), []
        for file in files:
            with noted(report):
                found.append(self.samples(file.path))
        report.check()
        cut = [f.name for f, one in zip(files, found, strict=True) if len(one) > self.size]
        notes = (f"cut at {self.size} samples: {listed(cut)}",) if cut else ()
        sound, lengths = pad(found, self.size)
        names = tuple(file.name for file in files)
        return NewExamples({"sound": sound, "length": lengths}, names, notes=notes)
