"""A small program for tests of the Python interface, and data for it."""

from __future__ import annotations

import numpy as np

PROGRAM = """
model Line(x: f32[B, 3]) -> y: f32[B, 2] {
    y = x |> Dense(2)
}

train Line {
    loss      = mse(y, z)
    metric far = mean(abs(y - z))
    optimizer = sgd(lr = 0.1)
    batch     = 4
    epochs    = 2
}
"""
RNG = np.random.default_rng(0)
X = RNG.normal(size=(10, 3)).astype(np.float32)
Z = (X @ RNG.normal(size=(3, 2))).astype(np.float32)


def same(one, two) -> bool:
    """Whether two dictionaries of arrays have the same bits."""
    return one.keys() == two.keys() and all(np.array_equal(one[n], two[n]) for n in one)
