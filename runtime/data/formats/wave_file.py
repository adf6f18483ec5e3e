"""WAV files of 16-bit samples in one channel.

In: a path and the samples per second that it must have. Out: the number of samples, or the samples
as i16. Every other kind of file is an error; nothing is resampled, mixed or widened.
"""

from __future__ import annotations

import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ....dsl.diagnostics.diagnostic import UserError, fail
from ....dsl.files import reason
from ..core.decompress import AGAIN


def count_samples(path: Path, rate: int) -> int:
    """The number of samples that the header states; E0602, E0603, E0613, E0617 or E0620."""
    with _opened(path, rate) as file:
        return file.getnframes()


def read_samples(path: Path, rate: int) -> np.ndarray:
    """All samples, i16 [n] from -32768 to 32767; errors as `count_samples`."""
    # The header is checked against what is there: `readframes` returns less without a word.
    with _opened(path, rate) as file:
        stated = file.getnframes()
        raw = file.readframes(stated)
    # A file may end within a sample of two bytes; the odd byte is dropped before the count.
    found = np.frombuffer(raw[: len(raw) // 2 * 2], "<i2")
    if len(found) < stated:
        message = f"{path} is cut off: {len(found)} samples, and its header promises {stated}"
        raise fail("E0603", message, help=AGAIN)
    return found


@contextmanager
def _opened(path: Path, rate: int) -> Iterator[wave.Wave_read]:
    try:
        with open(path, "rb") as raw, wave.open(raw) as file:
            _check(file, path, rate)
            yield file
    except UserError:
        raise
    # The `wave` module raises EOFError without a message where a header ends early.
    except EOFError as error:
        empty = not path.stat().st_size
        message = f"{path} is {'empty' if empty else 'cut off within its header'}"
        raise fail("E0603", message, help=AGAIN) from error
    except (wave.Error, RuntimeError) as error:  # the latter for sizes beyond the file
        raise _unreadable(path, error) from error
    except OSError as error:
        raise fail("E0617", f"cannot read {path}: {reason(error)}") from error


def _unreadable(path: Path, error: Exception) -> UserError:
    """A file that is not WAV, or does not hold plain samples, or is damaged."""
    # `wave` has one exception for all, so the start of the file tells what it is.
    start = path.read_bytes()[:12]
    if start[:4] != b"RIFF" or start[8:12] != b"WAVE":
        return fail("E0602", f"{path} is not a WAV file: it begins with {start!r}")
    if str(error).startswith("unknown format"):
        message = f"{path} holds something else than plain 16-bit samples ({error})"
        return fail("E0620", message, help="convert it to 16-bit PCM")
    return fail("E0603", f"{path} is damaged: {reason(error)}", help=AGAIN)


def _check(file: wave.Wave_read, path: Path, rate: int) -> None:
    # Nothing is resampled or mixed down: that has choices, which are not made silently.
    channels, bits, found = file.getnchannels(), 8 * file.getsampwidth(), file.getframerate()
    if channels != 1:
        message = f"{path} has {channels} channels, not one"
        raise fail("E0620", message, help="mix it down to mono")
    if bits != 16:
        message = f"{path} has samples of {bits} bits, not 16"
        raise fail("E0620", message, help="convert it to 16-bit PCM")
    if found != rate:
        message = f"{path} has {found} samples per second, and `rate` is {rate}"
        hint = f"write `rate = {found}` if all files have that, or resample this one"
        raise fail("E0620", message, help=hint)
    if not file.getnframes():
        raise fail("E0613", f"{path} holds no samples", help="remove it")
