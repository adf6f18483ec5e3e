"""`reversal()`: strings of digits and their reverse, the smallest translation task.

Fields as `pairs.py`. Lengths are drawn uniformly from `shortest` to `longest`. No string occurs
twice, so no test string is among the training strings.
"""

from __future__ import annotations

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ..core.dataset import Dataset, Schema
from ..core.padding import Sequences
from ..core.source import DataSource, Request, Setting
from ..core.splitting import split_rows
from ..core.vocabulary import chars
from ..formats.pairs import SPECIALS, pair_dataset

DIGITS = "0123456789"


def describe(request: Request) -> Schema:
    """Draws the strings, which is fast."""
    return load(request).schema


def load(request: Request) -> Dataset:
    """Both splits. E0615 if there are not enough different strings."""
    shortest, most, count = request["shortest"], request["longest"], request["count"]
    # twice as many as needed, so that few draws are repetitions; ten lengths are always enough
    if 2 * count > sum(10**size for size in range(shortest, min(most, shortest + 9) + 1)):
        message = f"no {count} different strings of {shortest} to {most} digits can be drawn"
        raise fail("E0615", message, request.span, help="choose fewer, or longer ones")
    random = np.random.RandomState(request["seed"])
    strings: dict[str, None] = {}
    # A dictionary as an ordered set: the same strings in the same order for one seed.
    while len(strings) < count:
        size = random.randint(shortest, most + 1)
        strings["".join(map(str, random.randint(10, size=size)))] = None
    known = chars([DIGITS], SPECIALS)
    sources = [known.encode(string) for string in strings]
    targets = Sequences.of([source[::-1] for source in sources])
    parts, lengths = split_rows(count, request["test"], request["seed"]), (most, most + 1)
    sides = Sequences.of(sources), targets
    return pair_dataset("reversal", *sides, parts, lengths, (known, known))


REVERSAL = DataSource(
    "reversal",
    "digit strings and their reverse: source, target_in and target_out i32[…], and lengths",
    (
        Setting("count", "count", "pairs", 10_000),
        Setting("shortest", "count", "the fewest digits", 4),
        Setting("longest", "count", "the most digits", 10),
        Setting("test", "fraction", "the share that tests", 0.1),
        Setting("seed", "seed", "of the strings", 0),
    ),
    describe,
    load,
)
