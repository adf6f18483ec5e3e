"""`spoken_digits()`: 3,000 recordings of ten digits by six speakers, as features (see `wav.py`).

In: the recordings of the Free Spoken Digit Dataset (Z. Jackson and others, CC BY-SA 4.0), found on
disk. Out: `frames` f32[length, mels], `length` i32, `label` i32. The customary split: of each digit
and speaker, takes 0 to 4 test. The set is not downloaded, since it consists of thousands of files.
"""

from __future__ import annotations

from pathlib import Path

from ..core.data_paths import ENVIRONMENT
from ..core.dataset import Dataset, Schema
from ..core.source import DataSource, Request, Setting
from ..formats.wav import (
    MEL_SETTINGS,
    SoundFiles,
    describe_sounds,
    list_sounds,
    load_sounds,
    mel_of_request,
    sound_fields,
)

NAME = "spoken_digits"
ORIGIN = "https://github.com/Jakobovski/free-spoken-digit-dataset"
PATTERN, LABEL, TEST, RATE = "{digit}_{speaker}_{take}.wav", "digit", "take < 5", 8000
TRAINING, CLASSES = 2700, 10
LENGTH = 100  # frames: a second; 17 of the 3,000 recordings are longer, 226 at most


def describe(request: Request) -> Schema:
    """Lists the recordings if they are found; else what is known of them."""
    mel = mel_of_request(request, RATE)
    # Without recordings, the customary split and the set's size are known beforehand.
    if not has_digits(request):
        return Schema(sound_fields(mel, request["length"], CLASSES, request), TRAINING)
    return describe_sounds(request, find_digits(request), mel)


def load(request: Request) -> Dataset:
    """Both splits. E0601 if the recordings are not found; other errors as `wav`."""
    mel = mel_of_request(request, RATE)
    return load_sounds(request, find_digits(request), mel, NAME)


def find_digits(request: Request) -> SoundFiles:
    """The recordings; E0601 if they are in none of the folders of well-known sets."""
    folder = _find(request)
    if folder is not None:
        return list_sounds(request, folder, PATTERN, LABEL, TEST)
    help = (
        f"copy the folder `recordings` of {ORIGIN} into one of these, or name theirs with "
        f"`--data` or ${ENVIRONMENT}"
    )
    raise request.search.set_missing(NAME, "the spoken digits are", help)


def has_digits(request: Request) -> bool:
    """Whether the recordings are on this machine."""
    return _find(request) is not None


def _find(request: Request) -> Path | None:
    """The first folder that holds a recording by its canonical name."""
    for folder in request.search.set_folders(NAME):
        # A checkout of the original has the folder `recordings`; a copy may hold just the files.
        for place in (folder / "recordings", folder):
            try:
                if next(place.glob("[0-9]_*_0.wav"), None) is not None:
                    return request.search.checked(place)
            except OSError:  # the folder may not be entered
                continue
    return None


SPOKEN_DIGITS = DataSource(
    NAME,
    "spoken digits as log-mel features: frames f32[length, mels], length i32, label i32",
    (Setting("length", "count", "the most frames of a recording", LENGTH), *MEL_SETTINGS),
    describe,
    load,
)
