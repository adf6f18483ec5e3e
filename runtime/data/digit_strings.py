"""`digit_strings()`: spoken digits one after the other, for recognition without alignment (CTC).

In: the recordings of `spoken_digits.py`. Out: `frames` f32[length, mels] and `frames_length` i32;
`label` i32[digits], a digit d as d + 1, so that 0 is both the padding and the blank of CTC; and
`label_length` i32. Training strings join only training recordings, test strings only test ones, of
any speakers, without a pause. Which digits and recordings they join depends on the seed alone.
"""

from __future__ import annotations

import numpy as np

from .dataset import Dataset, Field, Schema, Split, validate
from .padding import longest, padded
from .source import Request, Setting, Source
from .spoken_digits import CLASSES, RATE, find_digits
from .wav import MEL_SETTINGS, load_features, mel_of_request

NAMES = ("<blank>", *map(str, range(CLASSES)))


def describe(request: Request) -> Schema:
    """Makes the strings, whose length depends on what is drawn; features come from the cache."""
    return load(request).schema


def load(request: Request) -> Dataset:
    """Both splits. E0601 if the recordings are not there; other errors as `wav`."""
    mel = mel_of_request(request, RATE)
    sounds = find_digits(request)
    features = load_features(request, sounds, mel)
    random = np.random.RandomState(request["seed"])
    most = request["digits"]
    made = {}
    for part, rows, count in (
        ("train", sounds.train, request["count"]),
        ("test", sounds.test, request["test_count"]),
    ):
        sizes = random.randint(1, most + 1, count)
        made[part] = [rows[random.randint(len(rows), size=size)] for size in sizes]
    joined = {part: [np.concatenate([features[row] for row in string]) for string in strings]
              for part, strings in made.items()}  # fmt: skip
    length = max(longest(strings) for strings in joined.values())
    splits = {}
    for part, strings in made.items():
        frames, frames_length = padded(joined.pop(part), length)
        label, label_length = padded([sounds.labels[string] + 1 for string in strings], most)
        splits[part] = Split({"frames": frames, "frames_length": frames_length,
                              "label": label, "label_length": label_length})  # fmt: skip
    schema = Schema((
        Field("frames", "f32", (length, mel.mels)),
        Field("frames_length", "i32", ()),
        Field("label", "i32", (most,), len(NAMES)),
        Field("label_length", "i32", ()),
    ), request["count"])  # fmt: skip
    dataset = Dataset("digit_strings", schema, splits["train"], splits["test"],
                      class_names={"label": NAMES})  # fmt: skip
    return validate(dataset, request.span)


DIGIT_STRINGS = Source(
    "digit_strings",
    "strings of spoken digits: frames f32[length, mels], label i32[digits], and their lengths",
    (
        Setting("count", "count", "strings that train", 2000),
        Setting("test_count", "count", "strings that test", 300),
        Setting("digits", "count", "the most digits in a string", 4),
        *MEL_SETTINGS,
        Setting("seed", "seed", "of the strings", 0),
    ),
    describe,
    load,
)
