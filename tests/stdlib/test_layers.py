"""layers, convolution, normalization: values and gradients, of inputs and of parameters."""

from __future__ import annotations

import numpy as np
import pytest

from nnc.compiler.reference.evaluator import evaluate
from nnc.dsl.diagnostics.diagnostic import UserError

from .programs import (
    Case,
    check,
    compare_with_differences,
    compare_with_torch,
    ids,
    model,
    random_values,
    torch_or_skip,
    value_of,
)


def image(h: int, w: int, c: int) -> dict[str, str]:
    return {"x": f"f32[2, {h}, {w}, {c}]"}


# --- PyTorch's layers have channels first ---------------------------------------------------------


def first(x):
    """Channels first: [b, h, w, c] → [b, c, h, w]."""
    return x.permute(0, 3, 1, 2)


def last(x):
    return x.permute(0, 2, 3, 1)


def padded(t, x, window, stride, fill):
    """TensorFlow's "same" padding of [b, c, h, w]."""
    amounts = []
    for n, size in zip(reversed(x.shape[2:]), reversed(window), strict=True):
        total = max((-(-n // stride) - 1) * stride + size - n, 0)
        amounts += [total // 2, total - total // 2]
    return t.nn.functional.pad(x, amounts, value=fill)


def conv(stride=1, pad=0, dilation=1, groups=1):
    def reference(t, v):
        x, amount = first(v.x), pad
        if pad == "same":
            window = [dilation * (n - 1) + 1 for n in v.k.shape[:2]]
            x, amount = padded(t, x, window, stride, 0.0), 0
        return last(
            t.nn.functional.conv2d(
                x, v.k.permute(3, 2, 0, 1), v.b, stride, amount, dilation, groups
            )
        )

    return reference


def conv_transpose(stride=1, pad=0, grow=0):
    def reference(t, v):
        return last(
            t.nn.functional.conv_transpose2d(
                first(v.x), v.k.permute(2, 3, 0, 1), v.b, stride, pad, grow
            )
        )

    return reference


def max_pool(size, stride, pad=0):
    def reference(t, v):
        x, amount = first(v.x), pad
        if pad == "same":
            x, amount = padded(t, x, (size, size), stride, float("-inf")), 0
        return last(t.nn.functional.max_pool2d(x, size, stride, amount))

    return reference


def batch_norm(training):
    def reference(t, v):
        x = v.x.reshape(-1, v.x.shape[-1])
        y = t.nn.functional.batch_norm(
            x, v.running_mean.detach(), v.running_var.detach(), v.scale, v.shift, training
        )
        return y.reshape(v.x.shape)

    return reference


TOKENS = {"x": np.array([[0, 3, 3], [5, 0, 1]])}
CASES = [
    Case("Dense", "x |> Dense(4)", {"x": "f32[2, 5]"}, lambda t, v: v.x @ v.w + v.b),
    Case("Dense of rank 3", "x |> Dense(4)", {"x": "f32[2, 3, 5]"}, lambda t, v: v.x @ v.w + v.b),
    Case("Dense of a vector", "x |> Dense(4)", {"x": "f32[5]"}, lambda t, v: v.x @ v.w + v.b),
    Case("Embedding", "x |> Embedding(6, 4)", {"x": "i32[2, 3]"}, lambda t, v: v.table[v.x.long()],
         TOKENS),
    Case("Flatten of rank 4", "x |> Flatten", image(2, 3, 4), lambda t, v: v.x.flatten(1)),
    Case("Flatten of rank 3", "x |> Flatten", {"x": "f32[2, 3, 4]"}, lambda t, v: v.x.flatten(1)),
    Case("Flatten of rank 2", "x |> Flatten", {"x": "f32[2, 3]"}, lambda t, v: v.x),
    Case("transpose", "transpose(x)", {"x": "f32[2, 3, 4]"}, lambda t, v: v.x.transpose(1, 2)),
    Case("Dropout(0)", "x |> Dropout(0)", {"x": "f32[2, 3]"}, lambda t, v: v.x),
    Case("Dropout, not training", "x |> Dropout(0.5)", {"x": "f32[2, 3]"}, lambda t, v: v.x,
         training=False),

    Case("Conv", "x |> Conv(4, 3)", image(5, 6, 3), conv()),
    Case("Conv 1x1", "x |> Conv(4, 1)", image(3, 2, 3), conv()),
    Case("Conv pad", "x |> Conv(4, 3, pad = 1)", image(5, 6, 3), conv(pad=1)),
    Case("Conv valid", 'x |> Conv(4, 3, 2, "valid")', image(6, 7, 3), conv(2)),
    Case("Conv stride", "x |> Conv(4, 3, stride = 2, pad = 2)", image(6, 7, 3), conv(2, 2)),
    Case("Conv stride > kernel", "x |> Conv(4, 2, stride = 3)", image(7, 8, 3), conv(3)),
    Case("Conv same", 'x |> Conv(4, 3, pad = "same")', image(5, 6, 3), conv(1, "same")),
    Case("Conv same, even kernel", 'x |> Conv(4, 4, pad = "same")', image(5, 6, 3),
         conv(1, "same")),
    Case("Conv same, stride", 'x |> Conv(4, 5, 2, "same")', image(6, 7, 3), conv(2, "same")),
    Case("Conv dilation", "x |> Conv(4, 3, dilation = 2)", image(6, 7, 3), conv(dilation=2)),
    Case("Conv same, dilation", 'x |> Conv(4, 3, pad = "same", dilation = 3)', image(6, 7, 3),
         conv(1, "same", 3)),
    Case("Conv all", "x |> Conv(4, 3, 2, 3, 2, 2)", image(9, 10, 6), conv(2, 3, 2, 2)),
    Case("Conv groups", "x |> Conv(6, 3, groups = 2)", image(4, 5, 4), conv(groups=2)),
    Case("Conv groups, one filter each", "x |> Conv(3, 3, groups = 3)", image(4, 5, 6),
         conv(groups=3)),
    Case("Conv of a list", "x |> Conv(4, [3, 5])", image(5, 6, 3), conv()),
    Case("Conv of lists", "x |> Conv(4, [1, 3], [2, 1], [0, 2], [1, 2])", image(5, 6, 3),
         conv((2, 1), (0, 2), (1, 2))),
    Case("Conv of a list, same", 'x |> Conv(4, [3, 4], 2, "same")', image(5, 6, 3),
         conv(2, "same")),
    Case("DepthwiseConv of a list", "x |> DepthwiseConv([3, 1])", image(4, 5, 4), conv(groups=4)),
    Case("DepthwiseConv", "x |> DepthwiseConv(3)", image(4, 5, 4), conv(groups=4)),
    Case("DepthwiseConv multiplier", 'x |> DepthwiseConv(3, 2, "same", multiplier = 2)',
         image(4, 5, 3), conv(2, "same", groups=3)),

    Case("ConvTranspose", "x |> ConvTranspose(4, 3)", image(3, 4, 2), conv_transpose()),
    Case("ConvTranspose valid", 'x |> ConvTranspose(4, 3, 1, "valid")', image(3, 4, 2),
         conv_transpose()),
    Case("ConvTranspose stride", "x |> ConvTranspose(4, 3, 2)", image(3, 4, 2),
         conv_transpose(2)),
    Case("ConvTranspose kernel = stride", "x |> ConvTranspose(4, 2, 2)", image(3, 4, 2),
         conv_transpose(2)),
    Case("ConvTranspose pad", "x |> ConvTranspose(4, 4, 2, pad = 1)", image(3, 4, 2),
         conv_transpose(2, 1)),
    Case("ConvTranspose stride > kernel", "x |> ConvTranspose(4, 2, 3)", image(3, 4, 2),
         conv_transpose(3)),
    Case("ConvTranspose same", 'x |> ConvTranspose(4, 4, 2, "same")', image(3, 4, 2),
         conv_transpose(2, 1)),
    Case("ConvTranspose same, odd", 'x |> ConvTranspose(4, 3, 2, "same")', image(3, 4, 2),
         lambda t, v: conv_transpose(2)(t, v)[:, :6, :8]),

    Case("ConvTranspose of lists", "x |> ConvTranspose(3, [3, 4], [2, 3], [1, 0])", image(3, 4, 2),
         conv_transpose((2, 3), (1, 0))),
    Case("ConvTranspose of lists, pad", "x |> ConvTranspose(3, [2, 5], [3, 2], [0, 2])",
         image(3, 4, 2), conv_transpose((3, 2), (0, 2))),

    Case("MaxPool", "x |> MaxPool(2)", image(5, 6, 3), max_pool(2, 2)),
    Case("MaxPool overlapping", "x |> MaxPool(3, 2)", image(7, 8, 3), max_pool(3, 2)),
    Case("MaxPool pad", "x |> MaxPool(3, 2, pad = 1)", image(7, 8, 3), max_pool(3, 2, 1)),
    Case("MaxPool same", 'x |> MaxPool(3, 2, "same")', image(6, 7, 3), max_pool(3, 2, "same")),
    Case("MaxPool of ties", "relu(x) |> MaxPool(3, 1)", image(5, 6, 3),
         lambda t, v: max_pool(3, 1)(t, type("V", (), {"x": t.relu(v.x)}))),
    Case("AvgPool", "x |> AvgPool(2)", image(5, 6, 3),
         lambda t, v: last(t.nn.functional.avg_pool2d(first(v.x), 2))),
    Case("AvgPool overlapping", "x |> AvgPool(3, 2)", image(7, 8, 3),
         lambda t, v: last(t.nn.functional.avg_pool2d(first(v.x), 3, 2))),
    Case("GlobalAvgPool", "x |> GlobalAvgPool", image(3, 4, 5), lambda t, v: v.x.mean((1, 2))),

    Case("BatchNorm", "x |> BatchNorm", image(3, 4, 5), batch_norm(True)),
    Case("BatchNorm of rank 2", "x |> BatchNorm", {"x": "f32[6, 4]"}, batch_norm(True)),
    Case("BatchNorm, not training", "x |> BatchNorm", image(3, 4, 5), batch_norm(False),
         training=False),
    Case("LayerNorm", "x |> LayerNorm", {"x": "f32[2, 3, 5]"},
         lambda t, v: t.nn.functional.layer_norm(v.x, (5,), v.scale, v.shift)),
    Case("LayerNorm eps", "x |> LayerNorm(0.1)", {"x": "f32[3, 5]"},
         lambda t, v: t.nn.functional.layer_norm(v.x, (5,), v.scale, v.shift, 0.1)),
    Case("GroupNorm", "x |> GroupNorm(3)", image(2, 3, 6),
         lambda t, v: last(t.nn.functional.group_norm(first(v.x), 3, v.scale, v.shift))),
    Case("GroupNorm, one each", "x |> GroupNorm(4)", image(2, 3, 4),
         lambda t, v: last(t.nn.functional.group_norm(first(v.x), 4, v.scale, v.shift))),
    Case("RMSNorm", "x |> RMSNorm", {"x": "f32[2, 3, 5]"},
         lambda t, v: t.nn.functional.rms_norm(v.x, (5,), v.scale, 1e-6)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_agrees_with_pytorch(case):
    compare_with_torch(case)


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_agrees_with_finite_differences(case):
    compare_with_differences(case)


# --- what a layer does beside its result ----------------------------------------------------------


def test_batch_norm_keeps_running_averages():
    torch = torch_or_skip()
    system = model("model M(x: f32[6, 4]) -> y { y = x |> BatchNorm(momentum = 0.3) }")
    values = random_values(system, {}, "running")
    found = evaluate(system, values)
    mean, var = (torch.tensor(values[f"batchnorm1_running_{n}"]) for n in ("mean", "var"))
    torch.nn.functional.batch_norm(
        torch.tensor(values["x"]), mean, var, training=True, momentum=0.3
    )
    check(found[system.updates["batchnorm1_running_mean"]], mean.numpy(), "running_mean")
    check(found[system.updates["batchnorm1_running_var"]], var.numpy(), "running_var")


def test_batch_norm_of_one_value_is_no_division_by_zero():
    found = value_of("x |> BatchNorm", {"x": "f32[1, 3]"}, {"batchnorm1_shift": [1, 2, 3]})
    check(found, [[1, 2, 3]], "y")


def test_dropout_drops_and_scales():
    case = Case(
        "drop", "x |> Dropout(0.25)", {"x": "f32[100, 100]"}, given={"x": np.ones((100, 100))}
    )
    system, values, names = case.prepared()
    found = evaluate(system, values)
    kept = found["y"] > 0
    assert abs(kept.mean() - 0.75) < 0.02
    check(found["y"][kept], np.full(kept.sum(), 1 / 0.75), "y")
    assert (found[names["x"]][~kept] == 0).all()
    assert (found[names["x"]][kept] != 0).all()
    again = evaluate(system, values | {"step": np.int32(2)})
    assert (found["y"] != again["y"]).any()


def test_each_dropout_draws_for_itself():
    found = value_of("dropout(x) - dropout(x)", {"x": "f32[100]"}, {"x": np.ones(100)})
    assert found.any()


@pytest.mark.parametrize(
    "y, code",
    [
        ("x |> Conv(4, [3, 3, 3])", "E0320"),  # two numbers
        ("x |> Conv([3, 5], 4)", "E0312"),  # exchanged
        ("x |> Conv(4, [3, 9])", "E0309"),  # wider than the image
        ("x |> Conv(4, 9)", "E0309"),  # larger than the image
        ('x |> Conv(4, 3, pad = "sane")', "E0312"),
        ("x |> MaxPool(9)", "E0309"),
        ("x |> Conv(4)", "E0205"),
        ("mse(x, x |> GlobalAvgPool)", "E0301"),  # would broadcast
        ("x |> Conv(4, 3, groups = 2)", "E0320"),  # of 3 channels
        ("x |> Conv(4, 3, groups = 3)", "E0320"),  # of 4 filters
        ("x |> GroupNorm(2)", "E0320"),
    ],
)
def test_mistakes(y, code):
    with pytest.raises(UserError) as caught:
        value_of(y, image(5, 6, 3), {})
    assert {d.code for d in caught.value.diagnostics} == {code}


def test_the_library_keeps_its_own_names():
    """A program may define `merge` or `log_softmax` anew without breaking what the library does."""
    own = "fn merge(x) = x\nfn log_softmax(x) = 0*x\nfn window_count(n, w, s, p) = 1\n"
    x = np.arange(12.0).reshape(1, 2, 3, 2)
    check(value_of("x |> Flatten", {"x": "f32[1, 2, 3, 2]"}, {"x": x}, own), x.reshape(1, 12), "y")
    given = {"x": x, "label": np.zeros((1, 2, 3))}
    types = {"x": "f32[1, 2, 3, 2]", "label": "i32[1, 2, 3]"}
    check(value_of("cross_entropy(x, label)", types, given, own), 1 + np.log1p(np.exp(-1)), "loss")
    check(value_of("log_softmax(x)", types, given, own), 0 * x, "own")
