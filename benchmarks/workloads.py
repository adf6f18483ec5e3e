"""What is measured: which model, which sizes, training or predicting.

In: names from the command line. Out: `Workload`s, and the initial weights in the form that peers
take them in. Nothing here imports nnc or a peer.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import products

FOLDER = Path(__file__).parent
RATE = 1e-3  # of Adam, everywhere


@dataclass(frozen=True)
class Workload:
    """`model` names a file of this folder; `edits` replace parts of its text, to change a size.
    `kind` is `train`, `predict`, or `product` (then `model` names one of `products.PRODUCTS`).
    `dropout` is the probability that the program states."""

    name: str
    model: str
    batch: int = 1
    kind: str = "train"
    edits: tuple[tuple[str, str], ...] = ()
    dropout: float = 0.0

    @property
    def text(self) -> str:
        """The program."""
        text = (FOLDER / f"{self.model}.nn").read_text()
        for old, new in self.edits:
            if old not in text:
                raise ValueError(f"{self.model}.nn has no {old!r}")
            text = text.replace(old, new)
        return text

    @property
    def wide(self) -> bool:
        """Whether it is one of the networks of `wide/`."""
        return self.model.startswith("wide/")

    def without_dropout(self) -> Workload:
        """The same without chance, so that the losses of systems can be compared."""
        return replace(self, dropout=0.0, edits=(*self.edits, (f"{self.dropout})", "0.0)")))

    def plain(self) -> dict:
        return asdict(self)

    @staticmethod
    def of(plain: dict) -> Workload:
        return Workload(**{**plain, "edits": tuple(map(tuple, plain["edits"]))})


TRAINING = (
    Workload("mlp32", "mlp", 32), Workload("mlp128", "mlp", 128),
    Workload("cnn32", "cnn", 32), Workload("cnn128", "cnn", 128),
    Workload("rnn", "rnn", 32), Workload("lstm", "lstm", 32), Workload("gpt", "gpt", 12),
)  # fmt: skip
DROPOUT = {"bnmlp": 0.2, "encoder": 0.1}


def _wide(path: Path) -> Workload:
    """A training step with the batch that the program states."""
    batch = re.search(r"batch *= *(\d+)", path.read_text()).group(1)
    name = path.stem
    return Workload(name, f"wide/{name}", int(batch), dropout=DROPOUT.get(name, 0.0))


WIDE = tuple(_wide(path) for path in sorted((FOLDER / "wide").glob("*.nn")))
PREDICTING = tuple(
    Workload(f"{name}_predict{batch}", model, batch, "predict")
    for name, model in (
        *((name, name) for name in ("mlp", "cnn", "gpt")),
        *((wide.name, wide.model) for wide in WIDE),
    )
    for batch in (1, 32)
)
PRODUCTS = tuple(Workload(name, name, 1, "product") for name in products.SINGLE)
CONVOLUTIONS = tuple(Workload(name, name, 1, "product") for name in products.CONVOLUTIONS)
ALL = {w.name: w for w in (*TRAINING, *WIDE, *PREDICTING, *PRODUCTS, *CONVOLUTIONS)}
TINY = (
    replace(ALL["mlp32"], name="mlp_tiny", batch=4, edits=(("512", "16"),)),
    Workload("rnn_tiny", "rnn", 2, edits=(("B, 64", "B, 5"), ("256", "8"), ("128", "6"))),
    replace(ALL["mlp_predict1"], name="mlp1_tiny", edits=(("512", "16"),)),
)  # to test this harness, not to measure anything
GROUPS = {
    "training": TRAINING,
    "wide": WIDE,
    "predicting": PREDICTING,
    "products": PRODUCTS,
    "convolutions": CONVOLUTIONS,
    "tiny": TINY,
}  # what `run.py --only` takes besides single names


def sweep() -> dict[str, list[tuple[int, Workload]]]:
    """How cost grows: by what is varied, its values and the workloads."""
    widths = (128, 256, 512, 1024, 2048)
    return {
        "mlp, batch": [(b, Workload(f"mlp{b}", "mlp", b)) for b in (2**n for n in range(13))],
        "mlp of batch 128, width": [
            (w, Workload(f"mlp128w{w}", "mlp", 128, edits=(("512", str(w)),))) for w in widths
        ],
        "cnn, batch": [(b, Workload(f"cnn{b}", "cnn", b)) for b in (8, 32, 128, 512)],
        "rnn, T": [
            (t, Workload(f"rnn_t{t}", "rnn", 32, edits=(("B, 64", f"B, {t}"),)))
            for t in (16, 64, 256)
        ],
        "gpt of 4096 tokens, T": [(t, _long_gpt(t)) for t in (64, 256, 1024, 2048, 4096, 8192)],
    }


def _long_gpt(length: int) -> Workload:
    edits = ((", 64", f", {length}"), ("LearnedPositions(64)", f"LearnedPositions({length})"))
    return Workload(f"gpt_t{length}", "gpt", max(1, 4096 // length), edits=edits)


def canonical(model: str, weights: list[np.ndarray]) -> list[np.ndarray]:
    """nnc's parameters, in the order of their declaration, as the peers take them: matrices
    [in, out] with all gates, or all of queries, keys and values, side by side."""
    if model in ("rnn", "lstm"):
        return [w.reshape(len(w), -1) if w.ndim == 3 else w for w in weights[:3]] + [
            weights[3].reshape(-1),
            *weights[4:],
        ]
    return _gpt(weights) if model in ("gpt", "gpt2", "wide/gpt384") else weights


def _gpt(weights: list[np.ndarray]) -> list[np.ndarray]:
    """Two tables; 12 tensors for each block; norm and head."""
    found = weights[:2]
    for start in range(2, len(weights) - 4, 16):
        block = weights[start : start + 16]
        width = len(block[2])
        found += block[:2]
        found.append(np.concatenate([w.reshape(width, -1) for w in block[2:8:2]], 1))
        found.append(np.concatenate([b.reshape(-1) for b in block[3:8:2]]))
        found += [block[8].reshape(-1, width), *block[9:]]
    return found + weights[-4:]
