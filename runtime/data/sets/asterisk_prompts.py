"""`asterisk_prompts()`: the English prompts of the telephone exchange Asterisk, with their texts.

In: 568 recordings by one woman, 25 minutes at 8 kHz, and the list of what they say: those of the
Debian packages asterisk-core-sounds-en-wav and asterisk-core-sounds-en (CC BY-SA 3.0), or of the
archive of that name, found on disk. Out: `frames` f32[length, mels] and `frames_length` i32, the
features of `core/mel.py`; `label` i32[longest text], in words or characters, with 0, the blank of
CTC, behind the text; and `label_length` i32. With `spelled` also `letters` i32[longest text], in
characters, and `letters_length`.

A text is in small letters, without marks and remarks in brackets; digits, * and # are the words
that are said. Prompts without words, and those longer than `seconds`, are left out. Of what tests,
every word is in at least `least` prompts that train, and no whole text is: words are known, and how
they are put together is new. Texts are tried in an order that depends on `seed`, as long as they
are not more than the share `test` of all prompts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ..core.data_paths import ENVIRONMENT, first_file
from ..core.dataset import Dataset, Field, Schema, split_dataset
from ..core.padding import Padded, Sequences
from ..core.source import DataSource, Request, Setting
from ..core.vocabulary import UNKNOWN, Vocabulary, chars, words
from ..formats.sound_file import sound_length
from ..formats.text_file import read_text
from ..formats.wav import MEL_SETTINGS, SoundFiles, SoundReader, load_features, mel_of_request

NAME, RATE = "asterisk_prompts", 8000
# where packages put the sounds and the list of their texts, which the archive has beside the sounds
SOUNDS = tuple(
    Path(place) / "sounds" / voice
    for place in ("/usr/share/asterisk", "/var/lib/asterisk", "/usr/local/share/asterisk")
    for voice in ("en_US_f_Allison", "en")
)
TEXTS = Path("/usr/share/doc/asterisk-core-sounds-en")
LISTS = ("core-sounds-en.txt", "core-sounds-en.txt.gz")
KNOWN = "hello-world.wav"  # a prompt that every edition has
BLANK = "<blank>"
SPOKEN = {
    "*": "star", "#": "pound", "0": "zero", "1": "one", "2": "two", "3": "three", "4": "four",
    "5": "five", "6": "six", "7": "seven", "8": "eight", "9": "nine",
}  # fmt: skip
REMARK = re.compile(r"\(.*?\)|\[.*?\]|<.*?>")
BUILDERS = {"words": words, "chars": chars}


@dataclass(frozen=True)
class Prompt:
    """A recording and what it says."""

    file: Path
    text: str


def describe(request: Request) -> Schema:
    """Reads the list and the sounds, as all sizes depend on them. Errors as `load`."""
    return load(request).schema


def load(request: Request) -> Dataset:
    """Both splits. E0601 if the prompts are not found, E0613 if too few are left; other errors as
    `wav`."""
    mel = mel_of_request(request, RATE)
    folder, prompts = _prompts(request)
    texts = [prompt.text for prompt in prompts]
    train, test = _divided(request, texts)
    # what is said: in words or characters, and if asked for in characters besides
    units = {"label": request["units"], **({"letters": "chars"} if request["spelled"] else {})}
    vocabularies: dict[str, Vocabulary] = {
        name: BUILDERS[unit]([texts[row] for row in train], (BLANK, UNKNOWN))
        for name, unit in units.items()
    }
    labels = {name: _encoded(found, texts) for name, found in vocabularies.items()}
    files = tuple(prompt.file for prompt in prompts)
    sounds = SoundFiles(folder, files, np.zeros(len(files), np.int32), (), train, test)
    features, normal = load_features(request, sounds, mel)
    size = request["length"] or features.longest
    if size < features.longest:
        message = f"the longest prompt has {features.longest} frames, and `length` is {size}"
        raise fail("E0615", message, request.span_of("length"), help="or set `seconds`")
    reader = SoundReader(**asdict(mel), size=size, length="frames_length", is_cut=False, **normal)
    fields = [Field("frames", "f32", (size, mel.mels)), Field("frames_length", "i32", ())]
    arrays = reader.arrays(features)
    for name, label in labels.items():
        length = f"{name}_length"
        fields += [
            Field(name, "i32", label.shape[1:], len(vocabularies[name])),
            Field(length, "i32", ()),
        ]
        arrays |= {name: label, length: label.lengths}
    return split_dataset(
        NAME,
        tuple(fields),
        arrays,
        (train, test),
        vocabularies=vocabularies,
        reader=reader,
        memory=request.search.memory,
    )


def _encoded(vocabulary: Vocabulary, texts: Sequence[str]) -> Padded:
    """The numbers of what the texts consist of, with 0 behind."""
    tokens = Sequences.of([vocabulary.encode(text).astype(np.int32) for text in texts])
    return Padded(tokens, tokens.longest)


def _prompts(request: Request) -> tuple[Path, list[Prompt]]:
    """The prompts that are not too long, in the order of their names, and their folder."""
    folder, texts = _find(request)
    most = round(request["seconds"] * RATE)
    found = []
    for name in sorted(texts):
        file = folder / f"{name}.wav"
        # a few of the list were not recorded, and some recordings say nothing
        if texts[name] and file.is_file() and sound_length(file, RATE) <= most:
            found.append(Prompt(file, texts[name]))
    return folder, found


def _divided(request: Request, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The rows that train and that test. E0613 if there are too few."""
    times, least = Counter(texts), request["least"]
    # of each word, in how many of the prompts that train it is
    trained = Counter(word for text in texts for word in set(text.split()))
    different, room = sorted(times), request["test"] * len(texts)
    chosen: set[str] = set()
    # RandomState and not default_rng: NumPy promises never to change its stream.
    for number in np.random.RandomState(request["seed"]).permutation(len(different)):
        text = different[number]
        spoken_in = dict.fromkeys(text.split(), times[text])
        if times[text] <= room and all(trained[w] - n >= least for w, n in spoken_in.items()):
            chosen.add(text)
            trained.subtract(spoken_in)
            room -= times[text]
    if not chosen:
        message = (
            f"of {len(texts)} prompts none has only words that are in {least} others, or `test` is "
            "less than one prompt"
        )
        raise fail("E0613", message, request.span_of("least"))
    tests = np.array([text in chosen for text in texts])
    return np.flatnonzero(~tests), np.flatnonzero(tests)


def _find(request: Request) -> tuple[Path, Mapping[str, str]]:
    """The folder of the sounds, and what each says by its name; E0601 if either is not found."""
    search = request.search
    own = [folder for folder in search.set_folders(NAME) if first_file(folder, [KNOWN])]
    places = [*(search.checked(folder) for folder in own), *SOUNDS]
    folder = next((place for place in places if first_file(place, [KNOWN])), None)
    listed = folder and (first_file(folder, LISTS) or first_file(TEXTS, LISTS))
    if not folder or not listed:
        what = "the prompts of Asterisk are" if not folder else f"the texts of {folder} are"
        raise search.set_missing(
            NAME,
            what,
            "install the Debian packages asterisk-core-sounds-en-wav and asterisk-core-sounds-en, "
            "or unpack https://downloads.asterisk.org/pub/telephony/sounds/"
            "asterisk-core-sounds-en-wav-current.tar.gz, and name its folder with `--data` or "
            f"${ENVIRONMENT}",
        )
    pairs = (
        line.split(":", 1)
        for line in read_text(listed, search.cache_folder).split("\n")
        if ":" in line and not line.startswith(";")
    )
    return folder, {name.strip(): spoken(text) for name, text in pairs}


def spoken(text: str) -> str:
    """What a text of the list sounds like, in words of small letters: `Press 1.` → `press one`."""
    text = REMARK.sub(" ", text.lower()).replace("'", "")
    text = "".join(f" {SPOKEN[one]} " if one in SPOKEN else one for one in text)
    return " ".join(re.sub(r"[^a-z]", " ", text).split())


ASTERISK_PROMPTS = DataSource(
    NAME,
    "telephone prompts by one woman: frames f32[length, mels], label i32, and their lengths",
    (
        Setting("units", "text", "what a label consists of", "words", ("words", "chars")),
        Setting("spelled", "bool", "whether there are `letters` i32, too, in characters", False),
        Setting("seconds", "positive", "the longest prompt that is read", 6),
        Setting("length", "count", "frames of a prompt, with padding (the longest's)", None),
        Setting("least", "count", "in how many prompts that train each word of what tests is", 2),
        Setting("test", "fraction", "the share that tests, at most", 0.15),
        Setting("seed", "seed", "of the choice of what tests", 0),
        *MEL_SETTINGS,
    ),
    describe,
    load,
)
