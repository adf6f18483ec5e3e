"""The judge of synthesised digits: which combinations are new, and what a listener is given."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

import nnc
from nnc.examples import understood
from nnc.runtime.data.formats.wave_file import read_samples


class Speaker:
    """Says a digit d in a voice v as samples (10·v + d)/100, fewer of them for a small digit."""

    def predict(self, speaker, digit, **options: Any) -> np.ndarray:
        assert options["model"] == "Speech" and options["tensor"] == "sound"
        sound = np.repeat((10 * speaker + digit + 1)[:, None] / 100, 12, axis=1)
        sound[np.arange(12) > digit[:, None]] = 0
        return sound


class Listener:
    """Hears how long a sound is."""

    def predict(self, names: list[str]) -> np.ndarray:
        counts = [len(read_samples(name)[0]) for name in names]
        return np.eye(10)[np.array(counts) - 1]


def test_every_combination_is_said_and_heard() -> None:
    voice, digit, sounds = understood.said(cast(nnc.Model, Speaker()), times=2)
    assert len(sounds) == 120 and len({*zip(voice.tolist(), digit.tolist(), strict=True)}) == 60
    assert (understood.heard(cast(nnc.Model, Listener()), sounds) == digit).all()


def test_folds_hold_out_every_combination_once() -> None:
    voice, digit = (np.ravel(one) for one in np.mgrid[:6, :10])
    folds = np.array([understood.held_out(voice, digit, fold) for fold in range(1, 6)])
    assert (folds.sum(0) == 1).all() and (folds.sum(1) == 12).all()
