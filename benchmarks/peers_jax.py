"""The same models in JAX: one function that is compiled for the whole step.

In: a workload and a file with data and nnc's first weights. Out: runners as in `nnc_side.py`.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from workloads import RATE, Workload, canonical


def runner(workload: Workload, path: Path, threads: int, compiled: bool):
    """A runner for the workload. How many threads there are follows from the process's cores."""
    arrays = dict(np.load(path))
    names = sorted(n for n in arrays if n.startswith("weight"))
    given = canonical(workload.model, [arrays[n] for n in names])
    fields = [jnp.asarray(a) for n, a in arrays.items() if not n.startswith("weight")]
    make = TrainingRunner if workload.kind == "train" else PredictingRunner
    return make(NETS[workload.model], given, fields)


class TrainingRunner:
    """Cross entropy and Adam."""

    def __init__(self, net, given: list[np.ndarray], fields: list[jax.Array]):
        self.given, self.fields = given, fields

        def loss(p, x, target):
            z = jax.nn.log_softmax(net(p, x))
            return -jnp.take_along_axis(z, target[..., None], -1).mean()

        def step(p, m, v, t, x, target):
            value, g = jax.value_and_grad(loss)(p, x, target)
            return value, *adam(p, m, v, g, t), t + 1

        self.compiled = jax.jit(step, donate_argnums=(0, 1, 2, 3))
        self.reset()

    def step(self) -> None:
        self.last, *self.values = self.compiled(*self.values, *self.fields)
        jax.block_until_ready((self.last, self.values))

    def loss(self) -> float:
        return float(self.last)

    def reset(self) -> None:
        p = [jnp.array(w) for w in self.given]
        self.values = [
            p,
            [jnp.zeros_like(w) for w in p],
            [jnp.zeros_like(w) for w in p],
            jnp.float32(1),
        ]


def adam(p, m, v, g, t):
    """Parameters and both averages after a step."""
    m = [0.9 * a + 0.1 * b for a, b in zip(m, g, strict=True)]
    v = [0.999 * a + 0.001 * b * b for a, b in zip(v, g, strict=True)]
    first, second = 1 - 0.9**t, 1 - 0.999**t
    p = [
        a - RATE * (b / first) / (jnp.sqrt(c / second) + 1e-8)
        for a, b, c in zip(p, m, v, strict=True)
    ]
    return p, m, v


class PredictingRunner:
    """The model's result."""

    def __init__(self, net, given: list[np.ndarray], fields: list[jax.Array]):
        self.p, self.x = [jnp.array(w) for w in given], fields[0]
        self.net = jax.jit(net)

    def step(self) -> None:
        self.last = self.net(self.p, self.x).block_until_ready()

    def loss(self) -> float:
        return float(jnp.abs(self.last).mean())

    def reset(self) -> None:
        """Nothing changes."""


# --- models ---------------------------------------------------------------------------------------


def mlp(p, x):
    w1, b1, w2, b2, w3, b3 = p
    x = jax.nn.relu(x @ w1 + b1)
    return jax.nn.relu(x @ w2 + b2) @ w3 + b3


def cnn(p, x):
    for number in range(3):
        k, b = p[2 * number : 2 * number + 2]
        x = lax.conv_general_dilated(
            x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + b)
        if number < 2:
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = jax.nn.relu(x.reshape(len(x), -1) @ p[6] + p[7])
    return x @ p[8] + p[9]


def rnn(p, token):
    table, w, u, b, head_w, head_b = p
    a = (table[token] @ w + b).swapaxes(0, 1)

    def cell(h, now):
        h = jnp.tanh(now + h @ u)
        return h, h

    _, h = lax.scan(cell, jnp.zeros((len(token), len(u))), a)
    return h.swapaxes(0, 1) @ head_w + head_b


def lstm(p, token):
    table, w, u, b, head_w, head_b = p
    a = (table[token] @ w + b).swapaxes(0, 1)

    def cell(state, now):
        h, c = state
        i, f, g, o = jnp.split(now + h @ u, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros((len(token), len(u)))
    _, h = lax.scan(cell, (zero, zero), a)
    return h.swapaxes(0, 1) @ head_w + head_b


def norm(x, scale, shift):
    m = x.mean(-1, keepdims=True)
    v = ((x - m) ** 2).mean(-1, keepdims=True)
    return scale * (x - m) * lax.rsqrt(v + 1e-5) + shift


def block(p, x, heads):
    b, t, d = x.shape
    q, k, v = (
        a.reshape(b, t, heads, d // heads)
        for a in jnp.split(norm(x, p[0], p[1]) @ p[2] + p[3], 3, -1)
    )
    y = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(b, t, d)
    x = x + y @ p[4] + p[5]
    up = jax.nn.gelu(norm(x, p[6], p[7]) @ p[8] + p[9], approximate=False)
    return x + up @ p[10] + p[11]


def gpt(p, token, heads=4):
    x = p[0][token] + p[1][: token.shape[1]]
    for n in range(2, len(p) - 4, 12):
        x = block(p[n : n + 12], x, heads)
    return norm(x, p[-4], p[-3]) @ p[-2] + p[-1]


def gpt2(p, token):
    """In bf16 but for the parameters themselves and the logits."""
    return gpt([a.astype(jnp.bfloat16) for a in p], token, 12).astype(jnp.float32)


NETS = {"mlp": mlp, "cnn": cnn, "rnn": rnn, "lstm": lstm, "gpt": gpt, "gpt2": gpt2}
