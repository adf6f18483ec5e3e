"""The accountant, against dp-accounting and published figures, and the chance of a full batch."""

from __future__ import annotations

from math import comb, inf

import numpy as np
import pytest

from nnc.runtime.accountant import (
    Accountant,
    chance_of_overflow,
    rate_for,
    sampled_gaussian,
)

SETTINGS = [
    (0.004, 1.1, 15000, 1e-5),
    (0.004, 0.7, 11250, 1e-5),
    (0.004, 1.3, 3750, 1e-5),
    (256 / 60000, 1.12, 14062, 1e-5),
    (0.1, 4.0, 500, 1e-6),
    (0.01, 2.0, 1, 1e-5),
    (1.0, 5.0, 10, 1e-5),
]


@pytest.mark.slow  # dp-accounting alone is seconds to import
@pytest.mark.parametrize("rate, noise, steps, delta", SETTINGS)
def test_epsilon_is_that_of_dp_accounting(
    rate: float, noise: float, steps: int, delta: float
) -> None:
    dp_accounting = pytest.importorskip("dp_accounting", reason="dp-accounting is not installed")
    from dp_accounting import rdp

    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    theirs = rdp.RdpAccountant()
    theirs.compose(event, steps)
    expected = theirs.get_epsilon(delta)
    assert Accountant(rate, noise, delta).epsilon(steps) == pytest.approx(expected, rel=1e-2)


def test_epsilon_of_published_settings() -> None:
    """By dp-accounting 0.6.0; the publications have 3.01, 7.10 and 1.19 by an older conversion."""
    found = [Accountant(q, s, d).epsilon(n) for q, s, n, d in SETTINGS[:3]]
    assert found == pytest.approx([2.503, 6.094, 0.922], abs=2e-3)


def test_a_moment_is_the_integral_of_the_densities() -> None:
    """E[(p(x) / q(x))^a] over a grid, of q = N(0, s^2) and p = (1 - rate) q + rate N(1, s^2)."""
    x = np.linspace(-60, 60, 400_001)
    for rate, noise in ((0.01, 1.0), (0.3, 2.0)):
        with_one = np.exp((2 * x - 1) / (2 * noise**2))
        density = np.exp(-(x**2) / (2 * noise**2)) / np.sqrt(2 * np.pi) / noise
        for order in (1.5, 2, 3.7, 6):
            values = density * (1 - rate + rate * with_one) ** order
            expected = np.log(np.trapezoid(values, x)) / (order - 1)
            assert sampled_gaussian(rate, noise, order) == pytest.approx(expected, rel=1e-6)


def test_more_steps_less_noise_and_smaller_deltas_spend_more() -> None:
    one = Accountant(0.01, 1.0, 1e-5)
    assert one.epsilon(0) == 0
    assert one.epsilon(10) < one.epsilon(100) < Accountant(0.01, 1.0, 1e-7).epsilon(100)
    assert one.epsilon(10) > Accountant(0.01, 2.0, 1e-5).epsilon(10)
    assert Accountant(0.01, 0.0, 1e-5).epsilon(1) == inf


def test_the_chance_that_more_are_drawn_than_fit() -> None:
    exact = sum(comb(40, k) * 0.3**k * 0.7 ** (40 - k) for k in range(21, 41))
    assert chance_of_overflow(40, 0.3, 20) == pytest.approx(exact, rel=1e-9)
    assert chance_of_overflow(40, 0.3, 40) == 0
    assert chance_of_overflow(40, 1.0, 39) == 1
    rate = rate_for(60000, 256, 1e-12)
    assert chance_of_overflow(60000, rate, 256) == pytest.approx(1e-12, rel=1e-3)
    assert rate_for(100, 128, 1e-12) == 1


def test_full_batches_cost_delta() -> None:
    plain = Accountant(0.004, 1.1, 1e-5).epsilon(1000)
    rare = Accountant(0.004, 1.1, 1e-5, overflow=1e-10).epsilon(1000)
    # delta - steps * overflow * (1 + exp(epsilon)), of which epsilon is the fixed point
    rest = 1e-5 - 1000 * 1e-10 * (1 + np.exp(rare))
    assert plain < rare == pytest.approx(Accountant(0.004, 1.1, rest).epsilon(1000), rel=1e-6)
    assert Accountant(0.004, 1.1, 1e-5, overflow=1e-8).epsilon(1000) == inf
