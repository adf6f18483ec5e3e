"""The privacy that a run has spent: an accountant of Rényi differential privacy.

    rdp(a)  = log E[(density of the outputs with an example / without it)^a] / (a - 1)   of a step
    epsilon = min over a of  steps * rdp(a) + log(1 - 1/a) - log(delta * a) / (a - 1)

A step adds normal noise of deviation `noise` (in units of what one example can change) to a sum
over examples, each of which takes part with the probability `rate` (Poisson sampling). The outputs
differ most if they are N(0, noise^2) and a mixture of that with N(1, noise^2); the moment is a
numerical integral over their one dimension.

A step takes a batch at most: should more be drawn, some are left out. That is as likely as the
upper tail of a binomial distribution, and costs some of delta.

Sources: Mironov, Talwar and Zhang 2019, "Rényi differential privacy of the sampled Gaussian
mechanism", theorem 4; Trefethen and Weideman 2014, "The exponentially convergent trapezoidal rule";
Canonne, Kamath and Steinke 2020, "The discrete Gaussian
for differential privacy", proposition 12 (the conversion); Chua et al. 2024, "Scalable DP-SGD:
shuffling vs. Poisson subsampling", theorem 4.1 (batches with an end).
Tests: tests/runtime/test_accountant.py.
"""

from __future__ import annotations

from functools import cached_property
from math import exp, inf, lgamma, log, log1p, pi, sqrt

from ..compiler.ir.lazy_numpy import np
from ..dsl.records import record

ORDERS = (*(1 + n / 10 for n in range(1, 100)), *range(11, 65), 80, 96, 128, 192, 256, 512)
POINTS, TAIL = 8, 10  # of a numerical integral, for a deviation; deviations to its ends
LEAST_TERM = -40.0  # logarithm of a term beside its sum that no longer counts


@record
class Accountant:
    """What steps of this kind spend. `overflow` is the chance that a step draws more examples than
    a batch has; `delta` is that of a run."""

    rate: float
    noise: float
    delta: float
    overflow: float = 0.0

    @cached_property
    def _step(self) -> tuple[tuple[float, float], ...]:
        """The orders, each with the divergence of one step."""
        return tuple((a, sampled_gaussian(self.rate, self.noise, a)) for a in ORDERS)

    def epsilon(self, steps: int) -> float:
        """What so many steps spend; infinite if nothing is guaranteed."""
        if not steps:
            return 0.0
        found = self._epsilon(steps, self.delta)
        lost = steps * self.overflow
        # What is lost of delta grows with epsilon: a fixed point, approached from below.
        while lost:
            rest = self.delta - lost * (1 + exp(min(found, 700.0)))
            more = self._epsilon(steps, rest) if rest > 0 else inf
            if more <= found * (1 + 1e-9):
                break
            found = more
            if found == inf:
                break
        return found

    def _epsilon(self, steps: int, delta: float) -> float:
        found = (converted(order, steps * one, delta) for order, one in self._step)
        return max(0.0, min(found))


def converted(order: float, rdp: float, delta: float) -> float:
    """The epsilon of a divergence of an order, for a delta."""
    if rdp == inf or delta <= 0:
        return inf
    return rdp + log1p(-1 / order) - log(delta * order) / (order - 1)


def sampled_gaussian(rate: float, noise: float, order: float) -> float:
    """The Rényi divergence of this order of one step."""
    if not rate:
        return 0.0
    if not noise:
        return inf
    if rate == 1:
        return order / (2 * noise**2)
    # The integrand is analytic, so that the trapezoidal rule converges exponentially.
    x = np.arange(-TAIL * noise, order + TAIL * noise, noise / POINTS)
    ratio = np.logaddexp(log1p(-rate), log(rate) + (2 * x - 1) / (2 * noise**2))
    terms = order * ratio - x**2 / (2 * noise**2)
    moment = float(np.logaddexp.reduce(terms)) - log(POINTS * sqrt(2 * pi))
    return max(0.0, moment / (order - 1))


def _log_binomial(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


# --- batches with an end -------------------------------------------------------------------------


def chance_of_overflow(examples: int, rate: float, most: int) -> float:
    """The chance that more than `most` of the examples are drawn."""
    if most >= examples or not rate:
        return 0.0
    if rate == 1:
        return 1.0
    total, k = -inf, most + 1
    while k <= examples:
        term = _log_binomial(examples, k) + k * log(rate) + (examples - k) * log1p(-rate)
        total = float(np.logaddexp(total, term))
        # past the mean, terms fall ever faster
        if k > examples * rate and term < total + LEAST_TERM:
            break
        k += 1
    return min(1.0, exp(total))


def rate_for(examples: int, most: int, chance: float) -> float:
    """The largest rate at which more than `most` examples are drawn with this chance at most."""
    if most >= examples:
        return 1.0
    low, high = 0.0, most / examples
    # bisection, to more digits than the chance is known to
    for _ in range(40):
        middle = (low + high) / 2
        within = chance_of_overflow(examples, middle, most) <= chance
        low, high = (middle, high) if within else (low, middle)
    return low
