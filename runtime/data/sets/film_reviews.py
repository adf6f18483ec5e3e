"""`film_reviews()`: 10,566 sentences of reviews of films, each with what 20 people made of it.

C. J. Hutto, E. Gilbert, "VADER: a parsimonious rule-based model for sentiment analysis of social
media text", 2014, who had the sentences of B. Pang, L. Lee, 2005, "Seeing stars", judged from -4 to
4. They are read from `movieReviewSnippets_GroundTruth.txt`, from the archive
`hutto_ICWSM_2014.tar.gz` that has it, or from the source distribution of the Python package
vaderSentiment that has that: `pip download --no-deps --no-binary :all: vaderSentiment==3.3.2` in a
folder of the data. Nothing of it is installed, downloaded or copied.

Out: `token` i32[length], `length` i32, the tokens that count, as for `lines`; `label` i32, 1 where
the mean of the judgements is above 0, else 0; `score` f32, the mean. Of the 10,605 sentences 37
with a mean of exactly 0, which has no sign, are left out, and 2 that have the words of an earlier
one. The file does not say which sentences are of one review or film; all are divided at random into
ten parts of equal size, the same on every machine. The part `fold` tests, the next one (after the
tenth the first) validates, and eight train; what tokens there are is found in these eight."""

from __future__ import annotations

import io
import tarfile
import zlib
from math import isfinite
from pathlib import Path

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ....dsl.regular_files import open_regular
from ..core.data_paths import ENVIRONMENT, first_file
from ..core.dataset import Dataset, Field, Schema, split_dataset
from ..core.decompress import AGAIN, readable
from ..core.encodings import decoded
from ..core.padding import Sequences
from ..core.source import DataSource, Request, Setting
from ..core.vocabulary import PAD, UNKNOWN, WORD
from ..formats.encoded_rows import VOCABULARY_SETTINGS, encoded_texts, vocabulary_of
from ..formats.new_lines import LineReader

FOLDS = 10
LABELS = ("negative", "positive")
HIGHEST = 4  # of a judgement; the lowest is the negative of it
TEXT = "movieReviewSnippets_GroundTruth.txt"
INNER = "hutto_ICWSM_2014.tar.gz"
OUTER = "vaderSentiment-3.3.2.tar.gz"
COMMAND = "pip download --no-deps --no-binary :all: vaderSentiment==3.3.2"
MAX_BYTES = 1 << 24  # of a file in an archive; the largest has 2.5 MB


def describe(request: Request) -> Schema:
    """Reads the sentences, as length and vocabulary depend on them."""
    return load(request).schema


def load(request: Request) -> Dataset:
    """All three splits. E0601 if the sentences are not found, E0602 for a line that is none of
    theirs, E0603 for a damaged archive, E0613 or E0617."""
    path = _find(request)
    texts, scores = read_sentences(path)
    parts = fold_rows(len(texts), request["fold"])
    vocabulary = vocabulary_of(request, (texts[row] for row in parts[0]), (PAD, UNKNOWN))
    tokens = Sequences.of(encoded_texts(request, texts, vocabulary))
    length = request["length"] or tokens.longest
    reader = LineReader(length, request["lowercase"], "\t", False, LABELS, {"token": vocabulary})
    fields = (
        Field("token", "i32", (length,), len(vocabulary)),
        Field("length", "i32", ()),
        Field("label", "i32", (), len(LABELS)),
        Field("score", "f32", ()),
    )
    arrays = {**reader.arrays(tokens), "label": (scores > 0).astype(np.int32), "score": scores}
    return split_dataset(
        "film_reviews",
        fields,
        arrays,
        parts,
        class_names={"label": LABELS},
        vocabularies={"token": vocabulary},
        reader=reader,
        memory=request.search.memory,
    )


def fold_rows(count: int, fold: int) -> list[np.ndarray]:
    """The rows that train, test and validate, ascending, when the part `fold`, from 1, tests."""
    # RandomState and not default_rng: NumPy promises never to change its stream.
    part = np.empty(count, np.int64)
    part[np.random.RandomState(0).permutation(count)] = np.arange(count) % FOLDS
    test, validation = part == fold - 1, part == fold % FOLDS
    return [np.flatnonzero(rows) for rows in (~(test | validation), test, validation)]


def read_sentences(path: Path) -> tuple[list[str], np.ndarray]:
    """The sentences and their scores f32 [n]: each once, and none with a score of 0."""
    found: dict[tuple[str, ...], tuple[str, float]] = {}
    text = decoded(_unpacked(path), "utf-8", path)
    lines = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    for number, line in enumerate(lines, 1):
        score, sentence = _parsed(line, path, number)
        # Two are the same that differ in capitals and marks alone: the one would give away the
        # other if they were in different parts.
        words = tuple(word for word in WORD.findall(sentence.lower()) if word[0].isalnum())
        if score:
            found.setdefault(words, (sentence, score))
    if len(found) < FOLDS:
        message = f"{path} has {len(found)} sentences that are judged; {FOLDS} parts need more"
        raise fail("E0613", message)
    sentences, scores = zip(*found.values(), strict=True)
    return list(sentences), np.array(scores, np.float32)


def _parsed(line: str, path: Path, number: int) -> tuple[float, str]:
    """The score and the sentence of a line; E0602 if it is none of the set."""
    cells = line.split("\t")
    try:
        _, mean, sentence = cells
        score = float(mean)
        if isfinite(score) and abs(score) <= HIGHEST and sentence.strip():
            return score, sentence.strip()
    except ValueError:
        pass
    raise fail(
        "E0602",
        f"{path}:{number} is not a number, a mean from -{HIGHEST} to {HIGHEST} and a sentence, "
        "divided by tabs",
        help=f"the set is in the file {TEXT} of {INNER}",
    )


# --- where the file is ----------------------------------------------------------------------------


def _find(request: Request) -> Path:
    """The file of sentences, or an archive that it is in; E0601 if there is none."""
    search = request.search
    for folder in search.set_folders("film_reviews"):
        # How the package is spelt in the names of its archives differs between tools.
        path = first_file(folder, (TEXT, INNER, OUTER, OUTER.lower()))
        if path is not None:
            return search.checked(path)
    raise search.set_missing(
        "film_reviews",
        "the sentences of `film_reviews` are",
        f"run `{COMMAND}` in one of these folders; another one is named with `--data` or "
        f"${ENVIRONMENT}",
    )


def _unpacked(path: Path) -> bytes:
    """The bytes of the file of sentences, out of one archive or two."""
    with readable(path), open_regular(path) as file:
        data = file.read()
    # The source distribution has an archive in it.
    for name in {TEXT: (), INNER: (TEXT,)}.get(path.name, (INNER, TEXT)):
        data = _member(data, name, path)
    return data


def _is_called(member: tarfile.TarInfo, name: str) -> bool:
    return member.isfile() and member.name.rpartition("/")[2] == name


def _member(archive: bytes, name: str, path: Path) -> bytes:
    """The bytes of the file called `name` in an archive; E0603 if it is damaged or lacks it."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
            for member in opened:
                file = opened.extractfile(member) if _is_called(member, name) else None
                if file is not None:
                    return file.read(MAX_BYTES)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise fail("E0603", f"{path} does not unpack: {error}", help=AGAIN) from error
    raise fail("E0603", f"{path} has no file {name}", help=f"`{COMMAND}` fetches it")


FILM_REVIEWS = DataSource(
    "film_reviews",
    "sentences on films: token i32[length], length i32, label i32, score f32",
    (
        Setting("fold", "count", "which of the ten parts tests", 1, tuple(range(1, FOLDS + 1))),
        Setting("length", "count", "the most tokens of a sentence (the longest one's)", None),
        *VOCABULARY_SETTINGS,
    ),
    describe,
    load,
)
