"""initializers: moments, bounds and orthogonality of what is drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nnc.compiler.elaboration.initializers import initial_system
from nnc.compiler.elaboration.model import elaborate
from nnc.compiler.ir.verify import verify
from nnc.compiler.reference.initial_values import initial_values

from .programs import read, value_of


def drawn(init: str, shape: tuple[int, ...], seed: int = 0, float_type: str = "f64") -> np.ndarray:
    """A parameter of this shape as `~ init` makes it."""
    text = (
        f"layer Start(x: [...]) -> y: [...] {{ param w: {list(shape)} ~ {init}\n y = x }}\n"
        "model M(x: f32[1]) -> y { y = Start(x) }"
    )
    model = elaborate(read(text)[0], "M", {}, float_type=float_type)
    first = verify(initial_system(model.ctx), "initialise")
    return initial_values(model.system(), first, seed)["start1_w"]


# 3·3 places, 40 channels in and 50 out
SHAPE, FAN_IN, FAN_OUT = (3, 3, 40, 50), 360, 450
GLOROT, HE, LECUN = 2 / (FAN_IN + FAN_OUT), 2 / FAN_IN, 1 / FAN_IN
UNIFORM = [
    #  initialiser       low  high
    ("uniform",         -0.05, 0.05),
    ("uniform(1, 3)",    1.0,  3.0),
    ("glorot_uniform",  -math.sqrt(3 * GLOROT), math.sqrt(3 * GLOROT)),
    ("he_uniform",      -math.sqrt(3 * HE),     math.sqrt(3 * HE)),
    ("lecun_uniform",   -math.sqrt(3 * LECUN),  math.sqrt(3 * LECUN)),
]  # fmt: skip
NORMAL = [
    #  initialiser             mu   sigma
    ("normal",                 0.0, 1.0),
    ("normal(2, sigma = 3)",   2.0, 3.0),
    ("glorot_normal",          0.0, math.sqrt(GLOROT)),
    ("he_normal",              0.0, math.sqrt(HE)),
    ("lecun_normal",           0.0, math.sqrt(LECUN)),
]  # fmt: skip


@pytest.mark.parametrize("init, value", [("zeros", 0), ("ones", 1), ("constant(2.5)", 2.5)])
def test_numbers(init, value):
    w = drawn(init, (2, 3))
    assert w.dtype == np.float64
    assert (w == value).all()


@pytest.mark.parametrize("init, low, high", UNIFORM, ids=[u[0] for u in UNIFORM])
def test_uniform(init, low, high):
    w = (drawn(init, SHAPE) - low) / (high - low)
    assert 0 <= w.min() < 0.001
    assert 0.999 < w.max() <= 1
    assert abs(w.mean() - 0.5) < 0.01
    assert abs(w.std() - math.sqrt(1 / 12)) < 0.01


@pytest.mark.parametrize("init, mu, sigma", NORMAL, ids=[n[0] for n in NORMAL])
def test_normal(init, mu, sigma):
    w = (drawn(init, SHAPE) - mu) / sigma
    assert abs(w.mean()) < 0.03
    assert abs(w.std() - 1) < 0.03
    assert abs((w**3).mean()) < 0.1
    assert abs((w**4).mean() - 3) < 0.3
    assert 3 < np.abs(w).max() < 6


@pytest.mark.parametrize("mu, sigma", [(0, 1), (1, 0.5)])
def test_truncated_normal(mu, sigma):
    w = (drawn(f"truncated_normal({mu}, {sigma})", SHAPE) - mu) / sigma
    assert 1.99 < np.abs(w).max() <= 2
    assert abs(w.mean()) < 0.03
    assert abs(w.std() - 0.8796) < 0.01  # of a standard Gaussian cut off at 2
    middle = (np.abs(w) < 1).mean()
    assert abs(middle - math.erf(math.sqrt(0.5)) / math.erf(math.sqrt(2))) < 0.02


def test_inverse_of_erf():
    y = np.linspace(-1.45, 1.45, 200)
    x = np.vectorize(math.erf)(y)
    found = value_of("erf_inverse(x)", {"x": "f32[200]"}, {"x": x})
    assert np.abs(found - y).max() < 1e-7


SHAPES = [(1, 1), (1, 4), (4, 1), (2, 2), (8, 8), (9, 4), (4, 9), (64, 64), (200, 130)]


@pytest.mark.parametrize("float_type, tolerance", [("f64", 1e-12), ("f32", 1e-6)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_orthogonal(shape, float_type, tolerance):
    w = drawn("orthogonal", shape, float_type=float_type)
    assert w.dtype == {"f32": np.float32, "f64": np.float64}[float_type]
    w = w.astype(np.float64)
    w = w if shape[0] >= shape[1] else w.T
    assert np.abs(w.T @ w - np.eye(w.shape[1])).max() < tolerance


def test_orthogonal_gain():
    w = drawn("orthogonal(gain = 2)", (5, 5))
    assert np.abs(w.T @ w - 4 * np.eye(5)).max() < 1e-12


@pytest.mark.slow
def test_every_orthogonal_matrix_is_equally_likely():
    """Rotations and reflections; elements without a preferred sign, of variance 1/n."""
    many = np.array([drawn("orthogonal", (3, 3), seed) for seed in range(400)])
    assert 0.4 < (np.linalg.det(many) > 0).mean() < 0.6
    assert np.abs(many.mean(0)).max() < 0.12
    assert np.abs(many.var(0) - 1 / 3).max() < 0.06


def test_seeds_and_parameters_differ():
    one, same, other = (drawn("normal", (50,), seed) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).all()
