"""`shakespeare()`: a million characters of Shakespeare's plays (public domain), as in `text`.

In: the file known as tiny Shakespeare, found on disk or downloaded. Out: as `text.py`; the last
tenth validates, as is customary. A user's own file is not checked, so that another text can replace
it; a downloaded file is checked.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from ..core.data_paths import ENVIRONMENT, first_file
from ..core.dataset import Dataset, Schema
from ..core.decompress import readable
from ..core.source import DataSource, Request
from ..formats.text import (
    SETTINGS,
    describe_files,
    load_files,
    window_count,
    window_schema,
)
from ..formats.text_tokens import training_length

NAME = "tinyshakespeare"
LENGTH = 128
COUNT, CHARACTERS = 1_115_394, 65
ADDRESS = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
CHECKSUM = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def describe(request: Request) -> Schema:
    """Reads the text if it is found; else what is known of it, which for byte pairs is no size."""
    path = _find(request)
    if path is not None:
        return describe_files(request, {"train": (path,)})
    # Nothing is downloaded to describe a source. Characters and bytes are as many as the text has
    # (it is ASCII), but how many byte pairs there will be depends on learning them.
    length, kind = request["length"], request["vocabulary"]
    size = {"chars": CHARACTERS, "bytes": 256}.get(kind)
    training = training_length(COUNT, request["validation"])
    count = window_count(training, request["stride"] or length, length) if size else None
    return window_schema(length, size, count)


def load(request: Request) -> Dataset:
    """Training and validation. E0601 if not found and offline, E0610 if the download fails."""
    search, path = request.search, _find(request)
    if path is None and search.offline:
        help = (
            f"put it as {NAME}/input.txt into one of these folders, name theirs with `--data` or "
            f"${ENVIRONMENT}, or train once without `--offline`"
        )
        raise search.set_missing(NAME, "the text of `shakespeare` is", help)
    path = path or search.fetch(ADDRESS, search.cache_folder / NAME / "input.txt", CHECKSUM)
    return load_files(request, {"train": (path,)}, "shakespeare")


def _find(request: Request) -> Path | None:
    for folder in request.search.set_folders(NAME):
        # `input.txt` is too common a name to be taken for this text in a folder of any other name.
        names = [f"{NAME}.txt"] + ["input.txt"] * (folder.name == NAME)
        path = first_file(folder, [spelling for n in names for spelling in (n, f"{n}.gz")])
        # The copy that was downloaded is known to the bit; the user's own may be another edition.
        own = folder == request.search.cache_folder / NAME
        if path is not None and not (own and _damaged(path)):
            return request.search.checked(path)
    return None


def _damaged(path: Path) -> bool:
    with readable(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() != CHECKSUM


SHAKESPEARE = DataSource(
    "shakespeare",
    "plays of Shakespeare: token i32[length], target i32[length] one token later",
    tuple(replace(s, default=LENGTH) if s.name == "length" else s for s in SETTINGS),
    describe,
    load,
)
