"""`sine()`: noisy waves and their continuation, for forecasting a time series.

Fields: `x` f32[length], the observed steps, and `y` f32[horizon], the steps that follow, without
noise, so that the least possible error is near 0. A wave is the sum of two sines of random
frequency (a period of 8 to 64 steps), phase and amplitude (0.5 to 1); the noise is normal, with
standard deviation `noise`.
"""

from __future__ import annotations

import numpy as np

from ..core.dataset import Dataset, Field, Schema, split_dataset
from ..core.source import DataSource, Request, Setting
from ..core.splitting import split_rows, training_size

WAVES, MIN_PERIOD, MAX_PERIOD = 2, 8, 64  # sines in a sum; steps


def describe(request: Request) -> Schema:
    """Known without drawing anything."""
    fields = (Field("x", "f32", (request["length"],)), Field("y", "f32", (request["horizon"],)))
    return Schema(fields, training_size(request["count"], request["test"]))


def load(request: Request) -> Dataset:
    """Both splits."""
    count, length = request["count"], request["length"]
    random = np.random.RandomState(request["seed"])
    # [sines, series, 1], which broadcasts against the steps of `time`: [sines, series, steps].
    shape = (WAVES, count, 1)
    # Frequencies are in periods per step and phases in periods, hence the 2π.
    frequency = random.uniform(1 / MAX_PERIOD, 1 / MIN_PERIOD, shape)
    phase = random.uniform(0, 1, shape)
    amplitude = random.uniform(0.5, 1, shape)
    time = np.arange(length + request["horizon"])
    wave = sum(
        amplitude[one] * np.sin(2 * np.pi * (frequency[one] * time + phase[one]))
        for one in range(WAVES)
    )
    # Noise on what is observed only; the continuation stays exact.
    observed = wave[:, :length] + request["noise"] * random.standard_normal((count, length))
    arrays = {"x": observed.astype(np.float32), "y": wave[:, length:].astype(np.float32)}
    parts = split_rows(count, request["test"], request["seed"])
    return split_dataset("sine", describe(request).fields, arrays, parts)


SINE = DataSource(
    "sine",
    "noisy waves and their continuation: x f32[length], y f32[horizon]",
    (
        Setting("count", "count", "series", 5000),
        Setting("length", "count", "steps observed", 64),
        Setting("horizon", "count", "steps to forecast", 16),
        Setting("noise", "level", "standard deviation of the noise in the observed steps", 0.1),
        Setting("test", "fraction", "the share that tests", 0.1),
        Setting("seed", "seed", "of the series", 0),
    ),
    describe,
    load,
)
