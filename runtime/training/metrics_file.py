"""`metrics.jsonl` of a run: one JSON object for each record, in order.

In: records. Out: the file, written anew with every checkpoint that comes with a record; a line that
comes without one is added to its end. Going on from a checkpoint writes what that knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from ...dsl.diagnostics.diagnostic import Diagnostic
from ...dsl.files import reason
from .atomic_files import append_text, read_text, write_text
from .metrics import EPOCH, LOG, Record


class MetricsFile:
    """The file at a path, which need not exist yet."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, records: Iterable[Record]) -> None:
        """Replace it by the lines of these. UserError E0709."""
        text = "".join(f"{_line(record)}\n" for record in records)
        write_text(self.path, text, durable=False, own=True)

    def append(self, record: Record) -> None:
        """Add a line. UserError E0709."""
        append_text(self.path, f"{_line(record)}\n")

    def check(self, records: Sequence[Record], lost: bool) -> list[Diagnostic]:
        """A warning if it is missing or not what a run with these records wrote, or, if `lost`,
        tells of a later checkpoint, which is lost then."""
        path, wanted = self.path, [*map(_line, records)]
        again = "it is written again from the checkpoint"
        try:
            found = read_text(path).splitlines()
        except FileNotFoundError:
            # A crash comes between the first checkpoint and the first line.
            missing = len(wanted) > 1
            return [Diagnostic("W0701", f"{path} is missing", help=again)] if missing else []
        except (OSError, ValueError) as error:
            return [Diagnostic("W0701", f"cannot read {path}: {reason(error)}", help=again)]
        common = min(len(found), len(wanted))
        if found[:common] != wanted[:common] or len(found) < len(wanted) - 1:
            return [Diagnostic("W0701", f"{path} is not what the run wrote", help=again)]
        # A checkpoint is written before the line of an epoch or validation, not before others.
        if lost and any(map(_has_checkpoint, found[len(wanted) :])):
            told, known = (sum(map(_has_checkpoint, lines)) for lines in (found, wanted))
            message = f"the last checkpoints of {path.parent} are missing: {path.name} "
            message += f"tells of {told} epochs, and the checkpoints of {known}"
            if any(record.kind for record in records):
                message = message.replace("epochs", "epochs and validations")
            return [Diagnostic("W0701", message, help="what is lost is trained again")]
        return []


def _line(record: Record) -> str:
    """JSON has no NaN or infinity: they become null."""
    plain: Mapping[str, Any] = {
        name: None if isinstance(value, float) and not isfinite(value) else value
        for name, value in record.plain().items()
    }
    return json.dumps(plain, allow_nan=False)


def _has_checkpoint(line: str) -> bool:
    """Whether a line was written after its checkpoint."""
    try:
        return bool(json.loads(line).get("kind", EPOCH) != LOG)
    except (ValueError, AttributeError, RecursionError):
        return False  # a part of a line, whose writer was killed
