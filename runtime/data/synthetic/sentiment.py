"""`opinions()`: sentences on films that praise or blame, where the order of the words decides.

In: nothing. Out: fields as `lines`: `token` i32[length], padded with 0; `length` i32; `label` i32,
0 for negative and 1 for positive. The sentences are made by a small grammar, and their label
follows from it:

    clause   = the SUBJECT was [not | never | hardly] [slightly | very] ADJECTIVE
    claim    = clause | clause and clause | clause but clause
             | although clause , clause | clause although clause
    sentence = [i think that | nobody says that | …] claim

A clause is worth 1, slightly 1/2, very 2; its sign is the adjective's, turned round by a negation.
After `and` both clauses count; of `but` and `although` only the main one does. What nobody says is
the opposite. Every choice is even, so that no word by itself says anything about the label. A
sentence that was there before is drawn again: none that tests has been seen in training.
"""

from __future__ import annotations

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ..core.dataset import Dataset, Field, Schema, Split, validate
from ..core.padding import padded
from ..core.source import Request, Setting, Source
from ..core.splitting import split_rows, split_size
from ..core.vocabulary import PAD, UNKNOWN, Vocabulary

SUBJECTS = ("story", "plot", "music", "ending", "cast", "script", "dialogue", "camera", "humour",
            "pace", "hero", "villain")  # fmt: skip
GOOD = ("good", "great", "lovely", "moving", "funny", "clever", "fresh", "brilliant")
BAD = ("bad", "poor", "boring", "dull", "silly", "weak", "stale", "awful")
AGREE = ("i think that", "everyone says that", "critics agree that")
DENY = ("i doubt that", "nobody says that", "i deny that")
NEGATIONS = ("not", "never", "hardly")
STRENGTHS = {"": 2, "slightly": 1, "very": 4}
LABELS = ("negative", "positive")
CLAUSES = len(SUBJECTS) * (1 + len(NEGATIONS)) * len(STRENGTHS) * len(GOOD + BAD)
SENTENCES = (1 + len(AGREE + DENY)) * (CLAUSES + 4 * CLAUSES**2)  # that can be drawn
LONGEST = 17  # tokens: a claim of 3 words, two clauses of 6, and two words that join them

JOINTS = "the was and but although ,"
WORDS = " ".join((*SUBJECTS, *GOOD, *BAD, *AGREE, *DENY, *NEGATIONS, *STRENGTHS, JOINTS))
KNOWN = Vocabulary("words", tuple(dict.fromkeys(WORDS.split())), (PAD, UNKNOWN))


def describe(request: Request) -> Schema:
    """Known without drawing anything. E0615 if there are not enough different sentences."""
    count = request["count"]
    if 2 * count > SENTENCES:  # not too many draws may be in vain
        message = f"no {count:,} different sentences can be drawn"
        raise fail("E0615", message, request.span_of("count"), help=f"there are {SENTENCES:,}")
    return Schema(
        (
            Field("token", "i32", (LONGEST,), len(KNOWN)),
            Field("length", "i32", ()),
            Field("label", "i32", (), len(LABELS)),
        ),
        count - split_size(count, request["test"]),
    )


def load(request: Request) -> Dataset:
    """Both splits."""
    schema, count = describe(request), request["count"]
    random = np.random.RandomState(request["seed"])
    sentences: dict[str, int] = {}
    while len(sentences) < count:
        sentence, worth = drawn(random)
        if worth:
            sentences[sentence] = int(worth > 0)
    token, length = padded([KNOWN.encode(sentence) for sentence in sentences], LONGEST)
    label = np.array(list(sentences.values()), np.int32)
    arrays = {"token": token, "length": length, "label": label}
    train, test = (
        Split({name: array[part] for name, array in arrays.items()})
        for part in split_rows(count, request["test"], request["seed"])
    )
    dataset = Dataset(
        "opinions",
        schema,
        train,
        test if len(test) else None,
        class_names={"label": LABELS},
        vocabularies={"token": KNOWN},
    )
    return validate(dataset, request.span)


def drawn(random: np.random.RandomState) -> tuple[str, int]:
    """A sentence and what it is worth; 0 if its clauses balance."""
    first, a = clause(random)
    second, b = clause(random)
    text, worth = (
        (first, a),
        (f"{first} and {second}", a + b),
        (f"{first} but {second}", b),
        (f"although {first} , {second}", b),
        (f"{first} although {second}", a),
    )[random.randint(5)]
    claim = random.randint(3)
    if claim == 0:
        return text, worth
    says = one_of(random, AGREE if claim == 1 else DENY)
    return f"{says} {text}", worth if claim == 1 else -worth


def clause(random: np.random.RandomState) -> tuple[str, int]:
    """`the plot was not very good`, and -4."""
    good, negated = random.randint(2), random.randint(2)
    strength = one_of(random, tuple(STRENGTHS))
    words = (
        "the",
        one_of(random, SUBJECTS),
        "was",
        one_of(random, NEGATIONS) if negated else "",
        strength,
        one_of(random, GOOD if good else BAD),
    )
    return " ".join(filter(None, words)), STRENGTHS[strength] * (1 if good != negated else -1)


def one_of(random: np.random.RandomState, choices: tuple[str, ...]) -> str:
    return choices[random.randint(len(choices))]


OPINIONS = Source(
    "opinions",
    f"sentences that praise or blame: token i32[{LONGEST}], length i32, label i32",
    (
        Setting("count", "count", "sentences", 10_000),
        Setting("test", "fraction", "the share that tests", 0.2),
        Setting("seed", "seed", "of the sentences", 0),
    ),
    describe,
    load,
)
