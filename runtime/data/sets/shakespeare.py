"""`shakespeare()`: a million characters of Shakespeare's plays (public domain), as in `text`.

In: the file that is known as tiny Shakespeare, found on disk or downloaded. Out: as `text.py`
says; the customary last tenth validates. A file that the user has put there is not checked, so
that another text can stand in; what is downloaded is checked.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ....dsl.diagnostics.diagnostic import fail
from ..core.data_paths import ENVIRONMENT, check_explicit, known_set_folders, listed
from ..core.dataset import Dataset, Schema
from ..core.source import Request, Source
from ..formats.text import SETTINGS, describe_file, load_file, training_size, window_schema

NAME = "tinyshakespeare"
LENGTH = 128
COUNT, CHARACTERS = 1_115_394, 65
ADDRESS = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
CHECKSUM = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def describe(request: Request) -> Schema:
    """Reads the text if it is there; else what is known of it, and no number of byte pairs."""
    check_explicit(request.search)
    path = _look(request)
    if path is not None:
        return describe_file(request, path)
    length, kind = request["length"], request["vocabulary"]
    size = {"chars": CHARACTERS, "bytes": 256}.get(kind)
    training = training_size(COUNT, request["validation"])
    count = max(0, training - length - 1) // (request["stride"] or length) + 1 if size else None
    return window_schema(length, size, count)


def load(request: Request) -> Dataset:
    """Training and validation. E0601 if not found and offline, E0610 if the download fails."""
    check_explicit(request.search)
    return load_file(request, _look(request) or _missing(request), "shakespeare")


def _look(request: Request) -> Path | None:
    for folder in known_set_folders(request.search, NAME):
        names = [f"{NAME}.txt"] + ["input.txt"] * (folder.name == NAME)
        for path in (folder / spelling for name in names for spelling in (name, f"{name}.gz")):
            try:
                if path.is_file():
                    return path
            except OSError:  # a folder that may not be entered holds nothing for us
                continue
    return None


def _missing(request: Request) -> Path:
    if not request.search.offline:
        return _download(request)
    looked = listed(known_set_folders(request.search, NAME))
    raise fail(
        "E0601",
        f"the text of `shakespeare` is not on this machine; looked in {looked}",
        request.span,
        help=f"put it as {NAME}/input.txt into one of these folders, name theirs with `--data` or "
        f"${ENVIRONMENT}, or train once without `--offline`",
    )


def _download(request: Request) -> Path:
    from ..core.download import (
        download,  # only here: importing urllib takes longer than a start may
    )

    path = request.search.cache_folder / NAME / "input.txt"
    request.search.say(f"downloading {ADDRESS}")
    download(ADDRESS, path, CHECKSUM, request.span)
    return path


SHAKESPEARE = Source(
    "shakespeare",
    "plays of Shakespeare: token i32[length], target i32[length] one token later",
    tuple(replace(s, default=LENGTH) if s.name == "length" else s for s in SETTINGS),
    describe,
    load,
)
