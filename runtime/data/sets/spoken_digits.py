"""`spoken_digits()`: 3,000 recordings of ten digits by six speakers, as features (see `wav.py`).

In: the recordings of the Free Spoken Digit Dataset (Z. Jackson and others, CC BY-SA 4.0), found on
disk. Out: `frames` f32[length, mels], `length` i32, `label` i32. The customary split: of each digit
and speaker, takes 0 to 4 test. The set is not downloaded, since it comes as thousands of files.
"""

from __future__ import annotations

from pathlib import Path

from ....dsl.diagnostics.diagnostic import fail
from ..core.data_paths import ENVIRONMENT, check_explicit, known_set_folders, listed
from ..core.dataset import Dataset, Field, Schema
from ..core.source import Request, Setting, Source
from ..formats.wav import (
    MEL_SETTINGS,
    Sounds,
    describe_sounds,
    list_sounds,
    load_sounds,
    mel_of_request,
)

NAME = "spoken_digits"
ORIGIN = "https://github.com/Jakobovski/free-spoken-digit-dataset"
PATTERN, LABEL, TEST, RATE = "{digit}_{speaker}_{take}.wav", "digit", "take < 5", 8000
TRAINING, CLASSES = 2700, 10
LENGTH = 100  # frames: a second; 17 of the 3,000 recordings are longer, 226 at most


def describe(request: Request) -> Schema:
    """Lists the recordings if they are there; else what is known of them."""
    check_explicit(request.search)
    mel = mel_of_request(request, RATE)
    if _look(request) is None:
        frames = Field("frames", "f32", (request["length"], mel.mels))
        fields = (frames, Field("length", "i32", ()), Field("label", "i32", (), CLASSES))
        return Schema(fields, TRAINING)
    return describe_sounds(request, find_digits(request), mel)


def load(request: Request) -> Dataset:
    """Both splits. E0601 if the recordings are not there; other errors as `wav`."""
    mel = mel_of_request(request, RATE)
    return load_sounds(request, find_digits(request), mel, NAME)


def find_digits(request: Request) -> Sounds:
    """The recordings; E0601 if they are in none of the places for known sets."""
    check_explicit(request.search)
    folder = _look(request)
    if folder is not None:
        return list_sounds(request, folder, PATTERN, LABEL, TEST)
    looked = listed(known_set_folders(request.search, NAME))
    raise fail(
        "E0601",
        f"the spoken digits are not on this machine; looked in {looked}",
        request.span,
        help=f"copy the folder `recordings` of {ORIGIN} into one of these, or name theirs with "
        f"`--data` or ${ENVIRONMENT}",
    )


def _look(request: Request) -> Path | None:
    """The first folder that holds a recording by its canonical name."""
    for folder in known_set_folders(request.search, NAME):
        for place in (folder / "recordings", folder):
            try:
                if next(place.glob("[0-9]_*_0.wav"), None) is not None:
                    return place
            except OSError:  # a folder that may not be entered holds nothing for us
                continue
    return None


SPOKEN_DIGITS = Source(
    NAME,
    "spoken digits as log-mel features: frames f32[length, mels], length i32, label i32",
    (Setting("length", "count", "the most frames of a recording", LENGTH), *MEL_SETTINGS),
    describe,
    load,
)
