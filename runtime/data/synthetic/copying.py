"""`copying()`: ten symbols are to be repeated after a delay, a test of memory over many steps.

Fields: `x` i32[delay + 20] and `y` i32[delay + 20]. x is ten symbols from 0 to 7, `delay` - 1
blanks (8), a sign (9), and ten blanks; y is blank, but for the last ten steps, which are the
symbols. Who says blank, and guesses among the eight at the end, has a cross entropy of
10 log(8) / (delay + 20). Hochreiter & Schmidhuber 1997; in this form Arjovsky, Shah & Bengio 2016,
arXiv:1511.06464.
"""

from __future__ import annotations

import numpy as np

from ..core.dataset import Dataset, Field, Schema, split_dataset
from ..core.source import DataSource, Request, Setting
from ..core.splitting import split_rows, training_size

SYMBOLS, REPEATED = 8, 10
BLANK, SIGN = SYMBOLS, SYMBOLS + 1


def describe(request: Request) -> Schema:
    """Known without drawing anything."""
    shape = (request["delay"] + 2 * REPEATED,)
    fields = (Field("x", "i32", shape, SIGN + 1), Field("y", "i32", shape, BLANK + 1))
    return Schema(fields, training_size(request["count"], request["test"]))


def load(request: Request) -> Dataset:
    """Both splits."""
    count, delay = request["count"], request["delay"]
    random = np.random.RandomState(request["seed"])
    symbols = random.randint(SYMBOLS, size=(count, REPEATED))
    x = np.full((count, delay + 2 * REPEATED), BLANK, np.uint8)
    y = x.copy()
    x[:, :REPEATED] = y[:, -REPEATED:] = symbols
    x[:, REPEATED + delay - 1] = SIGN
    parts = split_rows(count, request["test"], request["seed"])
    return split_dataset("copying", describe(request).fields, {"x": x, "y": y}, parts)


COPYING = DataSource(
    "copying",
    "ten symbols, and the same after a delay: x and y i32[delay + 20]",
    (
        Setting("count", "count", "sequences", 40_000),
        Setting("delay", "count", "steps between a symbol and its repetition, less ten", 100),
        Setting("test", "fraction", "the share that tests", 0.025),
        Setting("seed", "seed", "of the symbols", 0),
    ),
    describe,
    load,
)
