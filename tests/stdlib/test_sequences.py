"""recurrent, attention, sequence, ctc: values and gradients beside PyTorch, on every backend, and
what of a recurrence runs inside its loop."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby, product
from types import SimpleNamespace

import numpy as np
import pytest
from support import check_gradients, gradients, mostly_slow, one_in, plan
from support import system as system_of

from nnc.compiler.elaboration.train_block import Setup
from nnc.compiler.ir.gradients import add_gradients
from nnc.compiler.passes.autodiff.differentiate import differentiate
from nnc.compiler.passes.kernels.kernel import Kernel, Scan
from nnc.compiler.programs import training_step
from nnc.compiler.reference.evaluator import evaluate
from nnc.dsl.check.checker import load_source
from nnc.dsl.diagnostics.diagnostic import Report, UserError
from nnc.dsl.syntax.source import Source
from nnc.runtime.device.cpu.program import CpuProgram

from .programs import (
    Case,
    check,
    compare_with_torch,
    ids,
    model,
    random_values,
    torch_or_skip,
    value_of,
    within,
)

X = {"x": "f32[2, 5, 6]"}
LENGTHS = np.array([3, 5])


# --- PyTorch's modules with our parameters --------------------------------------------------------


def run(t, module, weights, *inputs, **options):
    """A module's first result, with the given parameters in place of its own."""
    found = t.func.functional_call(module.double(), weights, inputs, options)
    return found[0] if type(found) is tuple else found  # a packed sequence is one, too


def rows(w):
    """[n, gates, units] → PyTorch's [gates*units, n]."""
    return w.reshape(len(w), -1).T


def recurrent(kind, units, layers=(("", "_l0"),), **options):
    """`layers` are pairs of our prefix and PyTorch's suffix. Inputs called `h0`, `c0` and `length`
    are PyTorch's first states, and lengths of sequences that it packs."""

    def reference(t, v):
        names, weights = vars(v), {}
        for prefix, suffix in layers:
            b = names[f"{prefix}b"].reshape(-1)
            own = names.get(f"{prefix}c")
            other = t.zeros_like(b) if own is None else t.cat([t.zeros_like(b[: 2 * units]), own])
            weights |= {
                f"weight_ih{suffix}": rows(names[f"{prefix}W"]),
                f"bias_ih{suffix}": b,
                f"weight_hh{suffix}": rows(names[f"{prefix}U"]),
                f"bias_hh{suffix}": other,
            }
        module = getattr(t.nn, kind)(v.x.shape[-1], units, batch_first=True, **options)
        starts = [names[n][None] for n in ("h0", "c0") if n in names]
        start = (tuple(starts) if kind == "LSTM" else starts[0],) if starts else ()
        if "length" not in names:
            return run(t, module, weights, v.x, *start)
        tools = t.nn.utils.rnn
        packed = tools.pack_padded_sequence(v.x, v.length, batch_first=True, enforce_sorted=False)
        found = run(t, module, weights, packed, *start)
        return tools.pad_packed_sequence(found, batch_first=True, total_length=v.x.shape[1])[0]

    return reference


def both(kind):
    layers = ((f"{kind.lower()}1_", "_l0"), (f"{kind.lower()}2_", "_l0_reverse"))
    return recurrent(kind, 4, layers, bidirectional=True)


def stacked(kind):
    layers = tuple((f"{kind.lower()}{n + 1}_", f"_l{n}") for n in range(3))
    return recurrent(kind, 4, layers, num_layers=3)


def backwards(reference):
    return lambda t, v: reference(t, SimpleNamespace(**{**vars(v), "x": v.x.flip(1)})).flip(1)


def read_backwards(kind):
    """A recurrent layer over each sequence from its own end, alone; behind it is h0."""

    def reference(t, v):
        found = []
        for n, count in enumerate(v.length):
            own = {k: x[n : n + 1] for k, x in vars(v).items() if k in ("h0", "c0")}
            x = v.x[n : n + 1, :count].flip(1)
            y = recurrent(kind, 4)(t, SimpleNamespace(**{**weights_of(v), **own, "x": x})).flip(1)
            found.append(t.cat([y[0], v.h0[n].expand(v.x.shape[1] - count, -1)]))
        return t.stack(found)

    return reference


def weights_of(v):
    return {n: x for n, x in vars(v).items() if n in ("W", "U", "b", "c")}


def cells(t, v):
    """All cells of an LSTM: the last ones of all beginnings."""
    b = v.lstm1_b.reshape(-1)
    weights = {
        "weight_ih_l0": rows(v.lstm1_W),
        "weight_hh_l0": rows(v.lstm1_U),
        "bias_ih_l0": b,
        "bias_hh_l0": t.zeros_like(b),
    }
    module = t.nn.LSTM(v.x.shape[-1], 4, batch_first=True).double()
    found = [t.func.functional_call(module, weights, (v.x[:, :n],)) for n in range(1, 6)]
    return t.stack([c[0] for _, (_, c) in found], 1)


def joint(t, v, prefix=""):
    """The parameters of an Attention as those of nn.MultiheadAttention."""
    p = {n.removeprefix(prefix): x for n, x in vars(v).items() if n.startswith(prefix)}
    heads = [f"heads{n}" for n in (1, 2, 3)]
    out = p["join1_W"]
    weights = {
        "in_proj_weight": t.cat([rows(p[f"{h}_W"]) for h in heads]),
        "out_proj.weight": rows(out.reshape(-1, out.shape[-1])),
    }
    if "join1_b" in p:
        weights["in_proj_bias"] = t.cat([p[f"{h}_b"].reshape(-1) for h in heads])
        weights["out_proj.bias"] = p["join1_b"]
    return weights


def later(t, steps):
    return t.ones(steps, steps, dtype=t.bool).triu(1)


def padding(t, length, steps):
    return t.arange(steps) >= length[:, None]


def attention(bias=True, causal=False, length=False):
    def reference(t, v):
        module = t.nn.MultiheadAttention(6, 3, bias=bias, batch_first=True)
        return run(
            t,
            module,
            joint(t, v),
            v.x,
            v.x,
            v.x,
            need_weights=False,
            attn_mask=later(t, 5) if causal else None,
            key_padding_mask=padding(t, v.length, 5) if length else None,
        )

    return reference


def cross(t, v):
    module = t.nn.MultiheadAttention(6, 3, kdim=4, vdim=4, batch_first=True)
    weights = joint(t, SimpleNamespace(**{**vars(v), "heads1_W": v.heads2_W}))
    del weights["in_proj_weight"]
    for name, w in zip("qkv", (v.heads1_W, v.heads2_W, v.heads3_W), strict=True):
        weights[f"{name}_proj_weight"] = rows(w)
    return run(
        t,
        module,
        weights,
        v.x,
        v.memory,
        v.memory,
        need_weights=False,
        key_padding_mask=padding(t, v.length, 4),
    )


def grouped(t, v):
    q, k, v_ = (
        t.einsum("bti,iha->bhta", v.x, getattr(v, f"heads{n}_W"))
        + getattr(v, f"heads{n}_b")[:, None]
        for n in (1, 2, 3)
    )
    y = t.nn.functional.scaled_dot_product_attention(q, k, v_, enable_gqa=True, is_causal=True)
    return t.einsum("bhta,hai->bti", y, v.join1_W) + v.join1_b


def turned(t, x, base=1e4):
    half = x.shape[-1] // 2
    angle = t.outer(t.arange(x.shape[-2]), base ** (-t.arange(half, dtype=t.float64) / half))
    z = t.complex(x[..., :half], x[..., half:]) * t.polar(t.ones_like(angle), angle)
    return t.cat([z.real, z.imag], -1)


def turned_attention(t, v):
    q, k, v_ = (t.einsum("bti,iha->bhta", v.x, getattr(v, f"heads{n}_W")) for n in (1, 2, 3))
    y = t.nn.functional.scaled_dot_product_attention(turned(t, q), turned(t, k), v_)
    return t.einsum("bhta,hai->bti", y, v.join1_W)


def sinusoids(t, v):
    angle = t.arange(5)[:, None] / 1e4 ** (t.arange(0, 6, 2, dtype=t.float64) / 6)
    return v.x + t.stack([angle.sin(), angle.cos()], -1).flatten(1)


def block(kind, norms, norm_first=False, act="relu", causal=False, attentions=("self_attn",)):
    """One of PyTorch's transformer layers."""

    def reference(t, v):
        p, weights = vars(v), {}
        names = ("attention1_", "crossattention1_")
        for name, prefix in zip(attentions, names, strict=False):
            weights |= {f"{name}.{n}": w for n, w in joint(t, v, prefix).items()}
        for n in range(1, norms + 1):
            weights[f"norm{n}.weight"] = p[f"layernorm{n}_scale"]
            weights[f"norm{n}.bias"] = p[f"layernorm{n}_shift"]
        for n in (1, 2):
            weights[f"linear{n}.weight"] = p[f"dense{n}_w"].T
            weights[f"linear{n}.bias"] = p[f"dense{n}_b"]
        module = getattr(t.nn, kind)(6, 3, 8, 0.0, act, batch_first=True, norm_first=norm_first)
        options = {}
        if kind == "TransformerDecoderLayer":
            options = {"tgt_mask": later(t, 5)}
            if "length" in p:
                options["memory_key_padding_mask"] = padding(t, v.length, 4)
            return run(t, module, weights, v.x, v.memory, **options)
        if causal:
            options["src_mask"] = later(t, 5)
        if "length" in p:
            options["src_key_padding_mask"] = padding(t, v.length, 5)
        return run(t, module, weights, v.x, **options)

    return reference


def conv1d(stride=1, pad=0, dilation=1, groups=1):
    def reference(t, v):
        x = v.x.transpose(1, 2)
        window = dilation * (v.k.shape[0] - 1) + 1
        if pad == "causal":
            x = t.nn.functional.pad(x, (window - 1, 0))
        if pad == "same":
            total = max((-(-x.shape[-1] // stride) - 1) * stride + window - x.shape[-1], 0)
            x = t.nn.functional.pad(x, (total // 2, total - total // 2))
        amount = 0 if isinstance(pad, str) else pad
        return t.nn.functional.conv1d(
            x, v.k.permute(2, 1, 0), v.b, stride, amount, dilation, groups
        ).transpose(1, 2)

    return reference


def masked(t, v):
    log_p = v.x.log_softmax(-1)
    there = (~padding(t, v.length, 5)).double()
    return -(log_p.gather(-1, v.label.long()[..., None])[..., 0] * there).sum() / there.sum()


def ctc(t, v):
    log_p = v.x.log_softmax(-1).transpose(0, 1)
    return t.nn.functional.ctc_loss(log_p, v.label.long(), v.length.long(), v.count.long())


def mean_pool(t, v):
    there = (~padding(t, v.length, 5))[..., None]
    return (v.x * there).sum(1) / v.length[:, None]


CTC = {"x": "f32[4, 9, 5]", "label": "i32[4, 3]", "length": "i32[4]", "count": "i32[4]"}
SPOKEN = {
    "label": np.array([[1, 2, 3], [2, 2, 4], [4, 1, 0], [3, 3, 3]]),
    "length": np.array([9, 7, 4, 5]),  # of the last one there is exactly one path
    "count": np.array([3, 3, 2, 3]),
}
LENGTH, MEMORY = {"length": "i32[2]"}, {"memory": "f32[2, 4, 6]"}
GIVEN = {"length": LENGTHS}
H0, C0 = {"h0": "f32[2, 4]"}, {"c0": "f32[2, 4]"}
LABELS = {"label": np.array([[0, 3, 5, 1, 1], [2, 2, 4, 0, 5]]), **GIVEN}
ABSENT = {"label": np.where(np.arange(5) < LENGTHS[:, None], LABELS["label"], -100)}
FOUR = {"length": np.array([2, 4])}

VIDEO = {"x": "f32[2, 3, 4, 5, 2]"}


def conv_lstm(t, v):
    """Step by step, with PyTorch's convolution: images are [batch, channels, height, width]."""

    def gates(x, k):
        wide = k.permute(3, 4, 2, 0, 1).flatten(0, 1)
        found = t.nn.functional.conv2d(x, wide, padding=k.shape[0] // 2)
        return found.unflatten(1, (4, -1))

    h, c = (
        getattr(v, n, t.zeros(2, 4, 5, 3, dtype=t.float64)).movedim(-1, 1) for n in ("h0", "c0")
    )
    found = []
    for x in v.x.movedim(-1, 2).unbind(1):
        i, f, g, o = (gates(x, v.W) + gates(h, v.U) + v.b[..., None, None]).unbind(1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        found.append(h.movedim(1, -1))
    return t.stack(found, 1).relu()


CASES = [
    Case("RNN", "x |> RNN(4)", X, recurrent("RNN", 4)),
    Case("RNN without a batch", "x |> RNN(4)", {"x": "f32[5, 6]"}, recurrent("RNN", 4)),
    Case("RNN of one step", "x |> RNN(4)", {"x": "f32[2, 1, 6]"}, recurrent("RNN", 4)),
    Case("RNN with relu", 'x |> RNN(4, f = "relu")', X, recurrent("RNN", 4, nonlinearity="relu")),
    Case("RNN reverse", "x |> RNN(4, reverse = true)", X, backwards(recurrent("RNN", 4))),
    Case("LSTM", "x |> LSTM(4) |> relu", X, lambda t, v: recurrent("LSTM", 4)(t, v).relu()),
    Case("LSTM's cells", "second(x)", X, cells,
         definitions="layer second(x: [..., T, n]) -> c { _, c = LSTM(4)(x) }\n"),
    Case("LSTM reverse", "x |> LSTM(4, reverse = true) |> relu", X,
         lambda t, v: backwards(recurrent("LSTM", 4))(t, v).relu()),
    Case("GRU", "x |> GRU(4)", X, recurrent("GRU", 4)),
    Case("GRU reverse", "x |> GRU(4, reverse = true)", X, backwards(recurrent("GRU", 4))),
    *(Case(f"Bi{k}", f"x |> Bi{k}(4)", X, both(k)) for k in ("RNN", "LSTM", "GRU")),
    *(Case(f"Bi{k}, lengths", f"x |> Bi{k}(4)(length)", X | LENGTH, both(k), GIVEN)
      for k in ("RNN", "LSTM", "GRU")),
    *(Case(f"{k} from a state", f"{k}(4)(x, h0)", X | H0, recurrent(k, 4)) for k in ("RNN", "GRU")),
    *(Case(f"{k} with lengths", f"{k}(4)(x, length = length)", X | LENGTH, recurrent(k, 4), GIVEN)
      for k in ("RNN", "GRU")),
    *(Case(f"{k} reverse from a state, lengths",
           f"{k}(4, reverse = true)(x, h0, length)", X | H0 | LENGTH, read_backwards(k), GIVEN)
      for k in ("RNN", "GRU")),
    Case("LSTM from a state", "LSTM(4)(x, h0, c0) |> relu", X | H0 | C0,
         lambda t, v: recurrent("LSTM", 4)(t, v).relu()),
    Case("LSTM with lengths", "LSTM(4)(x, length = length) |> relu", X | LENGTH,
         lambda t, v: recurrent("LSTM", 4)(t, v).relu(), GIVEN),
    Case("LSTM reverse from a state, lengths", "LSTM(4, reverse = true)(x, h0, c0, length) |> relu",
         X | H0 | C0 | LENGTH, lambda t, v: read_backwards("LSTM")(t, v).relu(), GIVEN),
    *(Case(f"Stacked{k}", f"x |> Stacked{k}(4, 3)", X, stacked(k)) for k in ("RNN", "LSTM", "GRU")),

    *(Case(name, call, VIDEO | more, conv_lstm) for name, call, more in (
        ("ConvLSTM", "x |> ConvLSTM(3) |> relu", {}),
        ("ConvLSTM of a kernel of 5", "x |> ConvLSTM(3, 5) |> relu", {}),
        ("ConvLSTM from a state", "ConvLSTM(3)(x, h0, c0) |> relu",
         {n: "f32[2, 4, 5, 3]" for n in ("h0", "c0")}))),

    Case("Attention", "x |> Attention(3)", X, attention()),
    Case("Attention without biases", "x |> Attention(3, bias = false)", X, attention(False)),
    Case("Attention, causal", "x |> Attention(3, causal = true)", X, attention(causal=True)),
    Case("Attention, lengths", "x |> Attention(3)(length)", X | LENGTH, attention(length=True),
         GIVEN),
    Case("Attention, causal, lengths", "x |> Attention(3, causal = true)(length)", X | LENGTH,
         attention(causal=True, length=True), GIVEN),
    Case("Attention, grouped", "x |> Attention(6, causal = true, kv_heads = 2)", X, grouped),
    Case("Attention, turned", "x |> Attention(1, turned = true, bias = false)", X,
         turned_attention),
    Case("CrossAttention", "CrossAttention(3)(x, memory, length)",
         {"x": "f32[2, 5, 6]", "memory": "f32[2, 4, 4]", "length": "i32[2]"}, cross, FOUR),
    Case("TransformerBlock", "x |> TransformerBlock(3, 8, causal = true)", X,
         block("TransformerEncoderLayer", 2, True, "gelu", True)),
    Case("TransformerBlock, lengths", "x |> TransformerBlock(3, 8)(length)", X | LENGTH,
         block("TransformerEncoderLayer", 2, True, "gelu"), GIVEN),
    Case("EncoderBlock", "x |> EncoderBlock(3, 8)(length)", X | LENGTH,
         block("TransformerEncoderLayer", 2), GIVEN),
    Case("DecoderBlock", "x |> DecoderBlock(3, 8)(memory, length)", X | MEMORY | LENGTH,
         block("TransformerDecoderLayer", 3, attentions=("self_attn", "multihead_attn")), FOUR),

    Case("last", "x |> last", X, lambda t, v: v.x[:, -1]),
    Case("last_of", "last_of(x, length)", X | LENGTH, lambda t, v: v.x[[0, 1], v.length.long() - 1],
         GIVEN),
    Case("reverse", "reverse(x, length)", X | LENGTH, lambda t, v: t.stack([t.cat(
        [x[:n].flip(0), 0 * x[n:]]) for x, n in zip(v.x, v.length, strict=True)]), GIVEN),
    Case("concat", "concat(x, z)", X | {"z": "f32[2, 5, 3]"}, lambda t, v: t.cat([v.x, v.z], -1)),
    Case("mean_pool", "mean_pool(x, length)", X | LENGTH, mean_pool, GIVEN),
    Case("LearnedPositions", "x |> LearnedPositions(7)", X, lambda t, v: v.x + v.table[:5]),
    Case("SinusoidalPositions", "x |> SinusoidalPositions", X, sinusoids),
    Case("rotary", "rotary(x)", {"x": "f32[2, 3, 5, 6]"}, lambda t, v: turned(t, v.x)),
    Case("rotary, base", "rotary(x, 50)", X, lambda t, v: turned(t, v.x, 50)),
    Case("masked_cross_entropy", "masked_cross_entropy(x, label, length)",
         X | LENGTH | {"label": "i32[2, 5]"}, masked, LABELS),
    Case("cross_entropy_ignoring", "cross_entropy_ignoring(x, label)", X | {"label": "i32[2, 5]"},
         lambda t, v: t.nn.functional.cross_entropy(v.x.flatten(0, 1), v.label.flatten().long()),
         ABSENT),
    Case("perplexity", "perplexity(x, label)", X | {"label": "i32[2, 5]"},
         lambda t, v: t.nn.functional.cross_entropy(
             v.x.flatten(0, 1), v.label.flatten().long()).exp(), LABELS),
    Case("bits_per_char", "bits_per_char(x, label)", X | {"label": "i32[2, 5]"},
         lambda t, v: t.nn.functional.cross_entropy(
             v.x.flatten(0, 1), v.label.flatten().long()) / np.log(2), LABELS),
    Case("ctc", "ctc(x, label, length, count)", CTC, ctc, SPOKEN),
    Case("ctc of large logits", "ctc(30*x, label, length, count)", CTC,
         lambda t, v: ctc(t, SimpleNamespace(**{**vars(v), "x": 30 * v.x})), SPOKEN),

    Case("Conv1D", "x |> Conv1D(4, 3)", X, conv1d()),
    Case("Conv1D pad, stride", "x |> Conv1D(4, 3, 2, 1)", X, conv1d(2, 1)),
    Case("Conv1D same", 'x |> Conv1D(4, 4, 2, "same")', X, conv1d(2, "same")),
    Case("Conv1D causal", 'x |> Conv1D(4, 3, pad = "causal", dilation = 2)', X,
         conv1d(1, "causal", 2)),
    Case("Conv1D groups", "x |> Conv1D(4, 3, groups = 2)", X, conv1d(groups=2)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_agrees_with_pytorch(case):
    # the gradients of the keys' biases are 0 but for rounding
    compare_with_torch(case, within, least=1.0)


@pytest.mark.parametrize("float_type, tolerance", one_in(2, [("f64", 1e-9), ("f32", 3e-4)], True))
@pytest.mark.parametrize("case", mostly_slow(CASES, CASES[::3]), ids=ids(CASES))
def test_cpu_agrees_with_evaluator(case, float_type, tolerance):
    system, values, names = case.prepared(float_type)
    outputs = ("y", *names.values())
    system = system.replace(outputs=outputs)
    expected = evaluate(system, values)
    program = CpuProgram(plan(system, verified=True))
    for name, value in values.items():
        program.arrays[name][...] = value
    program.run()
    for name in outputs:
        check(program.arrays[name], expected[name], f"{case.name}: {name}", tolerance, least=1.0)


# --- recurrences of other forms -------------------------------------------------------------------

RECURRENCES = {
    "three indices": "y[i, j, k] = x[i, j, k] + 0.5*(y[i - 1, j, k] else 1)"
    " + 0.25*(y[i, j - 1, k] else 1)*(y[i, j, k - 1] else 1) + 0.1*(y[i - 1, j - 1, k - 1] else 0)",
    "three indices, each in its direction": "y[i, j, k] = x[i, j, k]*(y[i + 1, j, k] else 1)"
    " + 0.3*(y[i, j - 1, k] else 1) + 0.2*tanh((y[i, j, k + 1] else 0))",
    "a product in reverse time": "y[i, t, j] = tanh(x[i, t, j]"
    " + sum(k) (y[i, t + 1, k] else 0)*u[k, j])",
    "two that read each other in reverse": "a[i, t, j] = x[i, t, j] + 0.5*(y[i, t + 2, j] else 1)\n"
    "y[i, t, j] = tanh(a[i, t, j])*(a[i, t + 1, j] else 0.5)",
    "a maximum": "y[i, t, j] = x[i, t, j] + max(k) (y[i, t - 1, k] else 0)*u[k, j]",
    "over the first index": "y[t, i, j] = x[t, i, j] + sum(k) (y[t - 1, k, j] else 0)*u[k, i]",
}


@pytest.mark.parametrize("name", RECURRENCES)
def test_recurrence_agrees_with_finite_differences(name):
    text = (
        f"model M(x: f32[3, 3, 3], u: f32[3, 3]) -> loss: f32[] {{\n{RECURRENCES[name]}\n"
        "loss = sum(y*y*0.5 + y) + 0*sum(u) }"
    )
    check_gradients(system_of(text), ["x", "u"])


# --- what belongs to lengths ----------------------------------------------------------------------


def test_a_fully_masked_row_is_zero_and_so_are_its_gradients():
    case = Case(
        "masked",
        "attend(x, z, z, false, length)",
        {"x": "f32[2, 3, 5, 6]", "z": "f32[2, 3, 5, 6]", "length": "i32[2]"},
        given={"length": np.array([0, 5])},
    )
    system, values, names = case.prepared()
    found = evaluate(system, values)
    for name in ("y", *names.values()):
        assert np.isfinite(found[name]).all()
        assert not found[name][0].any() and found[name][1].any()


@pytest.mark.parametrize(
    "y",
    [
        "x |> Attention(3)(length)",
        "x |> TransformerBlock(3, 8)(length)",
        "masked_cross_entropy(x, label, length)",
        "masked_accuracy(x, label, length)",
        "x |> BiGRU(3)(length)",
        "mean_pool(x, length)",
    ],
)
def test_padding_changes_nothing(y):
    """Of a whole number of sequences; what stands behind them is seen in nothing but itself."""
    types = X | LENGTH | {"label": "i32[2, 5]"}
    x = np.random.default_rng(0).normal(size=(2, 5, 6))
    changed = x.copy()
    changed[0, 3:] = 100.0
    found, other = (np.asarray(value_of(y, types, LABELS | {"x": v})) for v in (x, changed))
    if found.ndim == 3:
        found, other = (np.append(v[0, :3], v[1]) for v in (found, other))
    check(other, found, y)


def test_present():
    found = value_of("present(x, length)", X | LENGTH, GIVEN)
    check(found, [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], "present")


def test_a_label_that_does_not_fit_costs_inf_and_teaches_nothing():
    types = ", ".join(f"{name}: {type}" for name, type in CTC.items())
    system = model(f"model M({types}) -> y {{ y = ctc(x, label, length, count) }}")
    values = random_values(system, SPOKEN | {"length": np.array([9, 3, 4, 5])}, "ctc")
    system, names = add_gradients(system, "y", ["x"])
    system = differentiate(system)
    found = evaluate(system, values)
    assert found["y"] == np.inf
    slope = found[names["x"]]
    assert np.isfinite(slope).all() and not slope[1].any() and slope[[0, 2, 3]].any((1, 2)).all()


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("unfit", ["inf", "0"])
def test_ctc_of_batches_with_examples_that_do_not_fit(dtype: str, unfit: str):
    """Empty recordings, empty labels, labels that are too long and good ones: the costs are
    PyTorch's, and so are the gradients with `zero_infinity`, in the evaluator and compiled."""
    torch = torch_or_skip()
    label = np.array([[1, 2, 2, 0], [3, 3, 3, 3], [1, 2, 3, 0], [1, 2, 0, 0]], np.int32)
    text = (
        "model M(x: f32[4, 6, 5], label: i32[4, 4], length: i32[4], count: i32[4]) -> y {"
        f" y = ctc(x, label, length, count, unfit = {unfit}) }}"
    )
    system, names = gradients(model(text, float_type=dtype), "y", ["x"])
    program = CpuProgram(plan(system), threads=1)
    for length, count in (
        ([6, 6, 6, 6], [3, 2, 3, 2]),
        ([6, 6, 6, 6], [3, 4, 3, 2]),  # 3 3 3 3 takes 7 steps
        ([6, 6, 0, 6], [3, 3, 3, 0]),  # nothing was recorded
        ([0, 0, 0, 0], [0, 1, 0, 4]),
        ([2, 4, 3, 1], [3, 2, 3, 1]),
    ):
        given = random_values(
            system, {"label": label, "length": length, "count": count}, f"{length}{count}"
        )
        x = torch.tensor(given["x"], dtype=torch.float64, requires_grad=True)
        costs = [
            torch.nn.functional.ctc_loss(
                x.log_softmax(-1).transpose(0, 1),
                torch.tensor(label),
                torch.tensor(length),
                torch.tensor(count),
                reduction="none",
                zero_infinity=zero,
            )
            / torch.tensor(count).clamp(min=1)
            for zero in (False, True)
        ]
        costs[1].mean().backward()
        for name, value in given.items():
            program.arrays[name][...] = value
        program.run()
        tolerance = {"f32": 2e-6, "f64": 1e-12}[dtype]
        for found in (evaluate(system, given), program.arrays):
            expected = costs[unfit == "0"].mean().item()
            np.testing.assert_allclose(found["y"], expected, rtol=tolerance)
            slope = np.asarray(found[names["x"]])
            np.testing.assert_allclose(slope, x.grad.numpy(), atol=tolerance)
            assert not slope[np.isinf(costs[0].detach().numpy())].any()


def test_ctc_of_no_label_is_all_blanks():
    x = np.random.default_rng(0).normal(size=(4, 9, 5))
    given = SPOKEN | {"x": x, "count": np.zeros(4)}
    log_p = x - np.log(np.exp(x).sum(-1, keepdims=True))
    blanks = [-log_p[n, :t, 0].sum() for n, t in enumerate(SPOKEN["length"])]
    check(value_of("ctc(x, label, length, count)", CTC, given), np.mean(blanks), "ctc")


SPELT = X | LENGTH | {"label": "i32[2, 5]"}


@pytest.mark.parametrize(
    "y, types, given, at",
    [
        ("masked_cross_entropy(x, label, length)", SPELT, LABELS, (0, 2)),
        ("cross_entropy_ignoring(x, label)", SPELT, ABSENT, (0, 2)),
        ("ctc(x, label, length, count)", CTC, SPOKEN, (0, 1)),
    ],
)
def test_a_label_that_is_no_class_is_not_passed_over(y, types, given, at):
    """Whatever the loss may leave out: behind an end, or as `ignore` says, any number may stand."""

    def with_label(place, label):
        changed = {**given, "label": given["label"].copy()}
        changed["label"][place] = label
        return value_of(y, types, changed)

    usual = value_of(y, types, given)
    assert np.isfinite(usual)
    for label in (6, 1000, -1):
        assert np.isnan(with_label(at, label))
    if y.startswith("ctc"):
        assert with_label((2, 2), 1000) == with_label((2, 2), -100) == usual


@pytest.mark.parametrize(
    "y, types, given",
    [
        ("last_of(x, length)", X | LENGTH, GIVEN),
        ("reverse(x, length)", X | LENGTH, GIVEN),
        ("ctc(x, label, length, count)", CTC, SPOKEN),
    ],
)
def test_a_length_beyond_the_sequence_is_not_passed_over(y, types, given):
    """As that of frames is, of which a layer with a stride gives fewer."""
    assert np.isfinite(value_of(y, types, given)).all()
    longer = {**given, "length": given["length"] * 4}
    assert np.isnan(value_of(y, types, longer)).any()
    none = {**given, "length": given["length"] * 0}
    assert not np.isnan(value_of(y, types, none)).any()


def levenshtein(a: list[int], b: list[int]) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(
        levenshtein(a[1:], b) + 1,
        levenshtein(a, b[1:]) + 1,
        levenshtein(a[1:], b[1:]) + (a[0] != b[0]),
    )


def test_edit_distance():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 3, (20, 5)), rng.integers(0, 3, (20, 4))
    m, n = rng.integers(0, 6, 20), rng.integers(0, 5, 20)
    types = {"a": "i32[20, 5]", "b": "i32[20, 4]", "m": "i32[20]", "n": "i32[20]"}
    expected = [levenshtein([*p[:i]], [*q[:j]]) for p, q, i, j in zip(a, b, m, n, strict=True)]
    found = value_of("edit_distance(a, b, m, n)", types, {"a": a, "b": b, "m": m, "n": n})
    check(found, np.mean(expected), "edit_distance")


def test_error_rate_is_of_all_symbols_together():
    types = {"a": "i32[2, 3]", "b": "i32[2, 3]", "m": "i32[2]", "n": "i32[2]"}
    given = {
        "a": np.array([[1, 2, 3], [5, 0, 0]]),
        "b": np.array([[1, 3, 0], [4, 0, 0]]),
        "m": np.array([3, 1]),
        "n": np.array([2, 1]),
    }
    check(value_of("error_rate(a, b, m, n)", types, given), 2 / 3, "error_rate")
    nothing = {**given, "n": np.array([0, 0])}
    assert np.isfinite(value_of("error_rate(a, b, m, n)", types, nothing))


def test_sequence_accuracy_counts_sequences_without_a_mistake():
    rng = np.random.default_rng(0)
    x, label = rng.normal(size=(50, 3, 4)), rng.integers(0, 4, (50, 3))
    label[:25] = x[:25].argmax(-1)
    label[:5, 2] = (label[:5, 2] + 1) % 4  # wrong behind the end of the first of these only
    lengths = np.array([2, 2, 3, 3, 3] + [3] * 20 + [1] * 25)
    types = {"x": "f32[50, 3, 4]", "label": "i32[50, 3]", "length": "i32[50]"}
    right = [(p.argmax(-1) == q)[:n].all() for p, q, n in zip(x, label, lengths, strict=True)]
    found = value_of(
        "sequence_accuracy(x, label, length)", types, {"x": x, "label": label, "length": lengths}
    )
    check(found, np.mean(right), "sequence_accuracy")


def test_ctc_greedy_reads_the_best_path():
    rng = np.random.default_rng(1)
    x, lengths = rng.normal(size=(30, 9, 3)), rng.integers(0, 10, 30)
    types = {"x": "f32[30, 9, 3]", "length": "i32[30]"}
    system = model(
        f"model M({', '.join(f'{n}: {t}' for n, t in types.items())})"
        " -> label: i32[30, 9], count: i32[30] {"
        " label, count = ctc_greedy(x, length) }"
    )
    found = evaluate(system, {"x": x, "length": lengths})
    for row, (logits, length) in enumerate(zip(x, lengths, strict=True)):
        path = logits.argmax(-1)[:length]
        read = [int(c) for c, _ in groupby(path) if c != 0]
        assert found["count"][row] == len(read)
        assert found["label"][row].tolist() == read + [0] * (9 - len(read))


@pytest.mark.parametrize(
    "y, code",
    [
        ("x |> Attention(4)", "E0320"),  # of 6 channels
        ("x |> Attention(6, kv_heads = 4)", "E0320"),
        ("x |> Attention(2, turned = true)", "E0320"),  # three channels a head are no pairs
        ('x |> RNN(4, f = "gelu")', "E0320"),
        ("x |> LSTM", "E0205"),
        ("CrossAttention(3)(x)", "E0205"),
    ],
)
def test_mistakes(y, code):
    with pytest.raises(UserError) as caught:
        value_of(y, X, {})
    assert {d.code for d in caught.value.diagnostics} == {code}


# --- what runs inside the loop --------------------------------------------------------------------

NEXT = """
model Net(token: i32[B, T]) -> logits: f32[B, T, 7] {{
    logits = token |> Embedding(7, 5) |> {0} |> Dense(7)
}}
train Net {{
    input label: i32[B, T]
    loss      = cross_entropy(logits, label)
    optimizer = adam(lr = 1e-3)
}}
"""


def training_plan(layer: str, steps: int):
    report = Report()
    checked = load_source(Source("net.nn", NEXT.format(layer)), report)
    report.check()
    setup = Setup(checked.definitions, checked.trains[0], {"T": steps}, None, 3)
    return plan(training_step(setup)[0], verified=True)


def scans(items) -> Iterator[Scan]:
    for item in items:
        if isinstance(item, Scan):
            yield item
            yield from scans(item.kernels)


def products(kernels) -> list[str]:
    """The tensors that are sums of products, those inside nested scans included."""
    return [k.anchor.target for k in kernels if isinstance(k, Kernel) and k.anchor.reduce]


@pytest.mark.parametrize(
    "layer, forward, backward, maps",
    [
        ("RNN(4)", "rnn1_h_sum", "d_rnn1_h_via_h", (0, 1)),
        ("LSTM(4)", "lstm1_z_sum", "d_lstm1_h_via_z", (4, 1)),
        ("GRU(4)", "gru1_z", "d_gru1_h_via_z", (2, 1)),
    ],
)
def test_only_the_recurrent_product_is_inside_the_loops(layer, forward, backward, maps):
    found = list(scans(training_plan(layer, 6).items))
    assert [s.reverse for s in found] == [False, True]
    for scan, product_name, most in zip(found, (forward, backward), maps, strict=True):
        assert len(products(scan.kernels)) == 1
        assert re.fullmatch(re.sub(r"\d$", r"\\d", product_name), products(scan.kernels)[0])
        assert len(scan.kernels) - 1 <= most


@pytest.mark.parametrize("layer", ["RNN(4)", "LSTM(4)", "GRU(4)", "BiLSTM(4)"])
def test_more_steps_make_no_more_kernels(layer):
    few, many = (len(list(training_plan(layer, steps).kernels)) for steps in (16, 1024))
    assert few == many


def test_sequences_may_stand_alone_or_in_batches_of_batches():
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4))
    for y, parameters in (("x |> RNN(4)", "rnn1"), ("x |> GRU(4)", "gru1")):
        rng = np.random.default_rng(1)
        given = (
            {
                f"{parameters}_{n}": rng.normal(size=s)
                for n, s in {"W": (4, 4), "U": (4, 4), "b": (4,)}.items()
            }
            if "RNN" in y
            else {
                f"{parameters}_{n}": rng.normal(size=s)
                for n, s in {"W": (4, 3, 4), "U": (4, 3, 4), "b": (3, 4), "c": (4,)}.items()
            }
        )
        whole = value_of(y, {"x": "f32[2, 3, 5, 4]"}, given | {"x": x})
        for i, j in product(range(2), range(3)):
            alone = value_of(y, {"x": "f32[5, 4]"}, given | {"x": x[i, j]})
            check(whole[i, j], alone, y)
