"""`digit_strings()`: spoken digits one after the other, for recognition without alignment (CTC).

In: the recordings of `spoken_digits.py`. Out: `frames` f32[length, mels] and `frames_length` i32;
`label` i32[digits], a digit d as d + 1, so that 0 is both the padding and the blank of CTC; and
`label_length` i32. Training strings join only training recordings, test strings only test ones, of
any speakers, without a pause. Which digits and recordings they join depends on the seed alone.
Without `length` the longest string decides; with it, a longer one is an error, since a string that
is cut no longer holds what its label says.
"""

from __future__ import annotations

import numpy as np

from ....dsl.diagnostics.diagnostic import UserError, fail
from ..core.dataset import Dataset, Field, Schema, Split, validate
from ..core.padding import longest, padded
from ..core.source import Request, Setting, Source
from ..core.vocabulary import Vocabulary
from ..formats.wav import MEL_SETTINGS, load_features, mel_of_request
from .spoken_digits import CLASSES, RATE, find_digits

SYMBOLS = Vocabulary("words", tuple(map(str, range(CLASSES))), ("<blank>",))


def describe(request: Request) -> Schema:
    """Makes the strings, if their length is not given or the recordings are there."""
    try:
        return load(request).schema
    except UserError as error:
        if error.diagnostics[0].code != "E0601" or request["length"] is None:
            raise
    return _schema(request, request["length"])


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
    joined = {
        part: [np.concatenate([features[row] for row in string]) for string in strings]
        for part, strings in made.items()
    }
    needed = max(longest(strings) for strings in joined.values())
    length = request["length"] or needed
    if length < needed:
        raise fail(
            "E0615",
            f"the longest string has {needed} frames, and `length` is {length}",
            request.span_of("length"),
        )
    splits = {}
    for part, strings in made.items():
        frames, frames_length = padded(joined.pop(part), length)
        label, label_length = padded([sounds.labels[string] + 1 for string in strings], most)
        splits[part] = Split(
            {
                "frames": frames,
                "frames_length": frames_length,
                "label": label,
                "label_length": label_length,
            }
        )
    dataset = Dataset(
        "digit_strings",
        _schema(request, length),
        splits["train"],
        splits["test"],
        vocabularies={"label": SYMBOLS},
    )
    return validate(dataset, request.span)


def _schema(request: Request, length: int) -> Schema:
    return Schema(
        (
            Field("frames", "f32", (length, request["mels"])),
            Field("frames_length", "i32", ()),
            Field("label", "i32", (request["digits"],), len(SYMBOLS)),
            Field("label_length", "i32", ()),
        ),
        request["count"],
    )


DIGIT_STRINGS = Source(
    "digit_strings",
    "strings of spoken digits: frames f32[length, mels], label i32[digits], and their lengths",
    (
        Setting("count", "count", "strings that train", 2000),
        Setting("test_count", "count", "strings that test", 300),
        Setting("digits", "count", "the most digits in a string", 4),
        Setting("length", "count", "frames of a string, with padding (the longest's)", None),
        *MEL_SETTINGS,
        Setting("seed", "seed", "of the strings", 0),
    ),
    describe,
    load,
)
