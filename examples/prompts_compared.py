"""How near comes what speaking_prompts.nn says to the recordings of prompts that were held out?

    nnc train examples/speaking_prompts.nn --out runs/reader
    python -m nnc.examples.prompts_compared runs/reader

Each of them is synthesised from its text and compared with its recording by mel-cepstral
distortion, in decibels, after dynamic time warping. Beside it stand what the algorithm of Griffin
and Lim makes of the recording's own energies, the best that can be had, and another prompt.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import nnc
from nnc.runtime.data import Dataset, Search
from nnc.runtime.data.core.mel import Mel, bands, log_mel
from nnc.runtime.project import load_dataset, open_project

MEL = Mel(rate=8000, mels=40, frame=0.032, hop=0.010)
COMPARED = """
model Compared(x: f32[B, T, 40], y: f32[B, T, 40], x_length: i32[B], y_length: i32[B])
    -> distortion: f32 {
    distortion = mel_cepstral_distortion(x, y, x_length, y_length)
}
"""
COPIED = """
model Copied(energy: f32[B, T, 40], length: i32[B]) -> sound: f32[B, (T - 1) * 80 + 256] {
    loud[b, t, k] = if t < length[b] then exp(energy[b, t, k]) else 0
    power = mel_powers(loud, 129, 8000)
    sound = griffin_lim(sqrt(power), 80)
}
"""


def cut(sounds: np.ndarray, frames: np.ndarray) -> list[np.ndarray]:
    """Sounds [n, samples] without what is behind their frames."""
    ends = (frames - 1) * MEL.step + MEL.window
    return [sound[:end] for sound, end in zip(sounds, ends, strict=True)]


def energies(sounds: Sequence[np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of energies f32 [n, size, 40] of sounds, and the number of frames of each."""
    weights = bands(MEL)
    found = [log_mel(sound, MEL, weights)[:size] for sound in sounds]
    padded = np.zeros((len(found), size, MEL.mels), np.float32)
    for row, frames in zip(padded, found, strict=True):
        row[: len(frames)] = frames
    return padded, np.array([len(frames) for frames in found], np.int32)


def computed(program: str, *arrays: np.ndarray) -> np.ndarray:
    """What a program without parameters makes of arrays."""
    model = nnc.loads(program)
    model.init(*arrays)
    return np.asarray(model.predict(*arrays, seed=1))


def distortion(x: tuple[np.ndarray, np.ndarray], y: tuple[np.ndarray, np.ndarray]) -> float:
    """The mel-cepstral distortion of energies and their numbers of frames from others."""
    return float(computed(COMPARED, x[0], y[0], x[1], y[1]))


def copied(energy: np.ndarray, frames: np.ndarray) -> list[np.ndarray]:
    """Sounds of energies f32 [n, T, 40], with phases by Griffin and Lim."""
    return cut(computed(COPIED, energy, frames), frames)


def said(speaker: nnc.Model, text: np.ndarray, count: np.ndarray) -> list[np.ndarray]:
    """What the speaker makes of characters i32 [n, longest] and their numbers [n]."""
    found = speaker.predict(
        text=text, count=count, model="Prompt", tensor=["sound", "frames"], seed=1
    )
    return cut(found["sound"], found["frames"])


def distortions(speaker: nnc.Model, prompts: Dataset) -> dict[str, float]:
    """Of what is synthesised, copied, and unrelated, in decibels."""
    assert prompts.test is not None
    held_out, trained = prompts.test.arrays, prompts.train.arrays
    frames, lengths = held_out["frames"][:], held_out["frames_length"][:]
    text, count = (np.asarray(held_out[n][:], np.int32) for n in ("label", "label_length"))
    recorded, size = (frames, lengths), frames.shape[1]
    rows = np.random.RandomState(1).randint(len(prompts.train), size=len(text))
    others = trained["frames"][:][rows], trained["frames_length"][:][rows]
    return {
        "spoken": distortion(energies(said(speaker, text, count), size), recorded),
        "copied": distortion(energies(copied(frames, lengths), size), recorded),
        "unrelated": distortion(others, recorded),
    }


def main() -> None:
    speaker, *data = sys.argv[1:]
    path = Path(__file__).parent / "speaking_prompts.nn"
    prompts = load_dataset(open_project(path), Search(Path(data[0]) if data else None, path.parent))
    found = distortions(nnc.load(speaker), prompts)
    for name, of in (
        ("spoken", "synthesised from the text"),
        ("copied", "from the recording's own energies"),
        ("unrelated", "another prompt"),
    ):
        print(f"{of:<34} {found[name]:5.2f} dB")


if __name__ == "__main__":
    main()
