"""Sums of products alone: what they are in nnc's language, and how large.

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


@dataclass(frozen=True)
class Convolution:
    """A convolution of images [batch, size, size, inputs] that keeps their size: zeros around."""

    batch: int
    size: int
    inputs: int
    filters: int
    window: int

    def products(self) -> dict[str, Product]:
        """The result, the gradient of the images, and that of the kernel, by their names."""
        n, s, c, o, w = self.batch, self.size, self.inputs, self.filters, self.window
        images, results, kernel = (n, s, s, c), (n, s, s, o), (w, w, c, o)
        flops = 2 * n * c * o * valid_pairs(s, w) ** 2
        forward = "y[n, i < {s}, j < {s}, o] = sum(u, v, c) {x} * b[u, v, c, o]"
        data = "y[n, i < {s}, j < {s}, c] = sum(u, v, o) {d} * b[u, v, c, o]"
        weight = "y[u < {w}, v < {w}, c, o] = sum(n, i, j) {x} * b[n, i, j, o]"
        parts = {"s": s, "w": w, "x": moved("+", "c", w), "d": moved("-", "o", w)}
        name = f"conv{s}_{c}_{o}_{w}x{w}"
        return {
            f"{name}_forward": Product(forward.format(**parts), images, kernel, results, flops),
            f"{name}_data": Product(data.format(**parts), results, kernel, images, flops),
            f"{name}_weight": Product(weight.format(**parts), images, results, kernel, flops),
        }


def moved(sign: str, channel: str, window: int) -> str:
    """The element of `a` under the window's element (u, v), 0 outside of the image."""
    if window == 1:
        return f"a[n, i, j, {channel}]".replace("i, j", f"i {sign} u, j {sign} v")
    back = "-" if sign == "+" else "+"
    i, j = (f"{x} {sign} {y} {back} {window // 2}" for x, y in ("iu", "jv"))
    return f"(a[n, {i}, {j}, {channel}] else 0)"


def valid_pairs(size: int, window: int) -> int:
    """Along one side: the pairs of a place and a window's element that meet inside the image."""
    return sum(0 <= i + u - window // 2 < size for i in range(size) for u in range(window))


# Those of ResNet-50 that keep the image's size: He et al. 2016, arXiv:1512.03385, table 1.
RESNET50 = (
    Convolution(8, 56, 64, 64, 3), Convolution(8, 28, 128, 128, 3),
    Convolution(8, 14, 256, 256, 3), Convolution(8, 7, 512, 512, 3),
    Convolution(8, 56, 64, 256, 1), Convolution(8, 14, 1024, 256, 1),
    Convolution(8, 7, 2048, 512, 1),
)  # fmt: skip
CONVOLUTIONS = {name: p for conv in RESNET50 for name, p in conv.products().items()}

N = 128  # the batch of all but the first
SINGLE = {
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
    "mlp_scores": Product(
        "y[n, o] = sum(i) a[n, i] * b[i, o]", (N, 512), (512, 10), (N, 10), 2 * N * 512 * 10
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
PRODUCTS = {**SINGLE, **CONVOLUTIONS}
