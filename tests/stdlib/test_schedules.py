"""schedules: twenty steps of training beside PyTorch's schedulers, values from the formulas."""

from __future__ import annotations

import math

import pytest

from nnc.dsl.diagnostics.diagnostic import UserError

from .programs import value_of
from .test_optimizers import STEPS, TORCH, compare, trained, trained_by_torch

SCHEDULED = [
    ("cosine(t, 0.1, steps)", lambda s, o: s.CosineAnnealingLR(o, STEPS)),
    ("cosine(t, 0.1, 30, floor = 0.01)", lambda s, o: s.CosineAnnealingLR(o, 30, 0.01)),
    ("step_decay(t, 0.1, 7)", lambda s, o: s.StepLR(o, 7)),
    ("step_decay(t, 0.1, 3, rate = 0.5)", lambda s, o: s.StepLR(o, 3, 0.5)),
    ("one_cycle(t, 0.1, steps)", lambda s, o: s.OneCycleLR(o, 0.1, STEPS, cycle_momentum=False)),
    ("exponential_decay(t, 0.1, 0.9)", lambda s, o: s.ExponentialLR(o, 0.9)),
    ("polynomial_decay(t, 0.1, 15)", lambda s, o: s.PolynomialLR(o, 15)),
    ("polynomial_decay(t, 0.1, steps, power = 2.5)", lambda s, o: s.PolynomialLR(o, STEPS, 2.5)),
    (
        "cosine_restarts(t, 0.1, 7, floor = 0.01)",
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 7, eta_min=0.01),
    ),
    ("triangle(t, 0.02, 0.1, 6)", lambda s, o: s.CyclicLR(o, 0.02, 0.1, 6, cycle_momentum=False)),
    ("warmup(t, 0.1, 5)", lambda s, o: s.LinearLR(o, 0.2, 1.0, 4)),
    ("constant(0.1)", lambda s, o: s.ConstantLR(o, 1.0)),
]


@pytest.mark.parametrize("text, schedule", SCHEDULED, ids=[row[0] for row in SCHEDULED])
def test_scheduled_training(text, schedule):
    found = trained(f"optimizer = sgd(lr = {text})")
    compare(found, trained_by_torch(TORCH[0][1], schedule))


def half_wave(a: float, b: float, x: float) -> float:
    return b + (a - b) * (1 + math.cos(math.pi * x)) / 2


POINTS = [
    ("cosine(t, 2.0, 100)", {1: 2.0, 51: 1.0, 101: 0.0, 500: 0.0}),
    ("cosine(t, 2.0, 100, 0.5)", {1: 2.0, 26: half_wave(2, 0.5, 0.25), 101: 0.5}),
    ("step_decay(t, 2.0, 10)", {1: 2.0, 10: 2.0, 11: 0.2, 20: 0.2, 21: 0.02}),
    ("warmup(t, 2.0, 10)", {1: 0.2, 5: 1.0, 10: 2.0, 50: 2.0}),
    ("warmup_cosine(t, 2.0, 10, 110)", {1: 0.2, 10: 2.0, 60: 1.0, 110: 0.0, 111: 0.0}),
    ("noam(t, 512, 4000)", {1: 512**-0.5 * 4000**-1.5, 4000: (512 * 4000) ** -0.5,
                            16000: (512 * 16000) ** -0.5}),
    ("noam(t, 64, rise = 10, factor = 2)", {5: 0.25 * 5 * 10**-1.5, 40: 0.25 * 40**-0.5}),
    ("inverse_sqrt(t, 2.0, 100)", {1: 0.02, 100: 2.0, 400: 1.0}),
    ("warmup_linear(t, 2.0, 10, 110)", {1: 0.2, 10: 2.0, 60: 1.0, 110: 0.0, 111: 0.0}),
    ("warmup_linear(t, 2.0, 0, 100, floor = 1)", {1: 1.99, 50: 1.5, 100: 1.0}),
    ("warmup_stable_decay(t, 2.0, 10, 20, 100)",
     {1: 0.2, 10: 2.0, 81: 2.0, 91: 1.0, 100: 0.1, 101: 0.0, 500: 0.0}),
    ("one_cycle(t, 2.0, 100)",
     {1: 0.08, 30: 2.0, 65: half_wave(2, 0.08e-4, 0.5), 100: 0.08e-4, 200: 0.08e-4}),
    ("one_cycle(t, 2.0, 20, rise = 0.05)", {1: 2.0, 20: 0.08e-4}),
    ("constant(2.0) + 0*t", {1: 2.0, 99: 2.0}),
]  # fmt: skip


@pytest.mark.parametrize("text, points", POINTS, ids=[row[0] for row in POINTS])
def test_schedule_at(text, points):
    for t, expected in points.items():
        found = float(value_of(text, {"t": "i32[]"}, {"t": t}))
        assert abs(found - expected) < 1e-12, f"t = {t}"


WRONG = [
    ("warmup_cosine(t, 1.0, 100, 100)", "the warmup must be shorter than all steps together"),
    ("warmup_linear(t, 1.0, 200, 100)", "the warmup must be shorter than all steps together"),
    ("one_cycle(t, 1.0, 100, rise = 30)", "the rise of a cycle is a fraction of all steps"),
]


@pytest.mark.parametrize("text, message", WRONG, ids=[row[0] for row in WRONG])
def test_wrong_uses_of_schedules(text, message):
    with pytest.raises(UserError) as caught:
        value_of(text, {"t": "i32[]"}, {"t": 1})
    assert message in caught.value.diagnostics[0].message
