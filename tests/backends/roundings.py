"""How near numbers must be whose computation rounds to bf16, where not the same things are rounded.

A kernel of attention rounds every weight once, as the equations do, but before it is divided. Its
results are therefore no nearer to the equations' than these are to exact numbers, but they must be
as near to the exact ones: within twice the largest error that rounding by the equations makes, and,
over many elements, within a quarter more on the average.

What many products in a row make of it differs more where few elements share their errors: of a
training step, the errors of a parameter may be four times those of the equations (a key's bias,
whose gradient is 0, has nothing else), but of all parameters a quarter more on the average.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Results = tuple[np.ndarray, np.ndarray, np.ndarray]  # found, expected, exact

BF16 = 2.0**-8  # the largest relative error of one rounding
MANY = 1000  # elements over which errors average
FEW = 32  # elements of which all may by chance be nearer than their roundings


def as_near(found: np.ndarray, expected: np.ndarray, exact: np.ndarray, name: str) -> None:
    """`expected` rounds where the equations do, `exact` nowhere."""
    np.testing.assert_array_equal(np.isnan(found), np.isnan(exact), err_msg=name)
    finite = np.isfinite(exact)
    if not finite.any():
        return
    own, theirs = (np.abs(x - exact)[finite] for x in (found, expected))
    scale = np.abs(exact[finite]).max()
    floor = max(1e-5 * scale, 1e-7) if finite.sum() >= FEW else BF16 * scale
    assert own.max() <= max(2 * theirs.max(), floor), name
    if finite.sum() >= MANY:
        assert _average(own) <= max(1.25 * _average(theirs), floor), name


def steps_as_near(parameters: Sequence[Results]) -> None:
    """New parameters after one step from equal ones."""
    ratios = np.array(
        [
            _average(found - exact) / _average(expected - exact)
            for found, expected, exact in parameters
        ]
    )
    assert ratios.max() <= 4
    assert np.exp(np.log(ratios).mean()) <= 1.25


def _average(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors**2)))
