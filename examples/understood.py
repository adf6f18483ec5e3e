"""Is what speaking_digits.nn says understood? By spoken_digits.nn, which knows real recordings.

    nnc train examples/spoken_digits.nn --out runs/listener
    nnc train examples/speaking_digits.nn --out runs/speaker
    python -m nnc.examples.understood runs/speaker runs/listener

Every digit is synthesised in every voice five times, with different noise, written as WAV files and
classified by the recogniser. Combinations of a voice and a digit that were not in the training data
are reported separately; for a run with `--set fold=2` the last argument is 2.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import nnc
from nnc.runtime.data.formats.wave_file import wave_bytes

VOICES, DIGITS, TIMES, FOLDS, RATE = 6, 10, 5, 5, 8000


def said(speaker: nnc.Model, times: int = TIMES) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The voices, the digits and the sounds [n, samples] of every combination, `times` times."""
    pairs = np.array([(v, d) for v in range(VOICES) for d in range(DIGITS) for _ in range(times)])
    voice, digit = pairs.T.astype(np.int32)
    sounds = speaker.predict(speaker=voice, digit=digit, model="Speech", tensor="sound", seed=1)
    return voice, digit, np.asarray(sounds)


def heard(listener: nnc.Model, sounds: np.ndarray) -> np.ndarray:
    """The digits that sounds are taken for."""
    with tempfile.TemporaryDirectory() as folder:
        names = [Path(folder) / f"{n}.wav" for n in range(len(sounds))]
        for name, sound in zip(names, sounds, strict=True):
            name.write_bytes(wave_bytes(np.trim_zeros(sound, "b"), RATE))
        return np.asarray(listener.predict([str(name) for name in names])).argmax(1)


def held_out(voice: np.ndarray, digit: np.ndarray, fold: int) -> np.ndarray:
    """Whether a combination is none that trained, as `digit_sounds(fold = …)` divides them."""
    return (voice + digit) % FOLDS == fold - 1


def main() -> None:
    speaker, listener, *rest = sys.argv[1:]
    voice, digit, sounds = said(nnc.load(speaker))
    right = heard(nnc.load(listener), sounds) == digit
    new = held_out(voice, digit, int(rest[0]) if rest else 1)
    for name, rows in (("heard before", ~new), ("held out", new)):
        print(f"{name:<13} {right[rows].mean():6.1%} of {rows.sum()} understood")


if __name__ == "__main__":
    main()
