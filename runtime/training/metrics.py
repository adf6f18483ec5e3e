"""Measured values: a record for every epoch, and those between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...dsl.records import record

# the kinds of records: at the end of an epoch, and what there may be within one
EPOCH, VALIDATION, LOG = "", "validation", "log"


@record
class Record:
    """What was measured in an epoch, or in a part of it: the number of the epoch, the number of
    steps since the start, values, seconds since the epoch began. What was measured in training is
    of the whole epoch, or of its examples since the record before. Records of an EPOCH and of a
    VALIDATION have the sets that were held out, too, and are compared with each other."""

    epoch: int
    step: int
    values: Mapping[str, float]
    seconds: float
    kind: str = EPOCH

    def plain(self) -> dict[str, Any]:
        """As an object of `metrics.jsonl`."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            **({"kind": self.kind} if self.kind else {}),
            **self.values,
            "seconds": round(self.seconds, 3),
        }


def format_number(value: float) -> str:
    """Four decimals, or scientific notation for small and large numbers."""
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.3e}"
