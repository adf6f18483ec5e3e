"""The same models in TensorFlow: a tf.function for the whole step, with and without XLA.

In: a workload and a file with data and nnc's first weights. Out: runners as in `nnc_side.py`.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before the import, or it is not heard

import numpy as np
import tensorflow as tf
from workloads import RATE, Workload, canonical

HEADS = 4


def runner(workload: Workload, path: Path, threads: int, compiled: bool):
    """A runner for the workload."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    arrays = dict(np.load(path))
    names = sorted(n for n in arrays if n.startswith("weight"))
    given = canonical(workload.model, [arrays[n] for n in names])
    fields = [tf.constant(a) for n, a in arrays.items() if not n.startswith("weight")]
    make = TrainingRunner if workload.kind == "train" else PredictingRunner
    return make(NETS[workload.model], given, fields, compiled)


class TrainingRunner:
    """Cross entropy and Adam, by the fused operation that Keras used before version 3."""

    def __init__(self, net, given: list[np.ndarray], fields: list[tf.Tensor], compiled: bool):
        self.net, self.given, (self.x, self.target) = net, given, fields
        self.p, self.m, self.v = ([tf.Variable(w) for w in given] for _ in range(3))
        self.t = tf.Variable(1.0)
        self.compiled = tf.function(self.compute, jit_compile=compiled)
        self.reset()

    def compute(self) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = self.net(self.p, self.x)
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(self.target, logits)
            )
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, self.p)]
        powers = 0.9**self.t, 0.999**self.t
        for p, m, v, g in zip(self.p, self.m, self.v, gradients, strict=True):
            tf.raw_ops.ResourceApplyAdam(
                var=p.handle,
                m=m.handle,
                v=v.handle,
                beta1_power=powers[0],
                beta2_power=powers[1],
                lr=RATE,
                beta1=0.9,
                beta2=0.999,
                epsilon=1e-8,
                grad=g,
            )
        self.t.assign_add(1.0)
        return loss

    def step(self) -> None:
        self.last = self.compiled()

    def loss(self) -> float:
        return float(self.last)

    def reset(self) -> None:
        for p, m, v, w in zip(self.p, self.m, self.v, self.given, strict=True):
            p.assign(w)
            m.assign(np.zeros_like(w))
            v.assign(np.zeros_like(w))
        self.t.assign(1.0)


class PredictingRunner:
    """The model's result."""

    def __init__(self, net, given: list[np.ndarray], fields: list[tf.Tensor], compiled: bool):
        p = [tf.Variable(w) for w in given]
        self.x = fields[0]
        self.net = tf.function(lambda x: net(p, x), jit_compile=compiled)

    def step(self) -> None:
        self.last = self.net(self.x)

    def loss(self) -> float:
        return float(tf.reduce_mean(tf.abs(self.last)))

    def reset(self) -> None:
        """Nothing changes."""


# --- models ---------------------------------------------------------------------------------------


def linear(x: tf.Tensor, w: tf.Variable, b: tf.Variable) -> tf.Tensor:
    if x.shape.rank == 2:
        return tf.nn.bias_add(x @ w, b)
    flat = tf.nn.bias_add(tf.reshape(x, (-1, x.shape[-1])) @ w, b)
    return tf.reshape(flat, (*x.shape[:-1], w.shape[1]))


def mlp(p, x):
    x = tf.nn.relu(linear(x, *p[:2]))
    return linear(tf.nn.relu(linear(x, *p[2:4])), *p[4:])


def cnn(p, x):
    for number in range(3):
        k, b = p[2 * number : 2 * number + 2]
        x = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, k, 1, "VALID"), b))
        if number < 2:
            x = tf.nn.max_pool2d(x, 2, 2, "VALID")
    x = tf.nn.relu(linear(tf.reshape(x, (x.shape[0], -1)), *p[6:8]))
    return linear(x, *p[8:])


def rnn(p, token):
    a = tf.unstack(linear(tf.gather(p[0], token), p[1], p[3]), axis=1)
    h, found = tf.zeros((token.shape[0], p[2].shape[0])), []
    for now in a:
        h = tf.tanh(now + h @ p[2])
        found.append(h)
    return linear(tf.stack(found, 1), *p[4:])


def lstm(p, token):
    a = tf.unstack(linear(tf.gather(p[0], token), p[1], p[3]), axis=1)
    h = c = tf.zeros((token.shape[0], p[2].shape[0]))
    found = []
    for now in a:
        i, f, g, o = tf.split(now + h @ p[2], 4, -1)
        c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
        h = tf.sigmoid(o) * tf.tanh(c)
        found.append(h)
    return linear(tf.stack(found, 1), *p[4:])


def norm(x, scale, shift):
    m, v = tf.nn.moments(x, [-1], keepdims=True)
    return scale * (x - m) * tf.math.rsqrt(v + 1e-5) + shift


def block(p, x):
    b, t, d = x.shape
    qkv = tf.reshape(linear(norm(x, *p[:2]), *p[2:4]), (b, t, 3, HEADS, d // HEADS))
    q, k, v = tf.unstack(tf.transpose(qkv, (2, 0, 3, 1, 4)))
    score = tf.matmul(q, k, transpose_b=True) * (d // HEADS) ** -0.5
    hidden = tf.constant(np.triu(np.full((t, t), -1e9, np.float32), 1))
    y = tf.transpose(tf.nn.softmax(score + hidden) @ v, (0, 2, 1, 3))
    x = x + linear(tf.reshape(y, (b, t, d)), *p[4:6])
    return x + linear(tf.nn.gelu(linear(norm(x, *p[6:8]), *p[8:10])), *p[10:])


def gpt(p, token):
    x = tf.gather(p[0], token) + p[1][: token.shape[1]]
    for n in range(2, len(p) - 4, 12):
        x = block(p[n : n + 12], x)
    return linear(norm(x, *p[-4:-2]), *p[-2:])


NETS = {"mlp": mlp, "cnn": cnn, "rnn": rnn, "lstm": lstm, "gpt": gpt}
