"""Measured values: means over examples, and one record per epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Means:
    """Running means of several numbers, weighted by the number of examples of each run."""

    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0

    def add(self, values: Mapping[str, float], examples: int) -> None:
        # a loss is a mean over its batch: times the examples it is a sum again
        self.count += examples
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value) * examples

    def means(self, prefix: str = "") -> dict[str, float]:
        """The means by name; empty if nothing was added."""
        return {prefix + name: total / self.count for name, total in self.sums.items()}


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
