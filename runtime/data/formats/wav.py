"""`wav("recordings", pattern = "{word}_{take}.wav", label = "word")`: short sounds by class.

In: a folder of sounds, whose names follow `pattern`; it may have `/` for folders within. WAV is
read as it is, other formats such as FLAC, Ogg and MP3 with the package soundfile. Sounds of any
rate are resampled to `rate` by a windowed sinc (`core/resample.py`); of several channels the mean
is read, unless `channels` says how many all files have. Out: `frames` f32[length, mels], or
f32[length, mels, channels], the features of `mel.py`, with zeros behind the sound; `length` i32,
the frames that count; `label` i32, numbering the values of the name's part `label` in order. `test`
is a condition on the parts of the name, or a share.

With `normalize`, every feature has mean 0 and deviation 1 over the frames of the training sounds,
so that the zeros of the padding are means. `length` is that of the longest sound unless it is set;
then longer ones are truncated, and a line on stderr says how many. Features are stored in the
user's cache, by the names, sizes and times of the files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import numpy as np

from ....dsl.diagnostics.diagnostic import Report, fail
from ..core import resample
from ..core.dataset import Dataset, Field, Schema, split_dataset
from ..core.decompress import readable
from ..core.file_kinds import SOUND
from ..core.kept import Kept
from ..core.label_numbers import number_labels
from ..core.mel import MAX_WINDOW, VERSION, Mel, bands, log_mel
from ..core.name_pattern import Pattern, read_condition, read_pattern
from ..core.padding import Padded, Sequences, SequenceSpool
from ..core.reader import NewExamples, NewFile, listed, noted
from ..core.resample import RATES
from ..core.source import MAX_COUNT, DataSource, Request, Setting, errors_at
from ..core.splitting import split_rows
from ..core.stored import Examples, in_memory
from .sound_file import SUFFIXES, read_sound, sound_length

SHARE = 2  # of the memory for data, one part in so many may be features
MEL_SETTINGS = (
    Setting("mels", "count", "features of a frame", 40),
    Setting("frame", "positive", "seconds in a frame", 0.025),
    Setting("hop", "positive", "seconds from one frame to the next", 0.010),
    Setting("normalize", "bool", "features with mean 0 and deviation 1 in training", True),
)


@dataclass(frozen=True, eq=False)
class SoundFiles:
    """The files of a folder, in alphabetical order, and which of them train and test."""

    folder: Path
    files: tuple[Path, ...]
    labels: np.ndarray
    names: tuple[str, ...]  # of the labels
    train: np.ndarray
    test: np.ndarray


def describe(request: Request) -> Schema:
    """Lists the folder; opens the files' headers only if `length` is not set."""
    return describe_sounds(request, _sounds(request), mel_of_request(request, request["rate"]))


def load(request: Request) -> Dataset:
    """All splits. E0601 to E0603, E0613, E0615, E0617, E0620 or E0621 if that cannot be."""
    mel = mel_of_request(request, request["rate"])
    return load_sounds(request, _sounds(request), mel, request["folder"])


def _sounds(request: Request) -> SoundFiles:
    pattern, label, test = request["pattern"], request["label"], request["test"]
    return list_sounds(request, request.folder(), pattern, label, test)


def describe_sounds(request: Request, sounds: SoundFiles, mel: Mel) -> Schema:
    """The schema of listed sounds; `request` has `length`."""
    length = request["length"]
    # The padded length is that of the longest sound, and headers tell it without decoding.
    if length is None:
        channels = channels_of(request)
        counts = [sound_length(file, mel.rate, channels) for file in sounds.files]
        length = max(map(mel.frames, counts))
    return Schema(sound_fields(mel, length, len(sounds.names), request), len(sounds.train))


def channels_of(request: Request) -> int:
    """The channels of the features; sets of one channel have no setting for it."""
    channels: int = request.settings.get("channels", 1)
    return channels


def load_sounds(request: Request, sounds: SoundFiles, mel: Mel, name: str) -> Dataset:
    """The dataset of listed sounds; `request` has `length` and `normalize`."""
    features, normal = load_features(request, sounds, mel)
    length = request["length"] or features.longest
    channels = channels_of(request)
    reader = SoundReader(
        **asdict(mel), size=length, length="length", is_cut=True, **normal, channels=channels
    )
    cut = int((features.lengths > length).sum())
    if cut:
        message = f"{cut} of {len(features)} sounds of {name} are cut at {length} frames"
        request.search.notify(message)
    arrays = {**reader.arrays(features), "label": sounds.labels}
    fields = sound_fields(mel, length, len(sounds.names), request)
    names = {"label": sounds.names}
    parts, memory = (sounds.train, sounds.test), request.search.memory
    return split_dataset(
        name, fields, arrays, parts, class_names=names, reader=reader, memory=memory
    )


def sound_fields(mel: Mel, length: int, classes: int, request: Request) -> tuple[Field, ...]:
    """The fields of sounds of at most `length` frames."""
    channels = channels_of(request)
    frames = Field("frames", "f32", (length, mel.mels, channels)[: 2 + (channels > 1)])
    return frames, Field("length", "i32", ()), Field("label", "i32", (), classes)


# ── files ────────────────────────────────────────────────────────────────────────────────────────


def list_sounds(
    request: Request, folder: Path, pattern_text: str, label: str, test: float | str
) -> SoundFiles:
    """The sounds of a folder. E0613, E0615, E0617 or E0621 if the folder or a setting is wrong."""
    with errors_at(request.span_of("pattern")):
        pattern = read_pattern(pattern_text)
    # The label must be a part of the names; no other part has a meaning.
    if label not in pattern.names:
        message = f"`label` names `{label}`, and the pattern has {', '.join(pattern.names)}"
        raise fail("E0615", message, request.span_of("label"))
    condition = None
    if isinstance(test, str):
        with errors_at(request.span_of("test")):
            condition = read_condition(test, pattern)
    files, parts = _matching(folder, pattern, request)
    labels, names = number_labels([part[label] for part in parts])
    # A share is drawn at random and stratified; a condition decides file by file.
    if condition is None:
        train, tests = split_rows(len(files), float(test), request["seed"], labels)
    else:
        with errors_at(request.span_of("test")):
            tested = np.array([condition(part) for part in parts])
        train, tests = np.flatnonzero(~tested), np.flatnonzero(tested)
    # A share such as `test = 0` may leave nothing to test, but a condition that does is a mistake.
    for purpose, rows in (("training", train), ("testing", tests)):
        if not len(rows) and (purpose == "training" or condition):
            message = f"`test = {test!r}` leaves no sounds of {folder} for {purpose}"
            raise fail("E0613", message, request.span_of("test"))
    return SoundFiles(folder, tuple(files), labels, names, train, tests)


def _matching(
    folder: Path, pattern: Pattern, request: Request
) -> tuple[list[Path], list[dict[str, str]]]:
    """The files with the pattern's suffix, in any case, all of which must match the pattern."""
    suffix, span = Path(pattern.text).suffix, request.span_of("folder")
    with errors_at(span), readable(folder):
        # Without `/` only the folder itself is searched; a file in one below it could not match.
        deep = folder.rglob("*") if "/" in pattern.text else folder.iterdir()
        visible = (path for path in deep if path.name[0] != ".")
        every = request.search.checked_entries(visible)
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
    # Sorted by name: the order of a folder's entries differs between file systems.
    parts = {name: pattern.parts(name) for name in sorted(by_name)}
    others = [name for name, found in parts.items() if found is None]
    # If no name matches, the pattern is wrong; if some do, the other files are.
    if len(others) == len(parts):
        message = f"no name in {folder} follows `{pattern.text}`: the first is `{others[0]}`"
        raise fail("E0621", message, request.span_of("pattern"), help="change the pattern")
    if others:
        message = f"the name `{others[0]}` in {folder} does not follow `{pattern.text}`"
        raise fail("E0621", message, span, help="rename it or move it away")
    return [by_name[name] for name in parts], [found for found in parts.values() if found]


# ── features ─────────────────────────────────────────────────────────────────────────────────────


def mel_of_request(request: Request, rate: int) -> Mel:
    """The settings of the features; E0615 if there are more bands than a frame can resolve."""
    mel = Mel(rate, request["mels"], request["frame"], request["hop"])
    if rate not in RATES:
        message = f"`rate` is {rate:,}, and not between {RATES[0]:,} and {RATES[-1]:,}"
        raise fail("E0615", message, request.span_of("rate"))
    # A band between two bins of the transform would be empty, its feature constant.
    wrong = mel.window > MAX_WINDOW or mel.mels > mel.transform
    if wrong or not bands(mel).any(axis=1).all():
        raise fail(
            "E0615",
            f"`mels = {mel.mels}` does not go with a frame of {mel.window} samples: "
            + (
                f"there may be {MAX_WINDOW} in one"
                if mel.window > MAX_WINDOW
                else "some bands are narrower than its resolution"
            ),
            request.span_of("mels"),
            help="choose fewer, or a longer `frame`" * (mel.window <= MAX_WINDOW),
        )
    return mel


class Normal(TypedDict):
    """The mean and the deviation of every feature in training; empty if they are not normalized."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


def load_features(request: Request, sounds: SoundFiles, mel: Mel) -> tuple[Sequences, Normal]:
    """The features of every sound, f32 [frames, mels · channels], and how they are normalized, if
    the request says so."""
    features = _features(request, sounds, mel)
    normal = Normal(mean=(), deviation=())
    if request["normalize"]:
        # Of the training sounds only; every frame, not every sound, weighs alike. f64, since sums
        # over a million frames in f32 would lose digits.
        mean = _mean(features, sounds.train, lambda frames: frames)
        squares = _mean(features, sounds.train, lambda frames: (frames - mean) ** 2)
        normal["mean"] = tuple(mean.tolist())
        # A feature that never varies has deviation 0, and stays 0 instead of becoming NaN.
        normal["deviation"] = tuple(np.maximum(np.sqrt(squares), 1e-5).tolist())
    return features, normal


def _mean(
    features: Sequences, rows: np.ndarray, change: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """The mean of changed frames, f64 [width], added up in their order."""
    total = np.zeros((1, features.values.shape[1]))
    for row in rows:
        frames = change(features[row].astype(np.float64))
        total = np.add.reduce(np.concatenate([total, frames]), axis=0, keepdims=True)
    found: np.ndarray = total[0] / features.lengths[rows].sum()
    return found


def normalized(features: np.ndarray, normal: Normal) -> np.ndarray:
    """Features [frames, mels · channels] with mean 0 and deviation 1 in training."""
    mean, deviation = np.array(normal["mean"]), np.array(normal["deviation"])
    return ((features - mean) / deviation).astype(np.float32) if mean.size else features


@dataclass(frozen=True)
class SoundReader:
    """WAV files as `frames` f32[size, mels], zeros behind the sound, and their number under the
    name `length`. Longer sounds are cut, or an error unless `is_cut`."""

    rate: int
    mels: int
    frame: float
    hop: float
    size: int
    length: str
    is_cut: bool
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    channels: int = 1

    kind: ClassVar[str] = "wav"
    file_kinds: ClassVar[tuple[str, ...]] = (SOUND,)
    suffixes: ClassVar[frozenset[str]] = SUFFIXES
    example: ClassVar[str] = "one.wav"

    def __post_init__(self) -> None:
        """ValueError for what no source of sounds allows."""
        mel = Mel(self.rate, self.mels, self.frame, self.hop)
        counts = (self.rate, self.mels, self.size, self.channels)
        sizes = all(0 < n <= MAX_COUNT for n in counts) and self.rate in RATES
        if not sizes or not self.frame > 0 < self.hop or mel.window > MAX_WINDOW:
            raise ValueError(f"features of {self.mels} bands from {self.rate} samples per second")
        if {len(self.mean), len(self.deviation)} not in ({0}, {self.mels * self.channels}):
            raise ValueError("statistics of other features")

    @property
    def fields(self) -> tuple[str, ...]:
        return "frames", self.length

    @property
    def takes(self) -> str:
        many = f" of {self.channels} channels" * (self.channels > 1)
        return f"sounds{many}, which become {self.rate} samples per second"

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    def arrays(self, features: Sequences) -> dict[str, Examples]:
        """The inputs of features that are not normalized yet."""
        normal = Normal(mean=self.mean, deviation=self.deviation)
        width = (self.mels, self.channels)[: 1 + (self.channels > 1)]
        frames = Padded(features, self.size, change=lambda f: normalized(f, normal), width=width)
        return {"frames": frames, self.length: frames.lengths}

    def read(self, files: Sequence[NewFile], cache: Path) -> NewExamples:
        """The features of sounds. UserError as `read_sound`, and E0708 for those that are too long,
        with what is wrong in any of them."""
        mel = Mel(self.rate, self.mels, self.frame, self.hop)
        weights, report, found = bands(mel), Report(), []
        for file in files:
            with noted(report):
                samples = read_sound(file.path, self.rate, self.channels)
                found.append(features_of(samples, mel, weights))
                if len(found[-1]) > self.size and not self.is_cut:
                    message = f"{file.name} has {len(found[-1])} frames, and the model reads "
                    message += f"{self.size}: {self.size * mel.step / self.rate:.1f} s"
                    raise fail("E0708", message, help="cut it in two")
        report.check()
        cut = [f.name for f, one in zip(files, found, strict=True) if len(one) > self.size]
        notes = (f"cut at {self.size} frames: {listed(cut)}",) if cut else ()
        arrays = in_memory(self.arrays(Sequences.of(found)))
        names = tuple(file.name for file in files)
        return NewExamples(arrays, names, notes=notes)


def features_of(samples: np.ndarray, mel: Mel, weights: np.ndarray) -> np.ndarray:
    """The features of samples [n, channels], f32 [frames, mels · channels], the channels of a band
    side by side."""
    each = [log_mel(samples[:, k], mel, weights) for k in range(samples.shape[1])]
    return each[0] if len(each) == 1 else np.stack(each, axis=2).reshape(len(each[0]), -1)


def _features(request: Request, sounds: SoundFiles, mel: Mel) -> Sequences:
    """The frames of every sound, from the cache if it has them."""
    channels, search = channels_of(request), request.search
    # Sizes and times of files stand for contents: reading all would take as long as the features.
    # Before normalization, so that other splits of the same files find the same features.
    about = [VERSION, resample.VERSION, channels, asdict(mel)]
    kept = Kept.of(search, "log_mel", sounds.files, about)
    found = kept.find()
    if found is not None:
        return Sequences(found["frames"], np.asarray(found["ends"]))
    weights = bands(mel)
    with SequenceSpool(kept.spool("frames", search.memory // SHARE)) as spool:
        for file in sounds.files:
            spool.add([features_of(read_sound(file, mel.rate, channels), mel, weights)])
        features = spool.sequences()
    kept.store({"frames": features.values, "ends": features.ends})
    return features


WAV = DataSource(
    "wav",
    "sounds as log-mel features: frames f32[length, mels], length i32, label i32",
    (
        Setting("folder", "text", "the folder", positional=True),
        Setting("pattern", "text", "how names are built, like `{word}_{take}.wav`"),
        Setting("label", "text", "the part of the name to predict"),
        Setting("test", "tests", "what tests: a condition like `take < 5`, or a share", 0.2),
        Setting("rate", "count", "samples per second; files of others are resampled", 8000),
        Setting("channels", "count", "channels of all files, if not their mean is read", 1),
        Setting("length", "count", "the most frames of a sound (the longest sound's)", None),
        *MEL_SETTINGS,
        Setting("seed", "seed", "of the choice of what tests, if `test` is a share", 0),
    ),
    describe,
    load,
)
