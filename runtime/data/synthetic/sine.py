"""`sine()`: noisy waves and how they go on: forecasting a time series.

In: nothing. Out: `x` f32[length], what was observed, and `y` f32[horizon], what comes next, without
noise, so that the best possible error is known to be near 0. A wave is the sum of two sines of
drawn frequency (a period of 8 to 64 steps), phase and height (0.5 to 1); the noise is normal, of
deviation `noise`.
"""

from __future__ import annotations

import numpy as np

from ..core.dataset import Dataset, Field, Schema, Split, validate
from ..core.source import Request, Setting, Source
from ..core.splitting import split_rows, split_size

WAVES, SHORTEST, LONGEST = 2, 8, 64  # sines in a sum; periods in steps


def describe(request: Request) -> Schema:
    """Known without drawing anything."""
    count = request["count"]
    fields = (Field("x", "f32", (request["length"],)), Field("y", "f32", (request["horizon"],)))
    return Schema(fields, count - split_size(count, request["test"]))


def load(request: Request) -> Dataset:
    """Both splits."""
    count, length = request["count"], request["length"]
    random = np.random.RandomState(request["seed"])
    shape = (WAVES, count, 1)
    frequency = random.uniform(1 / LONGEST, 1 / SHORTEST, shape)
    phase = random.uniform(0, 1, shape)
    height = random.uniform(0.5, 1, shape)
    time = np.arange(length + request["horizon"])
    wave = sum(
        height[one] * np.sin(2 * np.pi * (frequency[one] * time + phase[one]))
        for one in range(WAVES)
    )
    seen = wave[:, :length] + request["noise"] * random.standard_normal((count, length))
    arrays = {"x": seen.astype(np.float32), "y": wave[:, length:].astype(np.float32)}
    train, test = (
        Split({name: array[part] for name, array in arrays.items()})
        for part in split_rows(count, request["test"], request["seed"])
    )
    dataset = Dataset("sine", describe(request), train, test if len(test) else None)
    return validate(dataset, request.span)


SINE = Source(
    "sine",
    "noisy waves and how they go on: x f32[length], y f32[horizon]",
    (
        Setting("count", "count", "series", 5000),
        Setting("length", "count", "steps observed", 64),
        Setting("horizon", "count", "steps to foretell", 16),
        Setting("noise", "level", "deviation of the noise in what is observed", 0.1),
        Setting("test", "fraction", "the share that tests", 0.1),
        Setting("seed", "seed", "of the series", 0),
    ),
    describe,
    load,
)
