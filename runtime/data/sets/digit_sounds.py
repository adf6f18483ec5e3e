"""`digit_sounds()`: spoken digits as samples, with their speakers, for models that speak.

In: the recordings of `spoken_digits.py`. Out: `sound` f32[length], samples from -1 to 1, 8,000 in a
second, with zeros behind the recording; `length` i32, how many of them count; `digit` i32 and
`speaker` i32, numbered in alphabetical order. Tests are combinations of a speaker and a digit that
do not train: of the 60 the 12 with (speaker + digit) % 5 = fold - 1, so that every speaker and
every digit trains, and the folds 1 to 5 test all. Longer recordings are cut.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..core.dataset import Dataset, Field, Schema, split_dataset
from ..core.label_numbers import number_labels
from ..core.padding import pad
from ..core.source import DataSource, Request, Setting
from ..formats.samples import SampleReader
from .spoken_digits import CLASSES, RATE, find_digits, has_digits

NAME, FOLDS = "digit_sounds", 5
SPEAKERS, TRAINING = 6, 2400  # of the set as it is published
LENGTH = 6592  # samples: 0.8 s, in which 95 % of the recordings end


def describe(request: Request) -> Schema:
    """Lists the recordings if they are found; else what is known of them."""
    if not has_digits(request):
        return Schema(_fields(request, SPEAKERS), TRAINING)
    digits, _, speakers, names = _labels(request)
    return Schema(_fields(request, len(names)), int((~_tests(request, speakers, digits)).sum()))


def load(request: Request) -> Dataset:
    """Both splits. E0601 if the recordings are not found; other errors as `wav`."""
    digits, files, speakers, names = _labels(request)
    reader = SampleReader(RATE, request["length"])
    sounds = [reader.samples(file) for file in files]
    cut = sum(len(one) > request["length"] for one in sounds)
    if cut:
        message = f"{cut} of {len(sounds)} sounds of {NAME} are cut at {request['length']} samples"
        request.search.notify(message)
    sound, length = pad(sounds, request["length"])
    tests = _tests(request, speakers, digits)
    return split_dataset(
        NAME,
        _fields(request, len(names)),
        {"sound": sound, "length": length, "digit": digits, "speaker": speakers},
        (np.flatnonzero(~tests), np.flatnonzero(tests)),
        class_names={"speaker": names},
        reader=reader,
    )


def _labels(request: Request) -> tuple[np.ndarray, tuple[Path, ...], np.ndarray, tuple[str, ...]]:
    """The digit and the speaker of every recording, with the names of the speakers."""
    sounds = find_digits(request)
    # `find_digits` has checked that all names are {digit}_{speaker}_{take}.wav
    speakers, names = number_labels([file.stem.split("_")[1] for file in sounds.files])
    return sounds.labels, sounds.files, speakers, names


def _tests(request: Request, speakers: np.ndarray, digits: np.ndarray) -> np.ndarray:
    """Whether a recording is of a combination that tests."""
    tests: np.ndarray = (speakers + digits) % FOLDS == request["fold"] - 1
    return tests


def _fields(request: Request, speakers: int) -> tuple[Field, ...]:
    return (
        Field("sound", "f32", (request["length"],)),
        Field("length", "i32", ()),
        Field("digit", "i32", (), CLASSES),
        Field("speaker", "i32", (), speakers),
    )


DIGIT_SOUNDS = DataSource(
    NAME,
    "spoken digits as samples: sound f32[length], length i32, digit i32, speaker i32",
    (
        Setting("fold", "count", "which fifth of the combinations tests", 1, (1, 2, 3, 4, 5)),
        Setting("length", "count", "the most samples of a recording", LENGTH),
    ),
    describe,
    load,
)
