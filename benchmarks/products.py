"""Sums of products alone: what they are in nnc's language, in NumPy, and how large.

In: nothing. Out: `PRODUCTS`, each with its text and the shapes of its two factors. PyTorch's side
stands in `peers_torch.py` under the same names.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """`y` of `a` and `b`. `flops` counts two for every multiplication that has an effect."""

    body: str
    a: tuple[int, ...]
    b: tuple[int, ...]
    y: tuple[int, ...]
    flops: int

    @property
    def text(self) -> str:
        """A model that computes nothing else."""
        a, b, y = (", ".join(map(str, shape)) for shape in (self.a, self.b, self.y))
        return f"model Product(a: f32[{a}], b: f32[{b}]) -> y: f32[{y}] {{\n    {self.body}\n}}\n"


N = 128  # the batch of all but the first
PRODUCTS = {
    "square1024": Product(
        "y[i, j] = sum(k) a[i, k] * b[k, j]", (1024, 1024), (1024, 1024), (1024, 1024), 2 * 1024**3
    ),
    "mlp_forward": Product(
        "y[n, o] = sum(i) a[n, i] * b[i, o]", (N, 784), (784, 512), (N, 512), 2 * N * 784 * 512
    ),
    "mlp_data": Product(
        "y[n, i] = sum(o) a[n, o] * b[i, o]", (N, 512), (512, 512), (N, 512), 2 * N * 512 * 512
    ),
    "mlp_weight": Product(
        "y[i, o] = sum(n) a[n, i] * b[n, o]", (N, 784), (N, 512), (784, 512), 2 * N * 784 * 512
    ),
    "cnn_forward": Product(
        "y[n, i, j, o] = sum(u, v, c) a[n, i + u, j + v, c] * b[u, v, c, o]",
        (N, 13, 13, 32), (3, 3, 32, 64), (N, 11, 11, 64), 2 * N * 121 * 288 * 64,
    ),
    "cnn_data": Product(
        "y[n, i < 13, j < 13, c] = sum(u, v, o) (a[n, i - u, j - v, o] else 0) * b[u, v, c, o]",
        (N, 11, 11, 64), (3, 3, 32, 64), (N, 13, 13, 32), 2 * N * 121 * 288 * 64,
    ),
    "cnn_weight": Product(
        "y[u < 3, v < 3, c, o] = sum(n, i, j) a[n, i + u, j + v, c] * b[n, i, j, o]",
        (N, 13, 13, 32), (N, 11, 11, 64), (3, 3, 32, 64), 2 * N * 121 * 288 * 64,
    ),
    "cnn_first": Product(
        "y[n, i, j, o] = sum(u, v, c) a[n, i + u, j + v, c] * b[u, v, c, o]",
        (N, 28, 28, 1), (3, 3, 1, 32), (N, 26, 26, 32), 2 * N * 676 * 9 * 32,
    ),
}  # fmt: skip
