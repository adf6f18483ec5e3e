"""state_space: values and gradients beside PyTorch, by the convolution that S4D's recurrence is and
the loop of Mamba's own reference."""

from __future__ import annotations

import pytest

from .programs import Case, compare_with_cpu, compare_with_torch, ids

X = {"x": "f32[2, 5, 6]"}
SCAN = X | {"dt": "f32[2, 5, 6]", "A": "f32[6, 3]", "B": "f32[2, 5, 3]", "C": "f32[2, 5, 3]"}


def s4d(t, v):
    """As github.com/state-spaces/s4 computes it (S4DKernel), with a sum for the FFT."""
    dt = v.log_dt.exp()[:, None]
    A = t.complex(-v.decay.exp(), v.frequency)
    C = t.complex(v.C_real, v.C_imag) * ((dt * A).exp() - 1) / A
    steps = t.arange(5, dtype=t.float64)
    K = 2 * t.einsum("hn,hnl->hl", C, (dt[..., None] * A[..., None] * steps).exp()).real
    y = t.stack(
        [sum(K[:, m - s] * v.x[:, s] for s in range(m + 1)) for m in range(5)],
        1,
    )
    return y + v.D * v.x


def scan(t, x, step, A, B, C):
    """selective_scan_ref of github.com/state-spaces/mamba."""
    h = t.zeros(len(x), *A.shape, dtype=t.float64)
    found = []
    for m in range(x.shape[1]):
        h = t.exp(step[:, m, :, None] * A) * h
        h = h + step[:, m, :, None] * B[:, m, None] * x[:, m, :, None]
        found.append((h * C[:, m, None]).sum(-1))
    return t.stack(found, 1)


def mamba(t, v, x=None):
    f = t.nn.functional
    x = v.x if x is None else x
    inner = f.pad((x @ v.W).transpose(1, 2), (v.k.shape[0] - 1, 0))
    u = f.silu(f.conv1d(inner, v.k.permute(2, 1, 0), v.b, groups=v.k.shape[2]).transpose(1, 2))
    step = f.softplus(u @ v.R @ v.S + v.s)
    y = scan(t, u, step, -v.log_A.exp(), u @ v.WB, u @ v.WC) + v.D * u
    return (y * f.silu(x @ v.V)) @ v.O


def mamba_block(t, v):
    return v.x + mamba(t, v, t.nn.functional.rms_norm(v.x, (6,), v.scale, 1e-6))


CASES = [
    Case("S4D", "x |> S4D(3)", X, s4d),
    Case("selective_scan", "selective_scan(x, softplus(dt), -exp(A), B, C)", SCAN,
         lambda t, v: scan(t, v.x, t.nn.functional.softplus(v.dt), -v.A.exp(), v.B, v.C)),
    Case("Mamba", "(0.1*x) |> Mamba(3)", X, lambda t, v: mamba(t, v, 0.1 * v.x)),
    Case("Mamba, settings", "(0.1*x) |> Mamba(3, expand = 1, kernel = 2, low_rank = 2)", X,
         lambda t, v: mamba(t, v, 0.1 * v.x)),
    Case("MambaBlock", "x |> MambaBlock(3)", X, mamba_block),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_agrees_with_pytorch(case):
    compare_with_torch(case)


@pytest.mark.parametrize("name", ["S4D", "Mamba"])
def test_cpu_agrees_with_evaluator(name):
    (case,) = (case for case in CASES if case.name == name)
    compare_with_cpu(case)
