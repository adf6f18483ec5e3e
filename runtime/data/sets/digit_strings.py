"""`digit_strings()`: spoken digits one after the other, for recognition without alignment (CTC).

In: the recordings of `spoken_digits.py`. Out: `frames` f32[length, mels] and `frames_length` i32;
`label` i32[digits], a digit d as d + 1, so that 0 is both the padding and the blank of CTC; and
`label_length` i32. Training strings consist of training recordings, test strings of test
recordings, of any speakers, without a pause. Which they are depends on the seed alone. `length` is
that of the longest string unless it is set; then a longer string is an error, since a truncated one
would not match its label.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from ....dsl.diagnostics.diagnostic import UserError, fail
from ..core.dataset import Dataset, Field, Schema, Split, validate
from ..core.padding import Sequences, pad
from ..core.source import DataSource, Request, Setting
from ..core.stored import in_memory
from ..core.vocabulary import Vocabulary
from ..formats.wav import MEL_SETTINGS, SoundReader, load_features, mel_of_request
from .spoken_digits import CLASSES, RATE, find_digits

SYMBOLS = Vocabulary("words", tuple(map(str, range(CLASSES))), ("<blank>",))


def describe(request: Request) -> Schema:
    """Makes the strings, if their length is not set or the recordings are on this machine."""
    try:
        return load(request).schema
    except UserError as error:
        # Without recordings, the fields are known all the same if `length` is set.
        if error.diagnostics[0].code != "E0601" or request["length"] is None:
            raise
    return _schema(request, request["length"])


def load(request: Request) -> Dataset:
    """Both splits. E0601 if the recordings are not there; other errors as `wav`."""
    mel = mel_of_request(request, RATE)
    sounds = find_digits(request)
    features, normal = load_features(request, sounds, mel)
    random = np.random.RandomState(request["seed"])
    most = request["digits"]
    # Draws in a fixed order, first all lengths, then string by string, so the seed decides all.
    strings = []  # of the rows of recordings, for each split
    for rows, count in ((sounds.train, request["count"]), (sounds.test, request["test_count"])):
        sizes = random.randint(1, most + 1, count)
        strings.append([rows[random.randint(len(rows), size=size)] for size in sizes])
    # Of each split a list of strings, [frames, mels] each, the digits' frames in sequence.
    joined = [
        [np.concatenate([features[row] for row in string]) for string in split] for split in strings
    ]
    needed = max(len(string) for split in joined for string in split)
    length = request["length"] or needed
    if length < needed:
        message = f"the longest string has {needed} frames, and `length` is {length}"
        raise fail("E0615", message, request.span_of("length"))

    known = {"label": SYMBOLS}
    schema = _schema(request, length)
    reader = SoundReader(**asdict(mel), size=length, length="frames_length", is_cut=False, **normal)

    def split(number: int) -> Split:
        arrays = in_memory(reader.arrays(Sequences.of(joined[number])))
        joined[number] = []  # so that the features of both splits are not in memory twice
        # CTC reserves 0 for the blank.
        labels = [sounds.labels[string] + 1 for string in strings[number]]
        label, label_length = pad(labels, most)
        return Split({**arrays, "label": label, "label_length": label_length})

    splits = split(0), split(1)
    return validate(Dataset("digit_strings", schema, *splits, vocabularies=known, reader=reader))


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


DIGIT_STRINGS = DataSource(
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
