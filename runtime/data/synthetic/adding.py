"""`adding()`: the sum of the two numbers of a long sequence that are marked.

Fields: `x` f32[length, 2] and `y` f32. x[t, 0] is uniform from 0 to 1; x[t, 1] is 1 at one step of
the first half and one of the second, and 0 elsewhere; y is the sum of the numbers there. Who always
says 1 has a mean squared error of 1/6. Hochreiter & Schmidhuber 1997; in this form Le, Jaitly &
Hinton 2015, arXiv:1504.00941, and Arjovsky, Shah & Bengio 2016, arXiv:1511.06464.
"""

from __future__ import annotations

import numpy as np

from ....dsl.diagnostics.diagnostic import fail
from ..core.dataset import Dataset, Field, Schema, split_dataset
from ..core.source import DataSource, Request, Setting
from ..core.splitting import split_rows, training_size


def describe(request: Request) -> Schema:
    """Known without drawing anything. E0615 for fewer than two steps."""
    if request["length"] < 2:
        raise fail(
            "E0615", "two numbers are added: `length` is 2 at least", request.span_of("length")
        )
    fields = (Field("x", "f32", (request["length"], 2)), Field("y", "f32", ()))
    return Schema(fields, training_size(request["count"], request["test"]))


def load(request: Request) -> Dataset:
    """Both splits."""
    schema = describe(request)
    count, length = request["count"], request["length"]
    random = np.random.RandomState(request["seed"])
    x = np.zeros((count, length, 2), np.float32)
    x[:, :, 0] = random.random_sample((count, length))
    every, half = np.arange(count), length // 2
    x[every, random.randint(half, size=count), 1] = 1
    x[every, half + random.randint(length - half, size=count), 1] = 1
    y = (x[:, :, 0] * x[:, :, 1]).sum(1)
    parts = split_rows(count, request["test"], request["seed"])
    return split_dataset("adding", schema.fields, {"x": x, "y": y}, parts)


ADDING = DataSource(
    "adding",
    "the sum of two marked numbers of many: x f32[length, 2], y f32",
    (
        Setting("count", "count", "sequences", 20_000),
        Setting("length", "count", "numbers in a sequence", 100),
        Setting("test", "fraction", "the share that tests", 0.05),
        Setting("seed", "seed", "of the numbers", 0),
    ),
    describe,
    load,
)
