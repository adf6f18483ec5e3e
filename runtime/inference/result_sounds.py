"""Results that are sounds, as WAV files of 16 bits: one for each example.

In: an array [n, samples] of reals from -1 to 1 among the results. Out: `seven.wav` of one example;
of twelve `seven-00.wav` to `seven-11.wav`. Zeros at the end, which stand behind a shorter sound,
are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...compiler.ir.lazy_numpy import np
from ...dsl.diagnostics.diagnostic import fail
from ..data.core.resample import RATES
from ..data.formats.wave_file import wave_bytes
from ..training.atomic_files import write_bytes
from .readable import listed

if TYPE_CHECKING:
    from ..data.recorded import Recorded

ENDING = ".wav"


def rate_of(path: Path | None, recorded: Recorded | None, stated: int | None) -> int | None:
    """The samples per second of a .wav: what is stated, or those of the sounds that trained; None
    if no sound is written. UserError E0716 if nothing says it, or if it is stated for no sound."""
    if path is None or path.suffix.lower() != ENDING:
        if stated is not None:
            where = path or "standard output"
            raise fail("E0716", f"`--rate` is that of a .wav, and the result goes to {where}")
        return None
    # the readers of sounds have it
    rate: int | None = stated or getattr(recorded and recorded.reader, "rate", None)
    if rate is None:
        message = f"nothing says how many samples of {path} are a second"
        raise fail("E0716", message, help="the run was not trained on sounds: add `--rate 8000`")
    if rate not in RATES:
        message = f"{rate:,} samples per second are not between {RATES[0]:,} and {RATES[-1]:,}"
        raise fail("E0716", message)
    return rate


def write_sounds(path: Path, results: Mapping[str, np.ndarray], rate: int) -> list[str]:
    """Write the sound among the results, and say what was written. UserError E0716 if there is not
    just one or if it has no finite samples, E0709 if a file cannot be written."""
    name = _sound_of(path, results)
    sounds = results[name]
    for row, sound in enumerate(sounds):
        if not np.isfinite(sound).all():
            of = f" of example {row}" * (len(sounds) > 1)
            raise fail("E0716", f"`{name}`{of} holds samples that are not finite")
    width = len(str(len(sounds) - 1))
    files = [
        path if len(sounds) == 1 else path.with_name(f"{path.stem}-{row:0{width}}{path.suffix}")
        for row in range(len(sounds))
    ]
    longest = 0
    for file, sound in zip(files, sounds, strict=True):
        # A file has one sample at least: players refuse those without.
        heard = sound[: max(1, len(np.trim_zeros(sound, "b")))]
        longest = max(longest, len(heard))
        write_bytes(file, wave_bytes(heard, rate))
    remarks = [_written(name, files, longest / rate)]
    loud = int((np.abs(sounds) > 1).sum())
    if loud:
        remarks.append(f"{loud} samples of `{name}` are beyond -1 to 1, and were cut there")
    return remarks


def _written(name: str, files: list[Path], seconds: float) -> str:
    if len(files) == 1:
        return f"{name}: a sound of {seconds:.2f} s in {files[0]}"
    return f"{name}: {len(files)} sounds of up to {seconds:.2f} s in {files[0]} to {files[-1]}"


def _sound_of(path: Path, results: Mapping[str, np.ndarray]) -> str:
    """The name of the result that is a sound: the only one of reals [n, samples]."""
    fitting = [n for n, r in results.items() if r.ndim == 2 and r.dtype.kind == "f"]
    if len(fitting) == 1:
        return fitting[0]
    message = f"{path} holds sounds, reals [n, samples], and there are {listed(results)}"
    if fitting:
        message = f"{path} holds one sound of each example, and there are {listed(results)}"
    raise fail("E0716", message, help="`--tensor NAME` takes one of them" if fitting else "")
