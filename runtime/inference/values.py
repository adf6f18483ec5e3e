"""Single values of results as texts, on a terminal and in files."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """exp(x) / sum of exp(x) along the last axis, without overflow."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def one_line(text: str) -> str:
    """A text on one line of a terminal, without characters that it obeys."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def number_text(value: Any) -> str:
    """`0.1` for the f32 that is nearest to it; `true`, `nan`, `inf`."""
    return str(value).lower()


def plain_value(value: Any) -> Any:
    """As JSON has it; what is not finite, which JSON lacks, is null."""
    if isinstance(value, np.ndarray):
        return [plain_value(part) for part in value]
    if value.dtype.kind != "f":
        return value.item()
    number = float(str(value))
    return number if isfinite(number) else None
