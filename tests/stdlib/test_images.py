"""pooling, resampling and instance normalisation: values and gradients beside PyTorch, and what is
wrong with their settings."""

from __future__ import annotations

import numpy as np
import pytest

from nnc.dsl.diagnostics.diagnostic import UserError

from .programs import (
    Case,
    check,
    compare_with_differences,
    compare_with_torch,
    ids,
    value_of,
)
from .test_layers import first, image, last

X = {"x": "f32[2, 7, 3]"}


def on_images(name, *given, **more):
    """A function of torch.nn.functional, with channels last."""
    return lambda t, v: last(getattr(t.nn.functional, name)(first(v.x), *given, **more))


def on_sequences(name, *given, **more):
    def reference(t, v):
        return getattr(t.nn.functional, name)(v.x.transpose(1, 2), *given, **more).transpose(1, 2)

    return reference


def resized(height, width, mode, corners):
    aligned = {} if mode == "nearest" else {"align_corners": corners}
    return Case(
        f"Resize to {height} x {width}, {mode}{', corners' * corners}",
        f'x |> Resize({height}, {width}, "{mode}", {str(corners).lower()})',
        image(5, 7, 3),
        on_images("interpolate", size=(height, width), mode=mode, **aligned),
    )


INSIDE = {"count_include_pad": False}
SIZES = [(10, 14), (7, 3), (1, 1), (3, 20)]
CASES = [
    Case("AvgPool pad", "x |> AvgPool(3, 2, 1)", image(7, 8, 3),
         on_images("avg_pool2d", 3, 2, 1, **INSIDE)),
    Case("MaxPool of lists", "x |> MaxPool([2, 3], [1, 2], [1, 0])", image(5, 7, 2),
         on_images("max_pool2d", (2, 3), (1, 2), (1, 0))),
    Case("AvgPool of lists", "x |> AvgPool([2, 3], [1, 2], [1, 1])", image(5, 7, 2),
         on_images("avg_pool2d", (2, 3), (1, 2), (1, 1), **INSIDE)),
    Case("AdaptiveAvgPool of a list", "x |> AdaptiveAvgPool([2, 3])", image(5, 7, 2),
         on_images("adaptive_avg_pool2d", (2, 3))),
    Case("AdaptiveMaxPool of a list", "x |> AdaptiveMaxPool([3, 2])", image(5, 7, 2),
         on_images("adaptive_max_pool2d", (3, 2))),
    Case("Upsample by a list", "x |> Upsample([3, 2])", image(3, 4, 2),
         on_images("interpolate", scale_factor=(3, 2))),
    Case("MaxPool1D", "x |> MaxPool1D(2)", X, on_sequences("max_pool1d", 2)),
    Case("MaxPool1D pad", "x |> MaxPool1D(3, 2, 1)", X, on_sequences("max_pool1d", 3, 2, 1)),
    Case("AvgPool1D", "x |> AvgPool1D(3, 2)", X, on_sequences("avg_pool1d", 3, 2)),
    Case("AvgPool1D pad", "x |> AvgPool1D(3, 2, 1)", X,
         on_sequences("avg_pool1d", 3, 2, 1, **INSIDE)),
    *(Case(f"AdaptiveAvgPool to {n}", f"x |> AdaptiveAvgPool({n})", image(6, 7, 2),
           on_images("adaptive_avg_pool2d", n)) for n in (1, 2, 3, 4, 9)),
    *(Case(f"AdaptiveMaxPool to {n}", f"x |> AdaptiveMaxPool({n})", image(6, 7, 2),
           on_images("adaptive_max_pool2d", n)) for n in (1, 3, 4)),
    Case("AdaptiveAvgPool1D", "x |> AdaptiveAvgPool1D(3)", X,
         on_sequences("adaptive_avg_pool1d", 3)),
    Case("AdaptiveMaxPool1D", "x |> AdaptiveMaxPool1D(3)", X,
         on_sequences("adaptive_max_pool1d", 3)),
    Case("GlobalMaxPool", "x |> GlobalMaxPool", image(3, 4, 5), lambda t, v: v.x.amax((1, 2))),
    Case("GlobalAvgPool1D", "x |> GlobalAvgPool1D", X, lambda t, v: v.x.mean(1)),
    Case("GlobalMaxPool1D", "x |> GlobalMaxPool1D", X, lambda t, v: v.x.amax(1)),

    Case("InstanceNorm", "x |> InstanceNorm", image(4, 3, 5),
         lambda t, v: on_images("instance_norm", weight=v.scale, bias=v.shift)(t, v)),
    Case("InstanceNorm eps", "x |> InstanceNorm(0.1)", image(4, 3, 5),
         lambda t, v: on_images("instance_norm", weight=v.scale, bias=v.shift, eps=0.1)(t, v)),

    *(resized(*size, "nearest", False) for size in SIZES),
    *(resized(*size, "bilinear", corners) for size in SIZES for corners in (False, True)),
    Case("Upsample", "x |> Upsample(2)", image(3, 4, 2), on_images("interpolate", scale_factor=2)),
    Case("Upsample bilinear", 'x |> Upsample(3, "bilinear")', image(3, 4, 2),
         on_images("interpolate", scale_factor=3, mode="bilinear")),
    Case("PixelShuffle", "x |> PixelShuffle(2)", image(2, 3, 12), on_images("pixel_shuffle", 2)),
    Case("PixelUnshuffle", "x |> PixelUnshuffle(3)", image(3, 6, 2),
         on_images("pixel_unshuffle", 3)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_agrees_with_pytorch(case):
    compare_with_torch(case)


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_agrees_with_finite_differences(case):
    compare_with_differences(case)


def test_pixels_return_from_channels():
    x = np.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    check(value_of("x |> PixelUnshuffle(2) |> PixelShuffle(2)", image(4, 6, 3), {"x": x}), x, "y")


@pytest.mark.parametrize(
    "y, code, says",
    [
        ("x |> PixelShuffle(2)", "E0320", "multiple of scale * scale channels"),  # of 3 channels
        ("x |> PixelUnshuffle(2)", "E0320", "multiples of scale"),  # of height 5
        ('x |> Upsample(2, "cubic")', "E0320", 'a mode is "nearest" or "bilinear"'),
        ("x |> Upsample(0)", "E0309", "nothing"),
        ("x |> AdaptiveAvgPool(0)", "E0309", "nothing"),
        ("x |> MaxPool1D(9)", "E0309", "nothing"),
        ("x |> Upsample", "E0205", "needs `scale`"),
    ],
)
def test_mistakes(y, code, says):
    with pytest.raises(UserError) as caught:
        value_of(y, image(5, 6, 3), {})
    (found,) = caught.value.diagnostics
    assert found.code == code
    assert says in found.message
