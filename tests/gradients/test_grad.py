"""`grad(y, x)` in a program: its value, and gradients through it, beside finite differences and
PyTorch with `create_graph`; on the evaluator and in machine code."""

from __future__ import annotations

import numpy as np
import pytest
from support import elaborated, finite_differences, gradients, plan, values

from nnc.compiler.ir.printer import system_text
from nnc.compiler.pipeline import derive
from nnc.compiler.reference.evaluator import evaluate
from nnc.runtime.device.cpu.program import CpuProgram

HEAT = """model M(place: f64[B], time: f64[B]) -> loss: f64 {
    point[b, k < 2] = if k == 0 then place[b] else time[b]
    free = point |> Dense(5) |> tanh |> Dense(4) |> tanh |> Dense(1)
    u[b] = free[b, 0]
    u_t  = grad(u, time)
    u_x  = grad(u, place)
    u_xx = grad(u_x, place)
    loss = mean((u_t - 0.1 * u_xx)^2)
}"""
PENALTY = """model M(real: f64[B, 3], fake: f64[B, 3], share: f64[B]) -> loss: f64 {
    between[b, i] = share[b] * real[b, i] + (1 - share[b]) * fake[b, i]
    score = between |> Dense(6) |> silu |> Dense(1)
    g = grad(sum(score), between)
    norm[b] = sqrt(sum(i) g[b, i]^2)
    loss = mean((norm - 1)^2)
}"""
MAML = """
fn net(w: [T, h], v: [T, h], x: [T, k]) -> y: [T, k] {
    y[t, k] = sum(h) tanh(w[t, h] * x[t, k]) * v[t, h]
}
fn errors(w: [T, h], v: [T, h], x: [T, k], y: [T, k]) -> e: [T] {
    guess = net(w, v, x)
    e[t] = mean(k) (guess[t, k] - y[t, k])^2
}
model M(x: f64[T, 4], y: f64[T, 4], x_new: f64[T, 4], y_new: f64[T, 4]) -> loss: f64 {
    param w0: [5] ~ normal
    param v0: [5] ~ normal
    w[t < T, h] = w0[h]
    v[t < T, h] = v0[h]
    repeat 2 {
        e = errors(w, v, x, y)
        step_w = grad(e, w)
        step_v = grad(e, v)
        w = w - 0.3 * step_w
        v = v - 0.3 * step_v
    }
    loss = mean(errors(w, v, x_new, y_new))
}"""


def torch_losses(torch):
    def grad(y, x):
        return torch.autograd.grad(y, x, create_graph=True)[0]

    def heat(p):
        point = torch.stack([p["place"], p["time"]], 1)
        for layer in (1, 2):
            point = torch.tanh(point @ p[f"dense{layer}_w"] + p[f"dense{layer}_b"])
        u = (point @ p["dense3_w"] + p["dense3_b"])[:, 0]
        u_x = grad(u.sum(), p["place"])
        u_xx = grad(u_x.sum(), p["place"])
        return ((grad(u.sum(), p["time"]) - 0.1 * u_xx) ** 2).mean()

    def penalty(p):
        share = p["share"][:, None]
        between = share * p["real"] + (1 - share) * p["fake"]
        hidden = torch.nn.functional.silu(between @ p["dense1_w"] + p["dense1_b"])
        score = hidden @ p["dense2_w"] + p["dense2_b"]
        return ((grad(score.sum(), between).norm(dim=1) - 1) ** 2).mean()

    def maml(p):
        def errors(w, v, x, y):
            guess = (torch.tanh(w[:, :, None] * x[:, None, :]) * v[:, :, None]).sum(1)
            return ((guess - y) ** 2).mean(1)

        tasks = len(p["x"])
        w, v = (p[name].expand(tasks, -1) for name in ("w0", "v0"))
        for _ in range(2):
            e = errors(w, v, p["x"], p["y"]).sum()
            w, v = w - 0.3 * grad(e, w), v - 0.3 * grad(e, v)
        return errors(w, v, p["x_new"], p["y_new"]).mean()

    return {"heat": heat, "penalty": penalty, "maml": maml}


PROGRAMS = {"heat": (HEAT, {"B": 5}), "penalty": (PENALTY, {"B": 4}), "maml": (MAML, {"T": 3})}


@pytest.mark.parametrize("name", PROGRAMS)
def test_losses_with_gradients_equal_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is the second opinion here")
    text, sizes = PROGRAMS[name]
    loss = elaborated(text, **sizes)
    given = values(loss, seed=7)
    wrt = [t.name for t in loss.of_kind("param")]
    both, names = gradients(loss, "loss", wrt)
    found = evaluate(both, given)
    tensors = {n: torch.tensor(v, requires_grad=True) for n, v in given.items()}
    expected = torch_losses(torch)[name](tensors)
    slopes = torch.autograd.grad(expected, [tensors[n] for n in wrt], allow_unused=True)
    np.testing.assert_allclose(found["loss"], expected.item(), rtol=1e-12)
    for n, slope in zip(wrt, slopes, strict=True):
        if slope is None:  # a last bias, whose gradient is 0
            assert n not in names or not found[names[n]].any(), n
            continue
        np.testing.assert_allclose(found[names[n]], slope.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", PROGRAMS)
def test_machine_code_computes_them(name: str) -> None:
    text, sizes = PROGRAMS[name]
    loss = elaborated(text, **sizes)
    given = values(loss, seed=8)
    expected = evaluate(derive(loss), given)["loss"]
    program = CpuProgram(plan(loss, verified=True))
    for n, value in given.items():
        program.arrays[n][...] = value
    program.run()
    np.testing.assert_allclose(program.arrays["loss"], expected, rtol=1e-11)


# --- where it stands ------------------------------------------------------------------------------

PLACES = {
    # every program has a loss that is a function of w alone, but for what is given
    "a layer that is used twice": """
        layer Steepness(x: [B, n]) -> y: [B] {
            param a: [n] ~ normal
            z[b, i] = tanh(x[b, i] * a[i])
            e[b] = sum(i) z[b, i]^2
            g = grad(e, x)
            y[b] = sum(i) g[b, i]^2
        }
        model M(x: f64[B, 3]) -> loss: f64 {
            param w: [3] ~ normal
            v[b, i] = x[b, i] * w[i]
            u = v + 1
            loss = sum(Steepness(v)) + 2 * sum(Steepness(u))
        }""",
    "a fn, inside of an expression": """
        fn slope(y, x) = sqrt(1 + sum(grad(y, x)^2))
        model M(x: f64[B, 3]) -> loss: f64 {
            param w: [3] ~ normal
            e = sum(b, i) sin(x[b, i] * w[i])
            loss = 1 + slope(e, w) * slope(e, x)
        }""",
    "a recurrence": """
        model M(x: f64[B, 4]) -> loss: f64 {
            param w: [] ~ normal
            h[b, t] = tanh(w * (h[b, t - 1] else 0) + x[b, t])
            e = sum(b, t) h[b, t]^2
            g = grad(e, x)
            loss = sum(g^2) + e
        }""",
    "a recurrence over the gradient": """
        model M(x: f64[B, 4]) -> loss: f64 {
            param w: [] ~ normal
            e = sum(b, t) exp(w * x[b, t])
            g = grad(e, x)
            h[b, t] = 0.5 * (h[b, t - 1] else 0) + g[b, t]^2
            loss = sum(h)
        }""",
    "`remat`": """
        model M(x: f64[B, 3]) -> loss: f64 {
            param w: [3] ~ normal
            remat {
                z[b, i] = tanh(x[b, i] * w[i])
                e = sum(b, i) z[b, i]^3
                g = grad(e, x)
                q[b, i] = g[b, i]^2
            }
            loss = sum(q)
        }""",
    "a gather": """
        model M(token: i32[B, 2]) -> loss: f64 {
            param w: [4, 3] ~ normal
            h[b, t, j] = w[token[b, t], j]
            e = sum(b, t, j) h[b, t, j]^3
            g = grad(e, w)
            loss = sum(g^2)
        }""",
    "a convolution": """
        model M(x: f64[B, 5, 5, 1]) -> loss: f64 {
            h = x |> Conv(2, 3) |> softplus |> MaxPool(2) |> Flatten |> Dense(1)
            g = grad(sum(h), x)
            loss = sum(g^2)
        }""",
    "attention": """
        model M(x: f64[B, 3, 4]) -> loss: f64 {
            h = x |> Attention(2, causal = true)
            g = grad(sum(h * h), x)
            loss = sum(g^2)
        }""",
    "normalisation": """
        model M(x: f64[B, 4]) -> loss: f64 {
            h = x |> LayerNorm |> Dense(3) |> BatchNorm |> silu
            g = grad(sum(h^2), x)
            loss = sum(g^2)
        }""",
    "the gradient of a gradient of a gradient": """
        model M(x: f64[B]) -> loss: f64 {
            param w: [] ~ normal
            y[b] = sin(w * x[b]) * x[b]
            a = grad(y, x)
            c = grad(a, x)
            d = grad(c, x)
            loss = sum(a * c + d^2)
        }""",
    "what is selected, remainders, powers, extremes, products": """
        model M(x: f64[B, 3]) -> loss: f64 {
            param w: [3] ~ normal
            a[b, i] = if x[b, i] * w[i] > 0.1 then (x[b, i] * w[i])^3 else sin(w[i]) % 0.7
            m[b] = max(i) a[b, i]^2
            p[b] = prod(i) (2 + a[b, i])
            e = sum(b) (m[b] * p[b] + abs(a[b, 0])^2.5)
            g = grad(e, w)
            loss = sum(g^2)
        }""",
}


@pytest.mark.parametrize("place", PLACES)
def test_its_own_gradient(place: str) -> None:
    loss = elaborated(PLACES[place], B=2)
    wrt = [t.name for t in loss.of_kind("param")]
    both, names = gradients(loss, "loss", wrt)
    given, value = values(loss, seed=5), derive(loss)
    found = evaluate(both, given)
    assert names
    for name in wrt:
        numeric = finite_differences(value, given, name, "loss")
        exact = found[names[name]] if name in names else np.zeros_like(numeric)
        scale = max(1.0, float(np.abs(numeric).max()))
        np.testing.assert_allclose(exact, numeric, rtol=0, atol=1e-6 * scale, err_msg=name)


def test_equal_layers_have_gradients_of_their_own() -> None:
    """The second use of a layer is a recording of the first under other names."""
    made = elaborated(PLACES["a layer that is used twice"], B=2)
    assert [(g.target, g.wrt) for g in made.gradients] == [
        ("steepness1_d_x", "v"),
        ("steepness2_d_x", "u"),
    ]


def test_several_gradients_of_one_number_share_a_sweep() -> None:
    text = "model M(x: f64[3], z: f64[3]) -> loss: f64 {\n y = exp(x * z)\n"
    one = elaborated(text + " loss = sum(grad(sum(y), x))\n}")
    two = elaborated(text + " a = grad(y, x)\n b = grad(y, z)\n loss = sum(a * b)\n}")
    assert len({g.of for g in two.gradients}) == 1
    assert len(derive(two).equations) <= len(derive(one).equations) + 3


def test_names_never_meet_the_users() -> None:
    text = """model M(x: f64[3], d_x: f64[3]) -> loss: f64 {
        y_sum = sum(d_x)
        y = x * x * d_x
        g = grad(y, x)
        loss = sum(g * y_sum)
    }"""
    loss = elaborated(text)
    given = values(loss, seed=3)
    x, d_x = given["x"], given["d_x"]
    expected = np.sum(2 * x * d_x) * d_x.sum()
    np.testing.assert_allclose(evaluate(derive(loss), given)["loss"], expected, rtol=1e-12)


@pytest.mark.parametrize("place", PLACES)
def test_what_is_printed_parses_again(place: str) -> None:
    """Placeholders are printed as they are written."""
    first = elaborated(PLACES[place], B=2)
    text = system_text(first)
    again = elaborated(text)
    assert system_text(again).count("grad(") == text.count("grad(") > 0
    given = values(derive(first), seed=4)
    expected = evaluate(derive(first), given)["loss"]
    np.testing.assert_allclose(evaluate(derive(again), given)["loss"], expected, rtol=1e-12)
