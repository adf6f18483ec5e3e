"""Measured values: one record per epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Record:
    """One epoch: its number, the number of steps since the start, measured values, seconds."""

    epoch: int
    step: int
    values: Mapping[str, float]
    seconds: float

    def plain(self) -> dict[str, float]:
        """As an object of `metrics.jsonl`."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            **self.values,
            "seconds": round(self.seconds, 3),
        }

    def line(self, epochs: int | None) -> str:
        """As a line of text."""
        of = f"/{epochs}" if epochs else ""
        width = len(str(epochs or 0))
        parts = [f"epoch {self.epoch:>{width}}{of}"]
        parts += [f"{name} {format_number(value)}" for name, value in self.values.items()]
        return "  ".join([*parts, f"{self.seconds:.1f} s"])


def format_number(value: float) -> str:
    """Four decimals, or scientific notation for small and large numbers."""
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.3e}"
