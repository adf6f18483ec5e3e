"""`wav("recordings", pattern = "{word}_{take}.wav", label = "word")`: short sounds by class.

In: a folder of WAV files (16 bits, one channel, all at `rate`), whose names follow `pattern`; it
may have `/` for folders within. Out: `frames` f32[length, mels], the features of `mel.py`, with
zeros behind the sound; `length` i32, the frames that count; `label` i32, numbering the values of
the name's part `label` in order. `test` is a condition on the parts of the name, or a share.

With `normalize`, every feature has mean 0 and deviation 1 over the frames of the training sounds,
so that the zeros of the padding are means. Without `length`, the longest sound decides; with it,
longer ones are cut at their end, and how many is said. Features are kept in the user's cache, by
the names, sizes and times of the files.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ..core.data_paths import check_explicit, find_folder
from ..core.dataset import Dataset, Field, Schema, Split, validate
from ..core.decompress import readable
from ..core.feature_cache import keep, recall
from ..core.mel import LARGEST, VERSION, Mel, bands, log_mel
from ..core.name_pattern import Pattern, read_condition, read_pattern
from ..core.padding import padded
from ..core.source import Request, Setting, Source
from ..core.splitting import split_rows
from .lines import numbered
from .wave_file import count_samples, read_samples

MEL_SETTINGS = (
    Setting("mels", "count", "features of a frame", 40),
    Setting("frame", "positive", "seconds in a frame", 0.025),
    Setting("hop", "positive", "seconds from one frame to the next", 0.010),
    Setting("normalize", "bool", "features with mean 0 and deviation 1 in training", True),
)


@dataclass(frozen=True, eq=False)
class Sounds:
    """The files of a folder, in alphabetical order, and which of them train and test."""

    folder: Path
    files: tuple[Path, ...]
    labels: np.ndarray
    names: tuple[str, ...]  # of the labels
    train: np.ndarray
    test: np.ndarray


def describe(request: Request) -> Schema:
    """Lists the folder; opens the files' headers only if `length` is not given."""
    return describe_sounds(request, _sounds(request), mel_of_request(request, request["rate"]))


def load(request: Request) -> Dataset:
    """All splits. E0601 to E0603, E0613, E0615, E0617, E0620 or E0621 if that cannot be."""
    mel = mel_of_request(request, request["rate"])
    return load_sounds(request, _sounds(request), mel, request["folder"])


def _sounds(request: Request) -> Sounds:
    check_explicit(request.search)
    folder = find_folder(request.search, request["folder"], request.span_of("folder"))
    return list_sounds(request, folder, request["pattern"], request["label"], request["test"])


def describe_sounds(request: Request, sounds: Sounds, mel: Mel) -> Schema:
    """The schema of listed sounds; `request` has `length`."""
    length, span = request["length"], request.span
    if length is None:
        length = max(mel.frames(count_samples(file, mel.rate, span)) for file in sounds.files)
    return _schema(sounds, mel, length)


def load_sounds(request: Request, sounds: Sounds, mel: Mel, name: str) -> Dataset:
    """The dataset of listed sounds; `request` has `length` and `normalize`."""
    features = load_features(request, sounds, mel)
    length = request["length"] or max(map(len, features))
    frames, lengths = padded(features, length)
    cut = sum(len(one) > length for one in features)
    if cut:
        request.search.say(f"{cut} of {len(features)} sounds of {name} are cut at {length} frames")
    arrays = {"frames": frames, "length": lengths, "label": sounds.labels}
    train, test = (
        Split({name: array[part] for name, array in arrays.items()})
        for part in (sounds.train, sounds.test)
    )
    dataset = Dataset(
        name,
        _schema(sounds, mel, length),
        train,
        test if len(test) else None,
        class_names={"label": sounds.names},
    )
    return validate(dataset, request.span)


def _schema(sounds: Sounds, mel: Mel, length: int) -> Schema:
    return Schema(
        (
            Field("frames", "f32", (length, mel.mels)),
            Field("length", "i32", ()),
            Field("label", "i32", (), len(sounds.names)),
        ),
        len(sounds.train),
    )


# ── files ────────────────────────────────────────────────────────────────────────────────────────


def list_sounds(
    request: Request, folder: Path, pattern_text: str, label: str, test: float | str
) -> Sounds:
    """The sounds of a folder. E0613, E0615, E0617 or E0621 if the folder or a setting is wrong."""
    pattern = read_pattern(pattern_text, request.span_of("pattern"))
    if label not in pattern.names:
        message = f"`label` names `{label}`, and the pattern has {', '.join(pattern.names)}"
        raise fail("E0615", message, request.span_of("label"))
    condition = None
    if isinstance(test, str):
        condition = read_condition(test, pattern, request.span_of("test"))
    files, facts = _matching(folder, pattern, request)
    labels, names = numbered([fact[label] for fact in facts])
    if condition is None:
        train, tests = split_rows(len(files), float(test), request["seed"], labels)
    else:
        held = np.array([condition(fact) for fact in facts])
        train, tests = np.flatnonzero(~held), np.flatnonzero(held)
    for part, rows in (("training", train), ("testing", tests)):
        if not len(rows) and (part == "training" or condition):
            message = f"`test = {test!r}` leaves no sounds of {folder} for {part}"
            raise fail("E0613", message, request.span_of("test"))
    return Sounds(folder, tuple(files), labels, names, train, tests)


def _matching(
    folder: Path, pattern: Pattern, request: Request
) -> tuple[list[Path], list[dict[str, str]]]:
    """The files with the pattern's ending, in capitals, too, all of which must follow it."""
    suffix, span = Path(pattern.text).suffix, request.span_of("folder")
    with readable(folder, span):
        deep = folder.rglob("*") if "/" in pattern.text else folder.iterdir()
        every = [path for path in deep if path.name[0] != "."]
    by_name = {
        path.relative_to(folder).as_posix(): path
        for path in every
        if path.suffix.lower() == suffix.lower()
    }
    if not by_name:
        endings = sorted({f"`{path.suffix}`" for path in every if path.suffix})
        raise fail(
            "E0613",
            f"{folder} holds no files that end in `{suffix}`",
            span,
            help=f"it has {', '.join(endings[:5])}" if endings else "",
        )
    facts = {name: pattern.facts(name) for name in sorted(by_name)}
    strange = [name for name, fact in facts.items() if fact is None]
    if len(strange) == len(facts):
        message = f"no name in {folder} follows `{pattern.text}`: the first is `{strange[0]}`"
        raise fail("E0621", message, request.span_of("pattern"), help="change the pattern")
    if strange:
        message = f"the name `{strange[0]}` in {folder} does not follow `{pattern.text}`"
        raise fail("E0621", message, span, help="rename it or move it away")
    return [by_name[name] for name in facts], [fact for fact in facts.values() if fact]


# ── features ─────────────────────────────────────────────────────────────────────────────────────


def mel_of_request(request: Request, rate: int) -> Mel:
    """The settings of the features; E0615 if there are more bands than a frame can tell apart."""
    mel = Mel(rate, request["mels"], request["frame"], request["hop"])
    wrong = mel.window > LARGEST or mel.mels > mel.transform
    if wrong or not bands(mel).any(axis=1).all():
        raise fail(
            "E0615",
            f"`mels = {mel.mels}` does not go with a frame of {mel.window} samples: "
            + (
                f"there may be {LARGEST} in one"
                if mel.window > LARGEST
                else "some bands are narrower than its resolution"
            ),
            request.span_of("mels"),
            help="choose fewer, or a longer `frame`" * (mel.window <= LARGEST),
        )
    return mel


def load_features(request: Request, sounds: Sounds, mel: Mel) -> list[np.ndarray]:
    """The features of every sound, f32 [frames, mels], normalized if the request says so."""
    whole, ends = _features(request, sounds, mel)
    if request["normalize"]:
        training = np.zeros(len(ends), bool)
        training[sounds.train] = True
        chosen = whole[np.repeat(training, np.diff(ends, prepend=0))]
        mean = chosen.mean(axis=0, dtype=np.float64)
        deviation = chosen.std(axis=0, dtype=np.float64)
        whole = ((whole - mean) / np.maximum(deviation, 1e-5)).astype(np.float32)
    return np.split(whole, ends[:-1])


def _features(request: Request, sounds: Sounds, mel: Mel) -> tuple[np.ndarray, np.ndarray]:
    """All frames one after the other, and where each sound's end."""
    cache, span = request.search.cache_folder, request.span
    with readable(sounds.folder, span):
        states = [(str(file), file.stat()) for file in sounds.files]
    about = "\n".join(f"{name}\0{one.st_size}\0{one.st_mtime_ns}" for name, one in states)
    key = f"{VERSION} {asdict(mel)} {sounds.folder.resolve()}\n{about}"
    found = recall(cache, "log_mel", key)
    if found is not None:
        return found["frames"], found["ends"]
    weights = bands(mel)
    pieces = [
        log_mel(read_samples(file, mel.rate, span) / 32768, mel, weights) for file in sounds.files
    ]
    whole, ends = np.concatenate(pieces), np.cumsum([len(piece) for piece in pieces])
    keep(cache, "log_mel", key, {"frames": whole, "ends": ends})
    return whole, ends


WAV = Source(
    "wav",
    "sounds as log-mel features: frames f32[length, mels], length i32, label i32",
    (
        Setting("folder", "text", "the folder", positional=True),
        Setting("pattern", "text", "how names are built, like `{word}_{take}.wav`"),
        Setting("label", "text", "the part of the name to predict"),
        Setting("test", "tests", "what tests: a condition like `take < 5`, or a share", 0.2),
        Setting("rate", "count", "samples per second of all files", 8000),
        Setting("length", "count", "the most frames of a sound (the longest sound's)", None),
        *MEL_SETTINGS,
        Setting("seed", "seed", "of the choice of what tests, if `test` is a share", 0),
    ),
    describe,
    load,
)
