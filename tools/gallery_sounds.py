"""What the examples that make sounds have learnt, as pictures and sounds for the gallery.

In: a trained example. Out: a drawing, 640 pixels wide; WAV files in docs/sounds; and what the run
itself does not measure.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from drawing import Svg
from gallery_pictures import WIDTH
from gallery_runs import Trained
from gallery_sequences import spectrogram

from nnc.examples import prompts_compared
from nnc.examples.understood import RATE, TIMES, heard, held_out, said
from nnc.runtime.data.formats.wave_file import wave_bytes

SOUNDS = Path(__file__).parents[1] / "docs" / "sounds"
SHOWN = ((1, 9), (4, 6))  # voices and digits of which the network has heard no recording

# sounds, and what they say, which the network has never heard
PROMPTS = {
    "leave.wav": "to leave the conference",
    "try_again.wav": "please try again",
}


def write_sound(name: str, sound: np.ndarray) -> None:
    SOUNDS.mkdir(exist_ok=True)
    (SOUNDS / name).write_bytes(wave_bytes(np.trim_zeros(sound, "b"), RATE))


def speaking_digits(trained: Trained) -> Svg:
    """Recordings of a voice that says a digit, beside what the network says, which has heard the
    voice and the digit, but never this voice say this digit."""
    voices, digits = trained.held_out("speaker"), trained.held_out("digit")
    names = trained.dataset.class_names["speaker"]
    picture = Svg(WIDTH, 390, "Digits in voices that were never heard to say them")
    for n, (voice, digit) in enumerate(SHOWN):
        row = int(np.flatnonzero((voices == voice) & (digits == digit))[3])
        given = [
            trained.held_out(field, slice(row, row + 1))
            for field in ("sound", "length", "digit", "speaker")
        ]
        real = trained.model.predict(*given, tensor=["target", "frames"])
        pair = np.array([voice], np.int32), np.array([digit], np.int32)
        tensors = ["spectrum", "frames", "sound"]
        made = trained.model.predict(*pair, model="Speech", tensor=tensors, seed=1)
        write_sound(f"{digit}_{names[voice]}.wav", made["sound"][0])
        left = 45 + 305 * n
        for top, title, found, name in (
            (40, f"{names[voice].title()} says {digit}", real, "target"),
            (225, f"and the network, in that voice, {digit}", made, "spectrum"),
        ):
            length = int(found["frames"][0])
            picture.text(left, top - 10, title, 13)
            shown = found[name][0, :length, :128]
            spectrogram(picture, (left, top, 2.7 * length, 140), shown)
    return picture


def understood(trained: Trained) -> dict[str, float]:
    """The share of what is said that spoken_digits.nn understands: of combinations that trained,
    and of those that did not."""
    listener = Trained("spoken_digits", trained.run.parent / "spoken_digits", trained.data)
    listener.train([])
    voice, digit, sounds = said(trained.model, TIMES)
    right, new = heard(listener.model, sounds) == digit, held_out(voice, digit, 1)
    return {"understood": float(right[~new].mean()), "new_understood": float(right[new].mean())}


def ctc_prompts(trained: Trained) -> Svg:
    """A prompt that was held out, and where the network hears which characters and which words."""
    lengths, counts = trained.held_out("frames_length"), trained.held_out("label_length")
    found = trained.model.predict(trained.held_out("frames"), lengths)
    names, characters = trained.tokens("label"), trained.tokens("letters")
    row = int(np.flatnonzero((counts >= 8) & (lengths < 210))[0])
    length = int(lengths[row])
    label = " ".join(names[t] for t in trained.held_out("label")[row][: counts[row]])
    said = " ".join(names[t] for t in found["said"][row][: found["count"][row]])
    picture = Svg(WIDTH, 300, "A prompt, read by CTC")
    picture.text(50, 20, f"said: {label}", 14)
    picture.text(50, 40, f"read: {said}", 14)
    spectrogram(picture, (50, 55, 560, 140), trained.held_out("frames")[row, :length])
    for top, steps, tokens, logits, size in (
        (220, (length + 1) // 2, characters, found["spelt"][row], 13),
        (260, (length + 3) // 4, names, found["logits"][row], 14),
    ):
        best = [0, *logits[:steps].argmax(1)]
        # the first moments of characters or words; every other word stands lower
        begins = [s for s in range(steps) if best[s + 1] not in (0, best[s])]
        for number, step in enumerate(begins):
            token = tokens[best[step + 1]]
            left = min(50 + 560 * step / steps, 615 - 8 * len(token))
            picture.text(left, top + (number % 2) * 20 * (tokens is names), token, size)
    return picture


def speaking_prompts(trained: Trained) -> Svg:
    """Recordings that were held out, and below each what the network makes of its text."""
    text, count = trained.held_out("label"), trained.held_out("label_length")
    names = trained.tokens("label")
    texts = ["".join(names[t] for t in row[:n]) for row, n in zip(text, count, strict=True)]
    picture = Svg(WIDTH, 400, "Prompts that were never heard in training")
    for n, (name, wanted) in enumerate(PROMPTS.items()):
        row = texts.index(wanted)
        one = slice(row, row + 1)
        length = int(trained.held_out("frames_length", one)[0])
        made = trained.model.predict(
            text=text[one],
            count=count[one],
            model="Prompt",
            tensor=["energy", "frames", "sound"],
            seed=1,
        )
        frames = int(made["frames"][0])
        write_sound(name, prompts_compared.cut(made["sound"], made["frames"])[0])
        for left, title, shown in (
            (40, wanted, trained.held_out("frames", one)[0, :length]),
            (350, "the network", made["energy"][0, :frames]),
        ):
            picture.text(left, 20 + 195 * n, title, 13)
            spectrogram(picture, (left, 30 + 195 * n, 1.5 * len(shown), 140), shown)
    return picture


def distortions(trained: Trained) -> dict[str, float]:
    """Mel-cepstral distortions of what is synthesised, and of what it is compared with."""
    return prompts_compared.distortions(trained.model, trained.dataset)


# what is measured of a run beside its own metrics
MEASURES = {"speaking_digits": understood, "speaking_prompts": distortions}
