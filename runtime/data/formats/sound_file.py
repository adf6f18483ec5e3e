"""Sound files of any kind, at the rate and with the channels that a model reads.

In: a path. Out: samples from -1 to 1, f64 [n, channels]. WAV is read here if its samples are plain;
FLAC, Ogg, MP3, AIFF and other samples in WAV by the package soundfile (libsndfile). One channel is
the mean of all that a file has. Another rate is resampled (`core/resample.py`), after the mean.
Tests: tests/runtime/test_sound_files.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ....dsl.files import reason
from ....dsl.regular_files import open_regular
from ..core.decompress import AGAIN, readable
from ..core.file_kinds import SOUND, UNKNOWN, kind_of
from ..core.resample import RATES, resample, resampled_length
from .wave_file import OtherSamples, read_header, read_samples

SUFFIXES = frozenset(
    {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au"}
)
WAV = "a WAV sound"  # as `kind_of` calls it


def read_sound(path: Path, rate: int, channels: int = 1) -> np.ndarray:
    """All samples, f64 [n, channels] from -1 to 1, so many per second; E0602, E0603, E0609, E0613,
    E0617 or E0620."""
    try:
        samples, found = read_samples(path) if _is_wave(path) else _read_other(path)
    except OtherSamples as other:
        samples, found = _read_other(path, str(other))
    if not np.isfinite(samples).all():
        raise fail("E0603", f"{path} holds samples that are not finite", help=AGAIN)
    _check(path, found, samples.shape[1], channels)
    if channels == 1:
        samples = samples.mean(axis=1, keepdims=True)
    return resample(samples, found, rate)


def sound_length(path: Path, rate: int, channels: int = 1) -> int:
    """How many samples `read_sound` gives for each channel, by the header; errors as there."""
    try:
        if not _is_wave(path):
            raise OtherSamples("")
        sound = read_header(path)
        count, found, has = sound.count, sound.rate, sound.channels
    except OtherSamples as other:
        # The header of an MP3 does not tell it, and that of others may be wrong.
        samples, found = _read_other(path, str(other))
        count, has = samples.shape
    _check(path, found, has, channels)
    return resampled_length(count, found, rate)


def _check(path: Path, rate: int, has: int, channels: int) -> None:
    if channels not in (1, has):
        raise fail(
            "E0620",
            f"{path} has {has} channel{'s' * (has != 1)}, and `channels` is {channels}",
            help="without `channels` their mean is read",
        )
    if rate not in RATES:
        limits = f"between {RATES[0]:,} and {RATES[-1]:,}"
        message = f"{path} has {rate:,} samples per second, and not {limits}"
        raise fail("E0620", message, help="is its header right?")


def _is_wave(path: Path) -> bool:
    """Whether a file is WAV. E0602 if it is no sound, E0603 if it is empty."""
    kind, name = kind_of(path)
    if kind != SOUND:
        if not path.stat().st_size:
            raise fail("E0603", f"{path} is empty", help=AGAIN)
        what = "no sound of a known format" if kind == UNKNOWN else f"{name} and no sound"
        raise fail("E0602", f"{path} is {what}")
    return name == WAV


def _read_other(path: Path, samples: str = "") -> tuple[np.ndarray, int]:
    """As `read_samples`, by soundfile; `samples` is how those of a WAV file are coded."""
    format = f"{kind_of(path)[1]} of {samples}" if samples else kind_of(path)[1]
    try:
        import soundfile  # an optional dependency
    except (ImportError, OSError) as error:  # an OSError if only its library is not there
        message = f"{path} is {format}, which needs the package soundfile"
        help = "install it with `pip install 'nnc-lang[audio]'`"
        raise fail("E0609", message, help=help) from error
    with readable(path), open_regular(path) as file:
        try:
            found, rate = soundfile.read(file, dtype="float64", always_2d=True)
        except soundfile.LibsndfileError as error:
            message = f"{path} is {format} that cannot be decoded: {reason(error)}"
            raise fail("E0603", message, help=AGAIN) from error
    if not len(found):
        raise fail("E0613", f"{path} holds no samples", help="remove it")
    return found, int(rate)
