"""augmentation: every example is changed as NumPy or PyTorch would change it, with draws of the
distribution that is stated; gradients; and nothing is changed outside of training."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import nnc
from nnc.compiler.reference.evaluator import evaluate
from nnc.dsl.diagnostics.diagnostic import UserError

from .programs import (
    Case,
    check,
    compare_with_differences,
    compare_with_torch,
    ids,
    model,
    value_of,
)

RNG = np.random.default_rng(2)
IMAGES = RNG.normal(size=(200, 5, 4, 2))
IMAGE = {"x": "f32[200, 5, 4, 2]"}
SMALL = {"x": "f32[3, 6, 5, 2]"}
USES = [
    "flip(x)", "flip_vertical(x)", "shift(x, 2)", "rotate(x, 30)", "zoom(x)", "cutout(x, 3)",
    "brightness(x)", "contrast(x)", "noise(x)",
]  # fmt: skip


def changed(y: str, x: np.ndarray = IMAGES, training: bool = True) -> np.ndarray:
    found = value_of(y, {"x": f"f32{list(x.shape)}"}, {"x": x}, training=training)
    return np.asarray(found)


def _sampled(t, v):
    """grid_sample reads places in units of the image, columns first."""
    h, w = v.x.shape[1:3]
    grid = t.stack([v.right / (w - 1), v.down / (h - 1)], -1) * 2 - 1
    y = t.nn.functional.grid_sample(v.x.permute(0, 3, 1, 2), grid, align_corners=True)
    return y.permute(0, 2, 3, 1)


def _zoomed(t, v):
    scale = t.tensor([[[0.5, 0, 0], [0, 0.5, 0]]], dtype=t.float64).expand(3, 2, 3)
    grid = t.nn.functional.affine_grid(scale, [3, 2, 6, 5], align_corners=True)
    h, w = 6, 5
    return _sampled(t, SimpleNamespace(
        x=v.x, right=(grid[..., 0] + 1) / 2 * (w - 1), down=(grid[..., 1] + 1) / 2 * (h - 1)
    ))  # fmt: skip


PLACES = {"down": RNG.uniform(-1.5, 6.5, (3, 4, 3)), "right": RNG.uniform(-1.5, 5.5, (3, 4, 3))}
CASES = [Case(y, y, SMALL) for y in (*USES, "crop(x, 3)", "crop(x, 4, 2)")]
CASES += [
    Case("spec_augment", "spec_augment(x)", {"x": "f32[2, 24, 12]"}),
    Case("at_places", "at_places(x, down, right)",
         {**SMALL, "down": "f32[3, 4, 3]", "right": "f32[3, 4, 3]"}, _sampled, PLACES),
    Case("zoom by 2", "zoom(x, 2, 2)", SMALL, _zoomed),
    Case("mixture", "mixture(x, partner, share)", {**SMALL, "partner": "i32[3]", "share": "f32[3]"},
         lambda t, v: v.share[:, None, None, None] * v.x
         + (1 - v.share)[:, None, None, None] * v.x[v.partner.long()], {"partner": [2, 0, 0]}),
    Case("mixed_cross_entropy", "mixed_cross_entropy(z, label, partner, share)",
         {"z": "f32[3, 4]", "label": "i32[3]", "partner": "i32[3]", "share": "f32[3]"},
         lambda t, v: (v.share * _entropy(t, v, v.label) + (1 - v.share)
                       * _entropy(t, v, v.label[v.partner.long()])).mean(),
         {"partner": [2, 0, 0], "label": [3, 1, 0]}),
]  # fmt: skip


def _entropy(t, v, label):
    return t.nn.functional.cross_entropy(v.z, label.long(), reduction="none")


COMPARED = [case for case in CASES if case.reference]


@pytest.mark.parametrize("case", COMPARED, ids=ids(COMPARED))
def test_agrees_with_pytorch(case):
    compare_with_torch(case)


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_agrees_with_finite_differences(case):
    compare_with_differences(case)


@pytest.mark.parametrize("y", USES)
def test_nothing_is_changed_outside_of_training(y):
    assert changed(y).tolist() != IMAGES.tolist()
    assert changed(y, training=False).tolist() == IMAGES.tolist()


def test_draws_are_those_of_seed_and_step():
    system = model("model M(x: f32[200, 5, 4, 2]) -> y { y = x |> shift(1) |> flip }")

    def run(seed: int, step: int) -> list:
        drawn = {"seed": np.int32(seed), "step": np.int32(step)}
        return evaluate(system, {"x": IMAGES, **drawn})["y"].tolist()

    assert run(1, 1) == run(1, 1)
    assert run(1, 1) != run(1, 2) != run(2, 2)


def which(y: np.ndarray, candidates: list[np.ndarray]) -> np.ndarray:
    """For every example, the number of the one candidate that it equals."""
    axes = tuple(range(1, y.ndim))
    equal = np.array([np.isclose(y, c, atol=1e-12).all(axes) for c in candidates])
    assert (equal.sum(0) == 1).all()
    return equal.argmax(0)


def assert_uniform(found: np.ndarray, n: int) -> None:
    """Chi-squared at five deviations."""
    counts = np.bincount(found, minlength=n)
    expected = len(found) / n
    surplus = ((counts - expected) ** 2 / expected).sum()
    assert surplus < n - 1 + 5 * np.sqrt(2 * max(n - 1, 1)), counts


@pytest.mark.parametrize("y, axis", [("flip", 2), ("flip_vertical", 1)])
def test_flips(y, axis):
    candidates = [IMAGES, np.flip(IMAGES, axis)]
    assert_uniform(which(changed(f"{y}(x)"), candidates), 2)
    assert which(changed(f"{y}(x, p = 0.2)"), candidates).mean() == pytest.approx(0.2, abs=0.15)
    assert not which(changed(f"{y}(x, 0.0)"), candidates).any()
    assert which(changed(f"{y}(x, p = 1.0)"), candidates).all()


def test_shift():
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)))
    moved = [padded[:, i : i + 5, j : j + 4] for i in range(5) for j in range(5)]
    assert_uniform(which(changed("shift(x, 2)"), moved), 25)


def test_crop():
    parts = [IMAGES[:, i : i + 3, j : j + 2] for i in range(3) for j in range(3)]
    assert_uniform(which(changed("crop(x, 3, width = 2)"), parts), 9)
    middle = changed("crop(x, 3, 2)", training=False)
    assert middle.tolist() == IMAGES[:, 1:4, 1:3].tolist()
    assert changed("crop(x, 4)").shape == (200, 4, 4, 2)


def test_rotate():
    """Of a picture of its own coordinates, every pixel tells where it comes from."""
    i, j = np.mgrid[0:9, 0:7] - np.array([4, 3])[:, None, None]
    x = np.broadcast_to(np.stack([i, j], -1), (300, 9, 7, 2))
    y = changed("rotate(x, 30)", x)
    angle = np.arctan2(y[:, 4, 4, 0] * -1, y[:, 4, 4, 1])
    assert (abs(angle) <= np.pi / 6).all()
    assert_uniform(((angle / (np.pi / 6) + 1) * 5).astype(int).clip(0, 9), 10)
    c, s = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    inside = (slice(None), slice(2, 7), slice(1, 6))
    check(y[..., 0][inside], (c * i - s * j)[inside], "rows")
    check(y[..., 1][inside], (s * i + c * j)[inside], "columns")
    assert changed("rotate(x, 0)").tolist() == IMAGES.tolist()


def test_cutout():
    y = changed("cutout(x, 3)")
    candidates = []
    for i in range(5):
        for j in range(4):
            cut = IMAGES.copy()
            cut[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2] = 0
            candidates.append(cut)
    assert_uniform(which(y, candidates), 20)


def test_brightness_and_contrast():
    factor = (changed("brightness(x, 0.3)") / IMAGES).reshape(200, -1)
    check(factor, factor[:, :1] + 0 * factor, "one factor for each image")
    assert factor.min() >= 0.7 and factor.max() <= 1.3 and factor.std() > 0.1
    y, mean = changed("contrast(x, most = 0.3)"), IMAGES.mean((1, 2, 3), keepdims=True)
    check(y.mean((1, 2, 3)), mean[:, 0, 0, 0], "mean")
    factor = ((y - mean) / (IMAGES - mean)).reshape(200, -1)
    check(factor, factor[:, :1] + 0 * factor, "one factor for each image")
    assert factor.min() >= 0.7 and factor.max() <= 1.3 and factor.std() > 0.1


def test_noise():
    drawn = (changed("noise(x, sigma = 0.5)") - IMAGES) / 0.5
    assert abs(drawn.mean()) < 0.06 and abs(drawn.std() - 1) < 0.05
    assert abs((drawn**4).mean() - 3) < 0.5  # as of a normal distribution


def test_spec_augment():
    x = RNG.uniform(1, 2, (100, 30, 12))
    y = changed("spec_augment(x, time = 10, bands = 4, times = 1)", x)
    rows, columns = (y == 0).all(2), (y == 0).all(1)
    assert ((y == 0) == (rows[:, :, None] | columns[:, None])).all()
    assert (y == np.where(y == 0, 0, x)).all()
    for masked, most in ((rows, 10), (columns, 4)):
        assert (abs(np.diff(masked.astype(int), axis=1)).sum(1) <= 2).all()  # one range
        assert_uniform(masked.sum(1), most + 1)


# --- mixtures -------------------------------------------------------------------------------------

MIXED = """model M(x: f32[200, 5, 4, 2]) -> mixed, partner, share {{
    mixed, partner, share = {}
}}"""


def mixed(y: str, training: bool = True) -> dict[str, np.ndarray]:
    values = {"x": IMAGES, "seed": np.int32(3), "step": np.int32(1)}
    system = model(MIXED.format(y), training)
    return evaluate(system, {n: v for n, v in values.items() if n in system.tensors})


def test_mixup():
    found = mixed("mixup(x, alpha = 0.4)")
    share = found["share"][:, None, None, None]
    expected = share * IMAGES + (1 - share) * IMAGES[found["partner"]]
    check(found["mixed"], expected, "mixed")
    assert_uniform((found["partner"] - np.arange(200)) % 200 - 1, 199)


def test_cutmix():
    found = mixed("cutmix(x)")
    other = IMAGES[found["partner"]]
    pasted = (found["mixed"] == other).all(-1)
    assert (found["mixed"] == np.where(pasted[..., None], other, IMAGES)).all()
    check(found["share"], 1 - pasted.mean((1, 2)), "share")
    tall, wide = pasted.any(2).sum(1), pasted.any(1).sum(1)
    assert (tall * wide == pasted.sum((1, 2))).all()  # a box
    # the largest box has the size 2 * (5 // 2) by 2 * (3 // 2)
    assert found["share"].min() == 1 - 4 * 2 / 20 and found["share"].max() == 1


@pytest.mark.parametrize("y", ["mixup(x)", "cutmix(x)"])
def test_no_mixtures_outside_of_training(y):
    found = mixed(y, training=False)
    assert found["mixed"].tolist() == IMAGES.tolist()
    assert (found["share"] == 1).all() and (found["partner"] == np.arange(200)).all()


@pytest.mark.parametrize("alpha", [0.1, 0.4, 0.5, 0.7, 1.0, 4.0])
def test_beta_draws(alpha):
    """Moments of Beta(alpha, alpha): mean 1/2, variance 1/(4(2a + 1)), the fourth."""
    x = np.zeros((8000, 1))
    drawn = 2 * np.asarray(value_of(f"beta_draws(x, {alpha})", {"x": "f32[8000, 1]"}, {"x": x})) - 1
    assert abs(drawn).max() <= 1 and abs(drawn.mean()) < 0.05
    variance = 1 / (2 * alpha + 1)
    assert (drawn**2).mean() == pytest.approx(variance, abs=0.03)
    assert (drawn**4).mean() == pytest.approx(3 * variance / (2 * alpha + 3), abs=0.03)


@pytest.mark.slow
def test_training_with_mixtures(tmp_path):
    """As machine code: the loss is that of the set, in training a mixture and in evaluation not."""
    file = tmp_path / "m.nn"
    file.write_text("""
model M(image: f32[B, 6, 6, 1]) -> logits: f32[B, 3] {
    mixed, partner, share = mixup(image |> flip |> shift(1))
    logits = mixed |> Flatten |> Dense(3)
}
train M {
    input label: i32[B]
    loss = mixed_cross_entropy(logits, label, partner, share)
    metric again = cross_entropy(logits, label)
    optimizer = adam(lr = 0.02)
    batch = 16
    epochs = 12
}
""")
    rng = np.random.default_rng(1)
    label = rng.integers(0, 3, 90).astype(np.int32)
    image = rng.normal(size=(90, 6, 6, 1)) + 2 * np.eye(6)[label][:, :, None, None]
    fitted = nnc.load(file, threads=1)
    lines = fitted.fit(image=image.astype(np.float32), label=label)
    assert lines[-1]["loss"] != lines[-1]["again"]
    found = fitted.evaluate(image=image.astype(np.float32), label=label)
    assert found["loss"] == pytest.approx(found["again"]) and found["loss"] < lines[0]["loss"]


WRONG = [
    ("crop(x, 7)", "a crop must not be larger than the image"),
    ("mixup(x, alpha = 0)", "the alpha of a mixture must be above 0"),
    ("shift(x)", "`shift` needs `most`"),
    ("flip(x, p = 1.5)", "a probability must be from 0 to 1"),
]


@pytest.mark.parametrize("y, message", WRONG)
def test_wrong_uses(y, message):
    with pytest.raises(UserError) as caught:
        changed(y)
    assert message in caught.value.diagnostics[0].message
