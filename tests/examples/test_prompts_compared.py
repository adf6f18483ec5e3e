"""The comparison of synthesised prompts with recordings: which frames, and which is nearer."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

import nnc
from nnc.examples import prompts_compared as judge
from nnc.runtime.data.core.dataset import Dataset, Schema, Split

SIZE, LENGTHS = 12, np.array([10, 12, 5], np.int32)


def tones() -> list[np.ndarray]:
    """A tone of another height in each sound."""
    ends = (LENGTHS - 1) * judge.MEL.step + judge.MEL.window
    return [0.3 * np.sin(0.4 * (n + 1) * np.arange(end)) for n, end in enumerate(ends)]


class Speaker:
    """Says the tones."""

    def predict(self, text, count, **options: Any) -> dict[str, np.ndarray]:
        assert options["model"] == "Prompt" and len(text) == len(count) == 3
        sounds = np.zeros((3, (SIZE + 3) * judge.MEL.step + judge.MEL.window), np.float32)
        for row, sound in zip(sounds, tones(), strict=True):
            row[: len(sound)] = sound
        return {"sound": sounds, "frames": LENGTHS}


def data(**arrays: np.ndarray) -> Dataset:
    split = Split({name: array for name, array in arrays.items()})
    return Dataset("prompts", Schema((), 3), split, split)


def test_sounds_end_with_their_frames() -> None:
    sounds = Speaker().predict(np.zeros((3, 1)), LENGTHS, model="Prompt")["sound"]
    for sound, tone in zip(judge.cut(sounds, LENGTHS), tones(), strict=True):
        assert np.allclose(sound, tone, atol=1e-6)
    frames, lengths = judge.energies(tones(), SIZE)
    assert (lengths == LENGTHS).all() and frames.shape == (3, SIZE, judge.MEL.mels)
    assert frames[2, :5].all() and not frames[2, 5:].any()


@pytest.mark.slow
def test_what_is_said_is_nearer_than_a_copy_and_that_than_another() -> None:
    frames, lengths = judge.energies(tones(), SIZE)
    text = np.zeros((3, SIZE), np.int32)
    prompts = data(frames=frames, frames_length=lengths, label=text, label_length=LENGTHS)
    found = judge.distortions(cast(nnc.Model, Speaker()), prompts)
    # the tones themselves; what Griffin and Lim make of them is nearer than another
    assert found["spoken"] < 0.01 < found["copied"] < found["unrelated"]
