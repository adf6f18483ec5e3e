"""`private = dp(clip = 1.0, noise = 1.1, delta = 1e-5)` of a train block: what it says, and what it
means for data of a certain size.

In: the setting's expression, the number of training examples. Out: a `PrivacyChoice`, and of it the
`Sampling`: how examples are drawn, and what the steps spend (`accountant.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from math import exp, inf, isfinite

from ..dsl.diagnostics.diagnostic import Report, UserError, closest, did_you_mean, fail
from ..dsl.records import record
from ..dsl.syntax import ast as s
from ..dsl.syntax.source import Span
from .accountant import Accountant, chance_of_overflow, rate_for
from .conditions import Condition
from .constants import constant_number

ARGUMENTS = ("clip", "noise", "delta", "rate")
OVERFLOW = 1e-7  # chance that a step draws more than a batch, in units of delta, without a `rate`
MOST_EXPONENT = 700  # of a float
MOST_STEPS = 2**31 - 1
LEAST_SHARE = 0.5  # of delta that is left after what full batches cost
HELP = "like `private = dp(clip = 1.0, noise = 1.1, delta = 1e-5)`"


@record
class PrivacyChoice:
    """The norm to which the gradient of one example is clipped, the deviation of the noise in units
    of it, the delta of the guarantee, and the probability with which a step draws each example;
    None: as large as the batch allows."""

    clip: float
    noise: float
    delta: float
    rate: float | None = None
    span: Span | None = None

    @staticmethod
    def read(value: s.Expr, lets: Mapping[str, s.Expr]) -> PrivacyChoice:
        """UserError E0703 for anything but `dp(…)` with numbers that make sense."""
        name = value.function if isinstance(value, s.Call) else value
        if not isinstance(name, s.Name) or name.id != "dp" or not isinstance(value, s.Call):
            raise fail("E0703", "`private` takes `dp(…)`", value.span, help=HELP)
        found: dict[str, float] = {}
        misspelt: set[str] = set()
        report = Report()
        for place, argument in enumerate(value.arguments):
            key = argument.name or (ARGUMENTS[place] if place < len(ARGUMENTS) else "")
            if key not in ARGUMENTS or key in found:
                what = f"has no argument `{key}`" if key else "takes four numbers"
                what = f"has two values for `{key}`" if key in found else what
                help = did_you_mean(key, ARGUMENTS) or HELP
                misspelt.add(closest(key, ARGUMENTS))
                report.add("E0703", f"`dp` {what}", argument.span, help=help)
                continue
            try:
                found[key] = float(constant_number(argument.value, lets))
            except UserError as error:
                found[key] = 0.0
                report.extend(error.diagnostics)
                continue
            expected = _wrong(key, found[key])
            if expected:
                report.add("E0703", f"`{key}` must be {expected}", argument.value.span)
        missing = [key for key in ARGUMENTS[:3] if key not in found and key not in misspelt]
        if missing:
            listed = " and ".join(f"`{key}`" for key in missing)
            report.add("E0703", f"`dp` needs {listed}", value.span, help=HELP)
        report.check()
        return PrivacyChoice(**found, span=value.span)


def _wrong(key: str, value: float) -> str:
    """What an argument must be, if it is not."""
    if key == "clip" and not (value > 0 and isfinite(value)):
        return "a norm above 0"
    if key == "noise" and not (value >= 0 and isfinite(value)):
        return "a deviation from 0 on, in units of the norm"
    if key == "delta" and not 0 < value < 1:
        return "a chance between 0 and 1, much less than one over the number of examples"
    if key == "rate" and not 0 < value <= 1:
        return "a probability above 0, up to 1"
    return ""


@record
class Sampling:
    """Poisson sampling: every step draws each of the `examples` by itself with the probability
    `rate`, and takes `capacity` of those drawn at most."""

    choice: PrivacyChoice
    examples: int
    capacity: int

    @cached_property
    def rate(self) -> float:
        if self.choice.rate is not None:
            return self.choice.rate
        return rate_for(self.examples, self.capacity, OVERFLOW * self.choice.delta)

    @property
    def expected(self) -> float:
        """The examples of a step on average."""
        return self.rate * self.examples

    @property
    def _expected_text(self) -> str:
        return f"{self.expected:,.0f}" if self.expected >= 100 else f"{self.expected:.3g}"

    @property
    def steps(self) -> int:
        """The steps of an epoch: in these, each example is drawn once on average."""
        return max(1, round(1 / self.rate))

    @cached_property
    def overflow(self) -> float:
        """The chance that a step draws more than it takes."""
        return chance_of_overflow(self.examples, self.rate, self.capacity)

    @cached_property
    def accountant(self) -> Accountant:
        choice = self.choice
        return Accountant(self.rate, choice.noise, choice.delta, self.overflow)

    def last_step(self, conditions: Iterable[Condition]) -> tuple[int, Condition] | None:
        """The last step before the first of the conditions on epsilon alone would hold, and that
        condition; None if there is none, or none that ever holds."""
        found = []
        for condition in (one for each in conditions for one in each.alternatives):
            if {*condition.names} == {"epsilon"}:
                low, high = 0, 1
                while high < MOST_STEPS and not self._holds(condition, high):
                    low, high = high, 2 * high
                if high > MOST_STEPS:
                    continue
                while high - low > 1:
                    middle = (low + high) // 2
                    over = self._holds(condition, middle)
                    low, high = (low, middle) if over else (middle, high)
                found.append((low, condition))
        return min(found, key=lambda one: one[0], default=None)

    def _holds(self, condition: Condition, steps: int) -> bool:
        return condition.holds({"epsilon": self.accountant.epsilon(steps)})

    def planned(self, steps: int | None, conditions: Iterable[Condition]) -> int | None:
        """How many steps a run has that ends after so many, or by a condition on epsilon."""
        last = self.last_step(conditions)
        return min((n for n in (steps, last and last[0]) if n is not None), default=None)

    def check(self, steps: int | None, conditions: Iterable[Condition]) -> None:
        """UserError E0703 if so many steps draw too many examples too often, or if the first one
        ends the run."""
        last = self.last_step(conditions)
        if last is not None and last[0] == 0:
            raise fail(
                "E0703",
                f"the first step spends epsilon {self.accountant.epsilon(1):.3g}",
                last[1].expr.span,
                label="this would hold after it",
                help="more `noise`, a smaller `rate`, or a larger epsilon",
            )
        taken = self.planned(steps, conditions) or self.steps
        spent = replace(self.accountant, overflow=0.0).epsilon(taken)
        if spent == inf:  # without noise nothing is promised
            return
        delta, factor = self.choice.delta, taken * (1 + exp(min(spent, MOST_EXPONENT)))
        if factor * self.overflow > LEAST_SHARE * delta:
            # less than may be lost, as a smaller rate may take more steps
            chance = min(OVERFLOW * delta, LEAST_SHARE / 4 * delta / factor)
            rate = rate_for(self.examples, self.capacity, chance)
            raise fail(
                "E0703",
                f"a step draws {self._expected_text} examples on average, and more than the "
                f"{self.capacity:,} that fit with a chance of {self.overflow:.1e}",
                self.choice.span,
                label=f"`delta` is {delta:g} for {taken:,} steps",
                help=f"`rate = {rate:.3g}` is the largest for this batch; or a larger `batch`",
            )

    def text(self, steps: int | None) -> str:
        """What a run of so many steps spends, and how it draws."""
        told = (
            f"each step draws each of {self.examples:,} examples with probability {self.rate:.4g}"
        )
        told += f", {self._expected_text} on average and {self.capacity:,} at most"
        if self.overflow:
            told += f" (more are drawn with a chance of {self.overflow:.1e})"
        if steps is None:
            return told
        spent = self.accountant.epsilon(steps)
        return f"{steps:,} steps spend epsilon {spent:.3f} at delta {self.choice.delta:g}: {told}"
