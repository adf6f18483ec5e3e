"""How far off `nnc verify` lets a number be."""

from __future__ import annotations

TOLERANCE = 1e-5  # of the numbers at work: 80 roundings of f32, which long sums come near to
